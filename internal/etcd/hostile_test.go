package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const (
	goodHeader = `"header":{"cluster_id":"1","member_id":"2","revision":"9","raft_term":"1"}`
	goodStatus = `{` + goodHeader + `,"version":"3.4.23","leader":"2"}`
)

// fake answers requests for a path. Its status is good if it has no other.
type fake map[string]http.HandlerFunc

func (f fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/v3/")
	switch handler := f[path]; {
	case handler != nil:
		handler(w, r)
	case path == statusPath:
		io.WriteString(w, goodStatus)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// says answers with a status and a text.
func says(status int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, text)
	}
}

// hangs begins an answer that never ends.
func hangs(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // or the server does not see that the client has gone
		io.WriteString(w, text)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
}

// endless repeats a text without an end.
func endless(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for text := strings.Repeat(text, 1000); ; {
			if _, err := io.WriteString(w, text); err != nil {
				return
			}
		}
	}
}

// pipes is a listener in memory, for virtual time.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p pipes) Close() error   { close(p.closed); return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{} }

// virtually calls f in virtual time, with a client of these servers; nil refuses connections.
func virtually(t *testing.T, config Config, servers []http.Handler, f func(t *testing.T, c *Client)) {
	synctest.Test(t, func(t *testing.T) {
		listeners := map[string]pipes{}
		for i, handler := range servers {
			address := fmt.Sprintf("etcd%d:2379", i)
			config.Endpoints = append(config.Endpoints, "http://"+address)
			if handler == nil {
				continue
			}
			listener := pipes{make(chan net.Conn), make(chan struct{})}
			listeners[address] = listener
			server := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0)}
			go server.Serve(listener)
			defer server.Close()
		}
		config.Dial = func(ctx context.Context, _, address string) (net.Conn, error) {
			listener, up := listeners[address]
			if !up {
				return nil, errors.New("connection refused")
			}
			ours, theirs := net.Pipe()
			select {
			case listener.conns <- theirs:
				return ours, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		c, err := New(config)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		f(t, c)
	})
}

func TestNonsense(t *testing.T) {
	txn := func(ctx context.Context, c *Client) error {
		_, err := c.Txn(ctx, []Op{{Key: "a/b", Value: []byte("v")}})
		return err
	}
	read := func(ctx context.Context, c *Client) error { _, _, err := c.Range(ctx, "a/"); return err }
	alive := func(ctx context.Context, c *Client) error { _, err := c.KeepAlive(ctx, 7); return err }
	grant := func(ctx context.Context, c *Client) error { _, err := c.Grant(ctx, time.Second); return err }
	watch := func(ctx context.Context, c *Client) error { return c.Watch(ctx, "a/", 5, func(int64, []KV) {}) }
	const created = `{"result":{` + goodHeader + `,"created":true}}`
	for name, test := range map[string]struct {
		path   string
		answer http.HandlerFunc
		ask    func(context.Context, *Client) error
		want   error
	}{
		"version":         {statusPath, says(200, strings.Replace(goodStatus, "3.4.23", "3.3.27", 1)), txn, ErrUnavailable},
		"no version":      {statusPath, says(200, strings.Replace(goodStatus, "3.4.23", "four", 1)), txn, ErrUnavailable},
		"no cluster":      {statusPath, says(200, `{"version":"3.4.23"}`), txn, ErrUnavailable},
		"endless status":  {statusPath, endless(" "), txn, ErrUnavailable},
		"no gateway":      {"kv/txn", nil, txn, ErrUnavailable},
		"no JSON":         {"kv/range", says(200, "hello"), read, ErrUnavailable},
		"no answer":       {"kv/range", says(200, ""), read, ErrUnavailable},
		"array":           {"kv/range", says(200, `[]`), read, ErrUnavailable},
		"number":          {"kv/range", says(200, `{"header":{"revision":9}}`), read, ErrUnavailable},
		"endless":         {"kv/range", endless(`x`), read, ErrUnavailable},
		"nested":          {"kv/range", says(200, strings.Repeat(`{"header":`, 20000)), read, ErrUnavailable},
		"empty keys":      {"kv/range", says(200, `{`+goodHeader+`,"kvs":[`+strings.Repeat("{},", 1<<15)+`{}]}`), read, ErrUnavailable},
		"other keys":      {"kv/range", says(200, `{`+goodHeader+`,"kvs":[{"key":"Yg==","mod_revision":"3"}]}`), read, ErrUnavailable},
		"unsorted":        {"kv/range", says(200, `{`+goodHeader+`,"kvs":[{"key":"YS9i","mod_revision":"3"},{"key":"YS9h","mod_revision":"3"}]}`), read, ErrUnavailable},
		"the same again":  {"kv/range", says(200, `{`+goodHeader+`,"more":true,"kvs":[{"key":"YS9i","mod_revision":"3"}]}`), read, ErrUnavailable},
		"from the future": {"kv/range", says(200, `{`+goodHeader+`,"kvs":[{"key":"YS9i","mod_revision":"10"}]}`), read, ErrUnavailable},
		"other cluster":   {"kv/range", says(200, strings.Replace(`{`+goodHeader+`}`, `"1"`, `"3"`, 1)), read, ErrOtherCluster},
		"redirect":        {"kv/range", http.RedirectHandler("/v3/"+statusPath, http.StatusTemporaryRedirect).ServeHTTP, read, ErrUnavailable},
		"server error":    {"kv/range", says(500, "oh"), read, ErrUnavailable},
		"endless error":   {"kv/range", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500); endless("x")(w, r) }, read, ErrUnavailable},
		"hangs":           {"kv/range", hangs(""), read, ErrUnavailable},
		"hangs within":    {"kv/range", hangs(`{` + goodHeader), read, ErrUnavailable},
		"short": {"kv/range", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9")
			io.WriteString(w, "{}")
		}, read, ErrUnavailable},
		"compacted":         {"kv/range", says(400, `{"error":"x","message":"etcdserver: mvcc: required revision has been compacted","code":11}`), read, ErrCompacted},
		"newer gateway":     {"kv/range", says(403, `{"code":7,"message":"etcdserver: permission denied","details":[]}`), read, ErrDenied},
		"common name":       {"kv/txn", says(400, "CommonName of client sending a request against gateway will be ignored and not used as expected"), txn, ErrDenied},
		"no space":          {"kv/txn", says(429, `{"error":"x","message":"etcdserver: mvcc: database space exceeded","code":8}`), txn, ErrNoSpace},
		"txn hangs":         {"kv/txn", hangs(""), txn, ErrUnknown},
		"txn nothing":       {"kv/txn", says(200, `{}`), txn, ErrUnknown},
		"txn responses":     {"kv/txn", says(200, `{`+goodHeader+`,"succeeded":true}`), txn, ErrUnknown},
		"txn other key":     {"kv/txn", says(200, `{`+goodHeader+`,"responses":[{"response_range":{"kvs":[{"key":"YQ==","mod_revision":"3"}]}}]}`), txn, ErrUnknown},
		"txn timed out":     {"kv/txn", says(503, `{"error":"x","message":"etcdserver: request timed out","code":14}`), txn, ErrUnknown},
		"txn no leader":     {"kv/txn", says(503, `{"error":"x","message":"etcdserver: no leader","code":14}`), txn, ErrUnavailable},
		"txn too large":     {"kv/txn", endless(`x`), txn, ErrUnknown},
		"no lease":          {"lease/grant", says(200, `{`+goodHeader+`,"TTL":"4"}`), grant, ErrUnavailable},
		"lease error":       {"lease/grant", says(200, `{"ID":"-4","TTL":"x"}`), grant, ErrUnavailable},
		"other lease":       {"lease/keepalive", says(200, `{"result":{"ID":"8","TTL":"9"}}`), alive, ErrUnavailable},
		"lost lease":        {"lease/keepalive", says(200, `{"result":{"ID":"7"}}`), alive, ErrLeaseLost},
		"long lease":        {"lease/keepalive", says(200, `{"result":{"ID":"7","TTL":"9223372036854775807"}}`), alive, ErrUnavailable},
		"no result":         {"lease/keepalive", says(200, `{}`), alive, ErrUnavailable},
		"stream's error":    {"lease/keepalive", says(200, `{"error":{"grpc_code":5,"message":"etcdserver: requested lease not found"}}`), alive, ErrLeaseLost},
		"watch hangs":       {"watch", hangs(""), watch, ErrUnavailable},
		"watch not created": {"watch", hangs(`{"result":{` + goodHeader + `}}`), watch, ErrUnavailable},
		"watch ends":        {"watch", says(200, created), watch, ErrUnavailable},
		"watch compacted":   {"watch", says(200, created+`{"result":{"canceled":true,"compact_revision":"8"}}`), watch, ErrCompacted},
		"watch denied":      {"watch", says(200, `{"result":{"created":true,"canceled":true,"cancel_reason":"rpc error: code = PermissionDenied desc = etcdserver: permission denied"}}`), watch, ErrDenied},
		"watch no leader":   {"watch", says(200, created+`{"error":{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader"}}`), watch, ErrUnavailable},
		"watch too early":   {"watch", hangs(created + `{"result":{"events":[{"kv":{"key":"YS9i","mod_revision":"4"}}]}}`), watch, ErrUnavailable},
		"watch unsorted":    {"watch", hangs(created + `{"result":{"events":[{"kv":{"key":"YS9i","mod_revision":"7"}},{"kv":{"key":"YS9i","mod_revision":"6"}}]}}`), watch, ErrUnavailable},
		"watch other key":   {"watch", hangs(created + `{"result":{"events":[{"kv":{"key":"YQ==","mod_revision":"7"}}]}}`), watch, ErrUnavailable},
		"watch empty event": {"watch", hangs(created + `{"result":{"events":[{}]}}`), watch, ErrUnavailable},
		"watch odd event":   {"watch", hangs(created + `{"result":{"events":[{"type":"MOVE","kv":{"key":"YS9i","mod_revision":"7"}}]}}`), watch, ErrUnavailable},
		"watch endless":     {"watch", endless(`x`), watch, ErrUnavailable},
		"watch long":        {"watch", endless(` `), watch, ErrUnavailable},
		"watch silent":      {"watch", hangs(created), watch, ErrUnavailable}, // and no range answers
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := fake{}
			if test.answer != nil {
				f[test.path] = test.answer
			}
			virtually(t, Config{}, []http.Handler{f}, func(t *testing.T, c *Client) {
				err := test.ask(t.Context(), c)
				if !errors.Is(err, test.want) {
					t.Errorf("%v, want %v", err, test.want)
				}
				if test.want == ErrUnknown && errors.Is(err, ErrUnavailable) {
					t.Errorf("%v says that nothing was changed", err)
				}
				if err != nil && len(err.Error()) > 1000 {
					t.Errorf("an error of %d bytes", len(err.Error()))
				}
			})
		})
	}
}

// TestFragments: a revision is told of when all of it is there, and has an end.
func TestFragments(t *testing.T) {
	var told []string
	w := &watch{e: &endpoint{}, prefix: "a/", tell: func(revision int64, changes []KV) {
		told = append(told, fmt.Sprint(revision, len(changes)))
	}}
	message := func(more bool, revisions ...int64) *watchAnswer {
		m := &watchAnswer{Fragment: more}
		for _, revision := range revisions {
			m.Events = append(m.Events, event{KV{Key: "a/b", Value: make([]byte, 1<<20), Revision: revision}})
		}
		return m
	}
	for _, m := range []*watchAnswer{message(true, 3, 4, 4), message(true, 4), message(false, 4, 5), message(false, 6)} {
		if f := w.take(m); f != nil {
			t.Fatal(f.text(nil))
		}
	}
	if want := []string{"3 1", "4 4", "5 1", "6 1"}; !slices.Equal(told, want) {
		t.Errorf("%q, want %q", told, want)
	}
	for range 2*maxAnswer>>20 - 1 { // the keys count, too
		if f := w.take(message(true, 7)); f != nil {
			t.Fatal(f.text(nil))
		}
	}
	if f := w.take(message(true, 7)); f == nil {
		t.Error("an endless revision")
	}
	if f := w.take(message(false, 6)); f == nil {
		t.Error("revisions go back")
	}
}

// TestNext: what certainly was not done is done at the next endpoint; what may have been done
// is not.
func TestNext(t *testing.T) {
	made := says(200, `{`+goodHeader+`,"succeeded":true,"responses":[{"response_put":{}}]}`)
	for name, test := range map[string]struct {
		first http.Handler
		want  error
	}{
		"refused":       {nil, nil},
		"no gateway":    {fake{}, nil},
		"no leader":     {fake{"kv/txn": says(503, `{"message":"etcdserver: no leader","code":14}`)}, nil},
		"busy":          {fake{"kv/txn": says(429, `{"message":"etcdserver: too many requests","code":8}`)}, nil},
		"old":           {fake{statusPath: says(200, strings.Replace(goodStatus, "3.4", "3.3", 1)), "kv/txn": made}, nil},
		"hangs early":   {fake{statusPath: hangs("")}, nil},
		"other cluster": {fake{statusPath: says(200, strings.Replace(goodStatus, `"1"`, `"3"`, 1)), "kv/txn": says(500, "asked")}, nil},
		"hangs":         {fake{"kv/txn": hangs("")}, ErrUnknown},
		"cuts":          {fake{"kv/txn": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }}, ErrUnknown},
		"proxy":         {fake{"kv/txn": says(502, "bad gateway")}, ErrUnknown},
		"leader lost":   {fake{"kv/txn": says(503, `{"message":"etcdserver: request timed out, possibly due to previous leader failure","code":14}`)}, ErrUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int64
			second := fake{"kv/txn": func(w http.ResponseWriter, r *http.Request) { asked.Add(1); made(w, r) }}
			virtually(t, Config{}, []http.Handler{test.first, second}, func(t *testing.T, c *Client) {
				if name == "other cluster" { // the first to be met says which it is
					if f := c.meet(t.Context(), c.endpoints[1]); f != nil {
						t.Fatal(f.text(nil))
					}
				}
				r, err := c.Txn(t.Context(), []Op{{Key: "a", Value: []byte("1")}})
				if !errors.Is(err, test.want) || r.Made != (test.want == nil) || asked.Load() == 0 != (test.want != nil) {
					t.Errorf("made %v, the second was asked %d times: %v", r.Made, asked.Load(), err)
				}
				// The one that failed is last from now on.
				if r, err = c.Txn(t.Context(), []Op{{Key: "a", Value: []byte("1")}}); !r.Made || err != nil {
					t.Errorf("the second time: made %v, %v", r.Made, err)
				}
			})
		})
	}
}

// TestLargePage: a page that is too large is asked for in smaller ones.
func TestLargePage(t *testing.T) {
	server := fake{"kv/range": func(w http.ResponseWriter, r *http.Request) {
		if text, _ := io.ReadAll(r.Body); bytes.Contains(text, []byte(`"limit":"1000"`)) {
			endless(" ")(w, r)
		}
		io.WriteString(w, `{`+goodHeader+`,"kvs":[{"key":"YS9i","mod_revision":"3"}]}`)
	}}
	virtually(t, Config{}, []http.Handler{server}, func(t *testing.T, c *Client) {
		if kvs, revision, err := c.Range(t.Context(), "a/"); err != nil || len(kvs) != 1 || revision != 9 {
			t.Errorf("%v at %d, %v", kvs, revision, err)
		}
	})
}

// TestHurry: a caller who does not wait for a timeout has the next endpoint the next time.
func TestHurry(t *testing.T) {
	good := fake{"kv/range": says(200, `{`+goodHeader+`}`)}
	virtually(t, Config{}, []http.Handler{fake{"kv/range": hangs("")}, good}, func(t *testing.T, c *Client) {
		for _, want := range []error{context.DeadlineExceeded, nil} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, _, err := c.Range(ctx, "a/"); !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
		}
	})
}

// TestSilentWatch: a watch that keeps changes to itself has broken; one that has none to
// tell of goes on.
func TestSilentWatch(t *testing.T) {
	const newer = `"kvs":[{"key":"YS9i","mod_revision":"9"}]`
	for name, test := range map[string]struct {
		newer, before, after string // what the ranges say
		breaks               bool
	}{
		"changed":    {newer, "1", "1", true},
		"deleted":    {`"kvs":[]`, "2", "1", true},
		"other keys": {`"kvs":[]`, "2", "2", false},
	} {
		t.Run(name, func(t *testing.T) {
			server := fake{"watch": hangs(`{"result":{` + goodHeader + `,"created":true}}`), "kv/range": func(w http.ResponseWriter, r *http.Request) {
				text, _ := io.ReadAll(r.Body)
				answer := test.newer
				switch {
				case bytes.Contains(text, []byte(`"revision":"4"`)):
					answer = `"count":"` + test.before + `"`
				case bytes.Contains(text, []byte(`"revision":"9"`)):
					answer = `"count":"` + test.after + `"`
				}
				io.WriteString(w, `{`+goodHeader+`,`+answer+`}`)
			}}
			virtually(t, Config{}, []http.Handler{server}, func(t *testing.T, c *Client) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				var told []int64
				err := c.Watch(ctx, "a/", 5, func(revision int64, changes []KV) { told = append(told, revision) })
				if broke := ctx.Err() == nil; broke != test.breaks || !errors.Is(err, ErrUnavailable) {
					t.Errorf("%v", err)
				}
				if test.breaks != (len(told) == 0) || len(told) > 0 && slices.Max(told) != 9 {
					t.Errorf("told of %v", told)
				}
			})
		})
	}
}

// TestSecrets: no error has what a server repeats.
func TestSecrets(t *testing.T) {
	repeats := func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `{"code":7,"message":%q}`, "no: "+r.Header.Get("Authorization")+string(text))
	}
	config := Config{User: "m1", Password: func() (string, error) { return "sesame-4711", nil }}
	for name, f := range map[string]fake{
		"password": {"kv/range": repeats, "auth/authenticate": repeats},
		"token":    {"kv/range": repeats, "auth/authenticate": says(200, `{"token":"sesame.4712"}`)},
	} {
		t.Run(name, func(t *testing.T) {
			virtually(t, config, []http.Handler{f}, func(t *testing.T, c *Client) {
				_, _, err := c.Range(t.Context(), "a/")
				if !errors.Is(err, ErrDenied) || strings.Contains(err.Error(), "sesame") {
					t.Errorf("%v", err)
				}
			})
		})
	}
	if _, err := New(Config{Endpoints: []string{"http://user:sesame@host:1"}}); err == nil || strings.Contains(err.Error(), "sesame") {
		t.Errorf("%v", err)
	}
	e, err := newEndpoint("https://"+strings.Repeat("a", 56)+".onion:2379", Config{Dial: new(net.Dialer).DialContext}, time.Second)
	if err != nil || e.name != "aaaaaaaa….onion:2379" {
		t.Errorf("%+v, %v", e, err)
	}
}

// TestOnionIsShort: no error has the whole onion address of an endpoint.
func TestOnionIsShort(t *testing.T) {
	onion := strings.Repeat("abcdefg2", 7)
	c, err := New(Config{Endpoints: []string{"https://" + strings.ToUpper(onion) + ".onion:2379"}, Timeout: time.Millisecond,
		Dial: func(_ context.Context, _, address string) (net.Conn, error) {
			return nil, errors.New("no route to " + address)
		}})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = c.Range(t.Context(), "a/")
	if err == nil || strings.Contains(strings.ToLower(err.Error()), onion) || !strings.Contains(err.Error(), "no route to abcdefg2….onion") {
		t.Errorf("%v", err)
	}
}

func TestNew(t *testing.T) {
	const good = "http://127.0.0.1:2379"
	nothing := func() (string, error) { return "", nil }
	for name, config := range map[string]Config{
		"none":            {},
		"twice":           {Endpoints: []string{good, good}},
		"no port":         {Endpoints: []string{"http://host"}},
		"no scheme":       {Endpoints: []string{"127.0.0.1:2379"}},
		"other scheme":    {Endpoints: []string{"ftp://host:1"}},
		"path":            {Endpoints: []string{good + "/v3"}},
		"query":           {Endpoints: []string{good + "/?a=b"}},
		"relative socket": {Endpoints: []string{"unix:etcd.sock"}},
		"onion":           {Endpoints: []string{"http://aaaa.onion:1"}},
		"no password":     {Endpoints: []string{good}, User: "m1"},
		"no user":         {Endpoints: []string{good}, Password: nothing},
	} {
		if _, err := New(config); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	c, err := New(Config{Endpoints: []string{good, "https://[::1]:2379/", "unix:/run/etcd"}, User: "m1", Password: nothing})
	if err != nil || len(c.Endpoints()) != 3 {
		t.Error(err)
	}
}

func TestPrefix(t *testing.T) {
	for prefix, want := range map[string]string{"": "\x00", "a": "b", "a/": "a0", "a\xff": "b", "\xff\xff": "\x00"} {
		if got := string(end(prefix)); got != want {
			t.Errorf("after %q comes %q, want %q", prefix, got, want)
		}
	}
}

// stub answers whatever is asked for, without a network.
type stub []byte

func (s stub) RoundTrip(r *http.Request) (*http.Response, error) {
	body := []byte(goodStatus)
	if !strings.HasSuffix(r.URL.Path, statusPath) {
		body = s
	}
	status := http.StatusOK
	if len(body) > 0 && body[0] == 'E' {
		status, body = http.StatusBadRequest, body[1:]
	}
	return &http.Response{StatusCode: status, Body: io.NopCloser(bytes.NewReader(body)), Request: r}, nil
}

// FuzzAnswer: whatever a server answers, nothing but sorted keys, whole results and errors
// comes out.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		goodStatus,
		`{` + goodHeader + `,"kvs":[{"key":"YS9i","value":"Yg==","create_revision":"2","mod_revision":"3","version":"1","lease":"7"}],"count":"1"}`,
		`{` + goodHeader + `,"succeeded":true,"responses":[{"response_put":{"header":{"revision":"9"}}},{}]}`,
		`{` + goodHeader + `,"responses":[{"response_range":{"kvs":[{"key":"YS9i","mod_revision":"3"}]}},{"response_range":{}}]}`,
		`{"result":{` + goodHeader + `,"ID":"7","TTL":"9"}}`,
		`{` + goodHeader + `,"ID":"7","TTL":"9"}`,
		`{` + goodHeader + `,"alarms":[{"memberID":"2","alarm":"NOSPACE"}]}`,
		`{"result":{` + goodHeader + `,"created":true}}{"result":{"events":[{"kv":{"key":"YS9i","mod_revision":"7"}},{"type":"DELETE","kv":{"key":"YS9i","mod_revision":"8"}}]}}`,
		`{"result":{` + goodHeader + `,"created":true}}{"result":{"fragment":true,"events":[{"kv":{"key":"YS9i","mod_revision":"7"}}]}}{"result":{"canceled":true,"compact_revision":"3"}}`,
		`E{"error":"etcdserver: permission denied","message":"etcdserver: permission denied","code":7}`,
		`E{"error":{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader"}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		synctest.Test(t, func(t *testing.T) {
			c, err := New(Config{Endpoints: []string{"http://etcd:2379"}, User: "m1", Password: func() (string, error) { return "sesame", nil }})
			if err != nil {
				t.Fatal(err)
			}
			c.endpoints[0].http.Transport = stub(answer)
			ctx := t.Context()
			kvs, revision, _ := c.Range(ctx, "a/")
			for i, kv := range kvs {
				if !strings.HasPrefix(kv.Key, "a/") || i > 0 && kv.Key <= kvs[i-1].Key || kv.Value == nil || kv.Revision > revision {
					t.Errorf("%+v at %d", kvs, revision)
				}
			}
			ops := []Op{{Key: "a/b", Value: []byte("1")}, {Key: "a/c"}}
			if r, err := c.Txn(ctx, ops); err == nil && (r.Revision <= 0 || !r.Made && (len(r.KVs) != 2 || r.KVs[0].Key != "a/b" || r.KVs[1].Key != "a/c")) {
				t.Errorf("%+v", r)
			}
			if id, err := c.Grant(ctx, time.Second); err == nil && id <= 0 {
				t.Errorf("lease %d", id)
			}
			if lasts, err := c.KeepAlive(ctx, 7); err == nil && lasts <= 0 {
				t.Errorf("a lease of %v", lasts)
			}
			last := int64(4)
			err = c.Watch(ctx, "a/", 5, func(revision int64, changes []KV) {
				if revision < last || revision == last && len(changes) > 0 {
					t.Errorf("revision %d after %d", revision, last)
				}
				for _, kv := range changes {
					if kv.Revision != revision || !strings.HasPrefix(kv.Key, "a/") {
						t.Errorf("%+v at %d", kv, revision)
					}
				}
				last = revision
			})
			if err == nil {
				t.Error("a watch ended without an error")
			}
			c.Alarms(ctx)
			c.Status(ctx, "http://etcd:2379")
		})
	})
}
