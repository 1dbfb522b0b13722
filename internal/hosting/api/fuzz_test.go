package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"onionbalancer/internal/hosting/api"
	"onionbalancer/internal/hosting/api/apitest"
)

// FuzzHandler: whatever is asked, the answer blames the client or succeeds, an error says
// why, and it is not much longer than the request.
func FuzzHandler(f *testing.F) {
	for _, a := range badRequests {
		f.Add(fmt.Sprintf("%s %s HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", a.method, a.path, len(a.body), a.body))
	}
	for _, page := range []string{"GET /v1/events?after=1", "HEAD /v1/events", "OPTIONS /v1/shards", "GET /v1/customers?after=YQ&limit=3&name=s&shard=s1&state=active",
		"GET /v1/openapi.json", "DELETE /v1/customers/shop", "POST /v1/customers/shop/resume", "GET /v1/../status", "GET //v1//customers", "GET /v1/customers/%00"} {
		f.Add(page + " HTTP/1.1\r\nHost: b\r\nLast-Event-ID: 2\r\nRequest-Id: r\r\n\r\n")
	}
	f.Add("POST /v1/customers HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")
	gone, cancel := context.WithCancel(context.Background())
	cancel() // who follows events does not wait for more
	f.Fuzz(func(t *testing.T, raw string) {
		if len(raw) > 16<<10 {
			return
		}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
		if err != nil || !strings.HasPrefix(r.URL.Path, "/v1/") {
			return
		}
		host := apitest.New(1, "s1")
		if _, _, err := host.Add(t.Context(), "shop", "", "r1"); err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		api.Handler(host).ServeHTTP(w, r.WithContext(gone))
		if w.Code >= 500 || w.Body.Len() > 64<<10+12*len(raw) {
			t.Errorf("status %d, %d bytes", w.Code, w.Body.Len())
		}
		var e api.Error
		if w.Code >= 400 && (json.Unmarshal(w.Body.Bytes(), &e) != nil || e.Code == "" || e.RequestID == "") {
			t.Errorf("status %d, %s", w.Code, w.Body)
		}
	})
}
