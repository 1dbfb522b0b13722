package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"onionbalancer/internal/hosting"
	"onionbalancer/internal/hosting/api"
	"onionbalancer/internal/hosting/api/apitest"
)

func readDescription(t *testing.T) schema {
	t.Helper()
	var root schema
	if err := json.Unmarshal(api.Description, &root); err != nil {
		t.Fatal(err)
	}
	return root
}

// operations returns the described operations, by "METHOD PATH".
func operations(root schema) map[string]schema {
	list := make(map[string]schema)
	for path, item := range at(root, root, "paths") {
		for method, operation := range item.(schema) {
			if method != "parameters" {
				list[strings.ToUpper(method)+" "+path] = operation.(schema)
			}
		}
	}
	return list
}

// TestDescribedRoutes: what is served is described, and the reverse.
func TestDescribedRoutes(t *testing.T) {
	described := slices.Sorted(maps.Keys(operations(readDescription(t))))
	if served := slices.Sorted(slices.Values(api.Routes())); !slices.Equal(served, described) {
		t.Errorf("served are\n%q\ndescribed are\n%q", served, described)
	}
}

// TestDescribedFields: the fields of answers are described, and the reverse.
func TestDescribedFields(t *testing.T) {
	root := readDescription(t)
	for name, of := range map[string]reflect.Type{
		"Customer": reflect.TypeFor[api.Detail](), "Listed": reflect.TypeFor[hosting.Customer](), "Page": reflect.TypeFor[api.Page](),
		"Shard": reflect.TypeFor[hosting.Shard](), "Shards": reflect.TypeFor[api.ShardList](), "Event": reflect.TypeFor[api.Event](), "Error": reflect.TypeFor[api.Error](),
	} {
		s := at(root, root, "components", "schemas", name)
		all, required := fieldsOf(of)
		var described []string
		for _, name := range s["required"].([]any) {
			described = append(described, name.(string))
		}
		slices.Sort(all)
		if got := slices.Sorted(maps.Keys(at(root, s, "properties"))); !slices.Equal(got, all) {
			t.Errorf("%s: described are\n%q\nthere are\n%q", name, got, all)
		}
		if slices.Sort(required); !slices.Equal(slices.Sorted(slices.Values(described)), required) {
			t.Errorf("%s: described as always there are\n%q\nand so are\n%q", name, described, required)
		}
		if s["additionalProperties"] != false {
			t.Errorf("%s: it may have more", name)
		}
	}
}

// TestDescribedParameters: the handlers say which parameters and fields they know.
func TestDescribedParameters(t *testing.T) {
	root := readDescription(t)
	h := api.Handler(apitest.New(1, "s1"))
	for route, operation := range operations(root) {
		method, path, _ := strings.Cut(route, " ")
		path = fill(path)
		var names []string
		for _, p := range operation["parameters"].([]any) {
			if p := at(root, p.(schema)); p["in"] == "query" {
				names = append(names, p["name"].(string))
			}
		}
		e := failure(t, asked{method: method, path: path + "?bogus=1"}, h)
		if want := fmt.Sprintf("there is no parameter \"bogus\", but %q", names); e.Text != want {
			t.Errorf("%s: %s; described: %s", route, e.Text, want)
		}
		fields := at(root, operation, "requestBody", "content", "application/json", "schema", "properties")
		if method == http.MethodGet || path == "" {
			continue
		}
		e = failure(t, asked{method: method, path: path, body: `{"bogus":""}`}, h)
		if want := fmt.Sprintf("reading the body: there is no field \"bogus\", but %q", slices.Sorted(maps.Keys(fields))); e.Text != want {
			t.Errorf("%s: %s; described: %s", route, e.Text, want)
		}
	}
}

// fill puts names in the place of a path's parameters.
func fill(path string) string {
	return strings.NewReplacer("{customer}", "shop", "{shard}", "s1").Replace(path)
}

func failure(t *testing.T, a asked, h http.Handler) (e api.Error) {
	t.Helper()
	a.status, a.code = http.StatusBadRequest, "bad_request"
	if err := json.Unmarshal(a.check(t, h).Body.Bytes(), &e); err != nil {
		t.Error(err)
	}
	return e
}

// answers holds answers against the description, and counts them.
type answers struct {
	root  schema
	seen  map[string]bool // "METHOD PATH STATUS"
	codes map[string]bool
}

// take checks an answer.
func (s *answers) take(t *testing.T, a asked, w *httptest.ResponseRecorder) {
	t.Helper()
	path, _, _ := strings.Cut(a.path, "?")
	var route string
	var operation schema
	for r, o := range operations(s.root) {
		method, template, _ := strings.Cut(r, " ")
		form := "^" + regexp.MustCompile(`\\\{\w+\\\}`).ReplaceAllString(regexp.QuoteMeta(template), "[^/]+") + "$"
		if method == a.method && regexp.MustCompile(form).MatchString(path) {
			route, operation = r, o
		}
	}
	status := fmt.Sprint(w.Code)
	if w.Code >= 400 {
		var e api.Error
		_ = json.Unmarshal(w.Body.Bytes(), &e)
		s.codes[e.Code] = true
	}
	content := at(s.root, operation, "responses", status, "content")
	if operation == nil {
		content = schema{"application/json": schema{"schema": schema{"$ref": "#/components/schemas/Error"}}}
	}
	s.seen[route+" "+status] = true
	kind := w.Header().Get("Content-Type")
	if content[kind] == nil {
		t.Errorf("%s: %s with %q is not described", a, status, kind)
		return
	}
	bodies := [][]byte{w.Body.Bytes()}
	if kind == "text/event-stream" {
		bodies = nil
		for line := range strings.Lines(w.Body.String()) {
			if data, is := strings.CutPrefix(line, "data: "); is {
				bodies = append(bodies, []byte(data))
			}
		}
	}
	for _, body := range bodies {
		v, err := decoded(body)
		if err == nil {
			err = validate(s.root, at(s.root, content[kind].(schema), "schema"), v)
		}
		if err != nil {
			t.Errorf("%s: %s: %v\n%s", a, status, err, body)
		}
	}
}

// TestDescribedAnswers: what the handlers answer is as described, and each answer that is
// described is one of theirs.
func TestDescribedAnswers(t *testing.T) {
	s := &answers{root: readDescription(t), seen: map[string]bool{}, codes: map[string]bool{}}
	host := apitest.New(3, "s1", "s2")
	h := api.Handler(host)
	do := func(list ...asked) {
		for _, a := range list {
			s.take(t, a, a.ask(t, h))
		}
	}
	do(badRequests...)
	do(asked{method: "POST", path: "/v1/customers", body: `{"name":"shop","request_id":"r1"}`},
		asked{method: "POST", path: "/v1/customers", body: `{"name":"other","request_id":"r1"}`},
		asked{method: "POST", path: "/v1/customers", body: `{"name":"shop","shard":"s2"}`},
		asked{method: "POST", path: "/v1/customers", body: `{"name":"shop"}`},
		asked{method: "POST", path: "/v1/customers", body: `{}`},
		asked{method: "GET", path: "/v1/customers"}, asked{method: "GET", path: "/v1/customers?limit=1"},
		asked{method: "GET", path: "/v1/events?follow=false"}, asked{method: "GET", path: "/v1/shards"}, asked{method: "GET", path: "/v1/openapi.json"})
	for _, step := range []string{"", "/resume", "/suspend", "/move", "/resume"} {
		a := asked{method: "POST", path: "/v1/customers/shop" + step}
		if step == "/move" {
			a.body = `{"shard":"s2"}`
		}
		if step == "" {
			a.method = "GET"
		}
		do(a)
	}
	do(asked{method: "POST", path: "/v1/shards/s1/installed"}, asked{method: "DELETE", path: "/v1/customers/shop"},
		asked{method: "POST", path: "/v1/customers/shop/resume"}, asked{method: "POST", path: "/v1/customers/shop/suspend"},
		asked{method: "POST", path: "/v1/customers/shop/move", body: `{"shard":"s1"}`})
	for range 6 {
		do(asked{method: "POST", path: "/v1/customers"})
	}
	for route := range operations(s.root) { // what can be wrong with each
		method, path, _ := strings.Cut(route, " ")
		path = fill(path)
		do(asked{method: method, path: path + "?bogus"})
		if strings.Contains(path, "shop") {
			do(asked{method: method, path: strings.Replace(path, "shop", "nobody", 1), body: `{"shard":"s1"}`})
		}
		if method != http.MethodGet {
			do(asked{method: method, path: strings.Replace(path, "shop", "nobody", 1)}, asked{method: method, path: path, body: strings.Repeat("x", 5000)},
				asked{method: method, path: path, body: "x", header: []string{"Content-Type", "text/plain"}})
		}
	}
	s.takeFollowers(t, host)
	apart := asked{method: "POST", path: "/v1/customers/shop/move", body: `{"shard":"s1"}`}
	s.take(t, apart, apart.ask(t, api.Handler(apartHost{host})))
	host.Err = errors.New("no space left on device")
	for route := range operations(s.root) {
		if method, path, _ := strings.Cut(route, " "); path != "/v1/events" {
			a := asked{method: method, path: fill(path)}
			if strings.HasSuffix(path, "/move") {
				a.body = `{"shard":"s1"}`
			}
			do(a)
		}
	}
	s.checkAllSeen(t)
}

// apartHost has shards that have nothing in common.
type apartHost struct{ *apitest.Host }

func (apartHost) Change(context.Context, string, api.Change) (api.Detail, error) {
	return api.Detail{}, hosting.ErrApart
}

// takeFollowers follows the events with one client more than there may be.
func (s *answers) takeFollowers(t *testing.T, host *apitest.Host) {
	t.Helper()
	h := api.HandlerWith(host, 1, time.Hour, time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	first := httptest.NewRecorder()
	reading := make(chan struct{})
	group.Go(func() {
		h.ServeHTTP(flushed{first, sync.OnceFunc(func() { close(reading) })}, httptest.NewRequestWithContext(ctx, http.MethodGet, "/v1/events", nil))
	})
	<-reading
	a := asked{method: "GET", path: "/v1/events"}
	s.take(t, a, a.ask(t, h))
	cancel()
	group.Wait()
	s.take(t, a, first)
}

// flushed is a recorder that tells when it was flushed.
type flushed struct {
	*httptest.ResponseRecorder
	tell func()
}

func (f flushed) Flush() { f.tell() }

func (s *answers) checkAllSeen(t *testing.T) {
	t.Helper()
	for route, operation := range operations(s.root) {
		for status := range at(s.root, operation, "responses") {
			if !s.seen[route+" "+status] {
				t.Errorf("%s: no answer was %s", route, status)
			}
		}
	}
	var described []string
	for _, code := range at(s.root, s.root, "components", "schemas", "Error", "properties", "code")["enum"].([]any) {
		described = append(described, code.(string))
	}
	if seen := slices.Sorted(maps.Keys(s.codes)); !slices.Equal(seen, slices.Sorted(slices.Values(described))) {
		t.Errorf("described are the codes\n%q\nanswered were\n%q", described, seen)
	}
}

// TestValidate: the checks of this test find what is wrong.
func TestValidate(t *testing.T) {
	s := schema{"type": "object", "required": []any{"a"}, "additionalProperties": false, "properties": schema{
		"a": schema{"type": "integer", "minimum": 0.0, "maximum": 9.0}, "b": schema{"type": "array", "items": schema{"enum": []any{"x"}}},
		"c": schema{"type": "string", "pattern": "^x$"}, "d": schema{"type": "string", "format": "date-time"},
	}}
	for text, valid := range map[string]bool{
		`{"a":1,"b":["x"],"c":"x","d":"2026-11-20T09:00:00Z"}`: true,
		`{}`: false, `[]`: false, `{"a":1.5}`: false, `{"a":-1}`: false, `{"a":10}`: false, `{"a":"1"}`: false, `{"a":null}`: false,
		`{"a":1,"e":1}`: false, `{"a":1,"b":["y"]}`: false, `{"a":1,"c":"y"}`: false, `{"a":1,"d":"now"}`: false,
	} {
		v, err := decoded([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(s, s, v); (err == nil) != valid {
			t.Errorf("%s: %v", text, err)
		}
	}
	if validate(s, schema{"minLength": 1}, "a") == nil {
		t.Error("a keyword that is not known passes")
	}
}
