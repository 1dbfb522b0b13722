package lab

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestRouter(t *testing.T) {
	var r Router
	r.Serve("a.onion", "b.onion")
	r.Refuse("b.onion")
	for _, c := range []struct {
		host, path string
		status     int
		page       string
	}{
		{"a.onion", "/", http.StatusOK, "a.onion s1a\n"},
		{"a.onion:80", "/", http.StatusOK, "a.onion s1a\n"},
		{"b.onion", "/", http.StatusForbidden, "suspended"},
		{"c.onion", "/", http.StatusMisdirectedRequest, "nobody"},
		{"c.onion", HealthPath, http.StatusOK, "well"},
	} {
		request, answer := httptest.NewRequest(http.MethodGet, c.path, nil), httptest.NewRecorder()
		request.Host = c.host
		r.Replica("s1a").ServeHTTP(answer, request)
		if answer.Code != c.status || !strings.Contains(answer.Body.String(), c.page) {
			t.Errorf("%s%s: %d %q", c.host, c.path, answer.Code, answer.Body)
		}
	}
}
