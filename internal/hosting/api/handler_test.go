package api_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"onionbalancer/internal/hosting"
	"onionbalancer/internal/hosting/api"
	"onionbalancer/internal/hosting/api/apitest"
)

// asked is a request and what is answered.
type asked struct {
	method, path, body string
	header             []string // names and values
	status             int
	code               string // of an error
}

func (a asked) String() string { return fmt.Sprintf("%s %s %q", a.method, a.path, a.body) }

// ask makes the request, with JSON in its body unless the header says otherwise.
func (a asked) ask(t *testing.T, h http.Handler) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), a.method, a.path, strings.NewReader(a.body))
	r.Header.Set("Content-Type", "application/json")
	for n := 0; n < len(a.header); n += 2 {
		r.Header.Set(a.header[n], a.header[n+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func (a asked) check(t *testing.T, h http.Handler) *httptest.ResponseRecorder {
	t.Helper()
	w := a.ask(t, h)
	var e api.Error
	if w.Code >= 400 {
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Text == "" || e.RequestID == "" || e.RequestID != w.Header().Get("Request-Id") {
			t.Errorf("%s: the error is %s (%v)", a, w.Body, err)
		}
	}
	if w.Code != a.status || e.Code != a.code {
		t.Errorf("%s: status %d %q, want %d %q: %s", a, w.Code, e.Code, a.status, a.code, w.Body)
	}
	return w
}

// badRequests are those that change nothing, with what is answered.
var badRequests = []asked{
	{method: "POST", path: "/v1/customers", body: `{`, status: 400, code: "bad_request"},
	{method: "POST", path: "/v1/customers", body: `[]`, status: 400, code: "bad_request"},
	{method: "POST", path: "/v1/customers", body: `null`, status: 400, code: "bad_request"},
	{method: "POST", path: "/v1/customers", body: `{"name":"a"`, status: 400, code: "bad_request"},
	{method: "POST", path: "/v1/customers", body: `{"name":"a"} {}`, status: 400, code: "bad_request"},
	{method: "POST", path: "/v1/customers", body: `{"Name":"a"}`, status: 400, code: "bad_request"},
	{method: "POST", path: "/v1/customers", body: `{"name":"a","name":"b"}`, status: 400, code: "bad_request"},
	{method: "POST", path: "/v1/customers", body: `{"name":1}`, status: 400, code: "bad_request"},
	{method: "POST", path: "/v1/customers", body: `{"name":null}`, status: 400, code: "bad_request"},
	{method: "POST", path: "/v1/customers", body: `{"name":["a"]}`, status: 400, code: "bad_request"},
	{method: "POST", path: "/v1/customers", body: `{"key":"a"}`, status: 400, code: "bad_request"},
	{method: "POST", path: "/v1/customers", body: `{"request_id":"a b"}`, status: 400, code: "bad_request"},
	{method: "POST", path: "/v1/customers", body: `{"request_id":"a"}`, header: []string{"Request-Id", "b"}, status: 400, code: "bad_request"},
	{method: "POST", path: "/v1/customers?x=1", body: `{}`, status: 400, code: "bad_request"},
	{method: "POST", path: "/v1/customers", body: `{"name":"` + strings.Repeat("a", 5000) + `"}`, status: 413, code: "too_large"},
	{method: "POST", path: "/v1/customers", body: `name=a`, header: []string{"Content-Type", "application/x-www-form-urlencoded"}, status: 415, code: "wrong_content_type"},
	{method: "POST", path: "/v1/customers", body: `{}`, header: []string{"Content-Type", ""}, status: 415, code: "wrong_content_type"},
	{method: "POST", path: "/v1/customers", body: `{"name":"a/b"}`, status: 422, code: "invalid_name"},
	{method: "POST", path: "/v1/customers", body: `{"shard":"s9"}`, status: 404, code: "unknown_shard"},
	{method: "GET", path: "/v1/customers", header: []string{"Request-Id", strings.Repeat("a", 129)}, status: 400, code: "bad_request"},
	{method: "GET", path: "/v1/customers?limit=0", status: 400, code: "bad_request"},
	{method: "GET", path: "/v1/customers?limit=1001", status: 400, code: "bad_request"},
	{method: "GET", path: "/v1/customers?limit=ten", status: 400, code: "bad_request"},
	{method: "GET", path: "/v1/customers?limit=", status: 400, code: "bad_request"},
	{method: "GET", path: "/v1/customers?state=gone", status: 400, code: "bad_request"},
	{method: "GET", path: "/v1/customers?after=!", status: 400, code: "bad_request"},
	{method: "GET", path: "/v1/customers?shard=s1&shard=s2", status: 400, code: "bad_request"},
	{method: "GET", path: "/v1/customers?sort=name", status: 400, code: "bad_request"},
	{method: "GET", path: "/v1/customers?name=%zz", status: 400, code: "bad_request"},
	{method: "GET", path: "/v1/customers?shard=s9", status: 404, code: "unknown_shard"},
	{method: "GET", path: "/v1/customers/nobody", status: 404, code: "unknown_customer"},
	{method: "GET", path: "/v1/customers/a%2Fb", status: 404, code: "unknown_customer"},
	{method: "GET", path: "/v1/customers/nobody?x=1", status: 400, code: "bad_request"},
	{method: "DELETE", path: "/v1/customers/nobody", status: 404, code: "unknown_customer"},
	{method: "POST", path: "/v1/customers/nobody/suspend", status: 404, code: "unknown_customer"},
	{method: "POST", path: "/v1/customers/nobody/suspend", body: `{"shard":"s1"}`, status: 400, code: "bad_request"},
	{method: "POST", path: "/v1/customers/nobody/move", status: 400, code: "bad_request"},
	{method: "POST", path: "/v1/customers/nobody/move", body: `{"shard":"s1"}`, status: 404, code: "unknown_customer"},
	{method: "POST", path: "/v1/shards/s9/installed", status: 404, code: "unknown_shard"},
	{method: "GET", path: "/v1/events?after=x", status: 400, code: "bad_request"},
	{method: "GET", path: "/v1/events?follow=perhaps", status: 400, code: "bad_request"},
	{method: "GET", path: "/v1/events", header: []string{"Last-Event-ID", "-1"}, status: 400, code: "bad_request"},
	{method: "GET", path: "/v1/openapi.json?x", status: 400, code: "bad_request"},
	{method: "GET", path: "/v1/", status: 404, code: "not_found"},
	{method: "GET", path: "/v1/customers/", status: 404, code: "not_found"},
	{method: "GET", path: "/v1/customers/a/keys", status: 404, code: "not_found"},
	{method: "PUT", path: "/v1/customers", status: 405, code: "method_not_allowed"},
	{method: "BREW", path: "/v1/shards", status: 405, code: "method_not_allowed"},
	{method: "GET", path: "/v1/customers/a/suspend", status: 405, code: "method_not_allowed"},
}

func TestBadRequests(t *testing.T) {
	host := apitest.New(3, "s1", "s2")
	h := api.Handler(host)
	for _, a := range badRequests {
		w := a.check(t, h)
		if allow := w.Header().Get("Allow"); (w.Code == http.StatusMethodNotAllowed) != strings.HasSuffix(allow, ", OPTIONS") {
			t.Errorf("%s: Allow: %q", a, allow)
		}
	}
	if events, _, _ := host.Events(0); len(events) != 0 {
		t.Errorf("they have done: %v", events)
	}
}

// What was done before is done once, and answered as before.
func TestRepeated(t *testing.T) {
	host := apitest.New(2, "s1", "s2")
	h := api.Handler(host)
	w := asked{method: "POST", path: "/v1/customers", body: `{"name":"shop","shard":"s2","request_id":"r1"}`, status: 201}.check(t, h)
	first := w.Body.String()
	if w.Header().Get("Request-Id") != "r1" || !strings.HasPrefix(w.Header().Get("Location"), "/v1/customers/") {
		t.Errorf("the header is %v", w.Header())
	}
	for _, a := range []asked{
		{method: "POST", path: "/v1/customers", body: `{"name":"shop"}`, status: 200},
		{method: "POST", path: "/v1/customers", body: `{"name":"shop","shard":"s2"}`, header: []string{"Request-Id", "r1"}, status: 200},
		{method: "POST", path: "/v1/customers", header: []string{"Request-Id", "r1", "Content-Type", ""}, status: 200},
		{method: "POST", path: "/v1/customers/shop/resume", body: `{}`, status: 200},
		{method: "GET", path: w.Header().Get("Location"), status: 200},
	} {
		if got := a.check(t, h).Body.String(); got != first {
			t.Errorf("%s: %s, want %s", a, got, first)
		}
	}
	for _, a := range []asked{
		{method: "POST", path: "/v1/customers", body: `{"name":"shop","shard":"s1"}`, status: 409, code: "name_taken"},
		{method: "POST", path: "/v1/customers", body: `{"name":"blog","request_id":"r1"}`, status: 409, code: "request_id_used"},
		{method: "POST", path: "/v1/customers", body: `{"name":"blog","shard":"s2"}`, status: 201},
		{method: "POST", path: "/v1/customers", body: `{"name":"wiki","shard":"s2"}`, status: 409, code: "no_spare"},
		{method: "POST", path: "/v1/customers/shop/suspend", status: 200},
		{method: "POST", path: "/v1/customers/shop/suspend", body: `{}`, status: 200},
		{method: "POST", path: "/v1/customers/shop/move", body: `{"shard":"s1"}`, status: 200},
		{method: "DELETE", path: "/v1/customers/shop", status: 200},
		{method: "DELETE", path: "/v1/customers/shop", status: 200},
		{method: "POST", path: "/v1/shards/s1/installed", status: 200},
	} {
		a.check(t, h)
	}
	var kinds []string
	events, _, _ := host.Events(0)
	for _, e := range events {
		kinds = append(kinds, e.Customer+" "+e.Kind)
	}
	if got, want := strings.Join(kinds, ", "), "shop added, shop confirmed, blog added, blog confirmed, shop suspended, shop moved, shop removed"; got != want {
		t.Errorf("events: %s", got)
	}
}

// HEAD is answered as GET without a body, and OPTIONS says what there is.
func TestOtherMethods(t *testing.T) {
	server := httptest.NewServer(api.Handler(apitest.New(1, "s1")))
	defer server.Close()
	for _, path := range []string{"/v1/customers", "/v1/shards", "/v1/events", "/v1/openapi.json"} {
		for method, want := range map[string]int{http.MethodHead: 200, http.MethodOptions: 204} {
			r, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			response, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(response.Body)
			response.Body.Close()
			allow := response.Header.Get("Allow")
			if err != nil || response.StatusCode != want || len(body) > 0 || method == http.MethodOptions && !strings.HasPrefix(allow, "GET, HEAD, ") {
				t.Errorf("%s %s: %s, %q, Allow %q, %v", method, path, response.Status, body, allow, err)
			}
		}
	}
}

// A store that fails is none of the client's fault: it is to come again.
func TestFailingStore(t *testing.T) {
	host := apitest.New(1, "s1")
	host.Err = errors.New("storing the customer: no space left on device")
	h := api.Handler(host)
	for _, a := range []asked{
		{method: "POST", path: "/v1/customers"},
		{method: "GET", path: "/v1/customers"},
		{method: "GET", path: "/v1/customers/a"},
		{method: "DELETE", path: "/v1/customers/a"},
		{method: "POST", path: "/v1/customers/a/resume"},
		{method: "POST", path: "/v1/shards/s1/installed"},
	} {
		a.status, a.code = http.StatusServiceUnavailable, "unavailable"
		if w := a.check(t, h); w.Header().Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", a)
		}
	}
}

func TestPages(t *testing.T) {
	host := apitest.New(250, "s1", "s2")
	h := api.Handler(host)
	for n := range 250 {
		asked{method: "POST", path: "/v1/customers", body: fmt.Sprintf(`{"name":"c%03d"}`, n), status: 201}.check(t, h)
	}
	asked{method: "DELETE", path: "/v1/customers/c000", status: 200}.check(t, h)
	asked{method: "POST", path: "/v1/customers/c001/suspend", status: 200}.check(t, h)
	for query, want := range map[string][2]int{ // customers and pages
		"":                         {249, 3},
		"limit=1000":               {249, 1},
		"limit=83":                 {249, 3},
		"state=removed":            {1, 1},
		"state=suspended":          {1, 1},
		"name=c01&limit=9":         {10, 2},
		"shard=s1&limit=60":        {125 - 1, 3}, // the first of all was there
		"state=active&shard=s2":    {125 - 1, 2},
		"name=nobody&state=active": {0, 1},
	} {
		names, pages, after := map[string]bool{}, 0, ""
		for {
			w := asked{method: "GET", path: "/v1/customers?" + query + after, status: 200}.check(t, h)
			var page api.Page
			if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil || page.Customers == nil {
				t.Fatalf("%q: %v: %s", query, err, w.Body)
			}
			pages++
			for _, c := range page.Customers {
				if names[c.Name] {
					t.Errorf("%q: %s twice", query, c.Name)
				}
				names[c.Name] = true
				if c.State == hosting.Removed && query != "state=removed" {
					t.Errorf("%q: %s is removed", query, c.Name)
				}
			}
			if page.Next == "" {
				break
			}
			after = "&after=" + page.Next
		}
		if len(names) != want[0] || pages != want[1] {
			t.Errorf("%q: %d customers on %d pages, want %v", query, len(names), pages, want)
		}
	}
}
