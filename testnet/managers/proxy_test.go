package managers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"onionbalancer/testnet/etcdlab"
)

// proxy is the way from one manager to etcd, with what can be wrong with it.
type proxy struct {
	servers []*httptest.Server

	loseRequests, loseAnswers atomic.Int32 // of the next transactions so many are lost
	delay                     atomic.Int64 // of every request
	late                      atomic.Bool  // transactions that were cut off arrive when the way is mended

	mu  sync.Mutex
	cut chan struct{} // nil while requests and answers get through; closed when they do again
}

func newProxy(endpoints []string) *proxy {
	p := new(proxy)
	for _, e := range endpoints {
		to, err := url.Parse(e)
		if err != nil {
			panic(err)
		}
		reverse := &httputil.ReverseProxy{
			Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(to) },
			FlushInterval: -1,
			ErrorLog:      log.New(io.Discard, "", 0), // what fails is to
			ModifyResponse: func(r *http.Response) error {
				r.Body = &gated{r.Body, p, r.Request.Context()}
				return nil
			},
			ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		}
		p.servers = append(p.servers, httptest.NewServer(p.through(reverse)))
	}
	return p
}

// through has requests reach next as long as nothing is wrong.
func (p *proxy) through(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		txn := strings.HasSuffix(r.URL.Path, "/kv/txn")
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		if txn && p.late.Load() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), time.Hour)
			defer cancel()
			r = r.WithContext(ctx)
		}
		time.Sleep(time.Duration(p.delay.Load()))
		if !p.wait(r.Context()) {
			panic(http.ErrAbortHandler)
		}
		if txn {
			if p.loseRequests.Add(-1) >= 0 {
				panic(http.ErrAbortHandler)
			}
			if p.loseAnswers.Add(-1) >= 0 {
				next.ServeHTTP(httptest.NewRecorder(), r)
				panic(http.ErrAbortHandler)
			}
		}
		next.ServeHTTP(w, r)
	})
}

// wait waits until requests and answers get through, and reports whether they do before
// ctx ends.
func (p *proxy) wait(ctx context.Context) bool {
	p.mu.Lock()
	cut := p.cut
	p.mu.Unlock()
	if cut == nil {
		return true
	}
	select {
	case <-cut:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// setCut cuts the way, without a sign to either end, or mends it.
func (p *proxy) setCut(cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case cut && p.cut == nil:
		p.cut = make(chan struct{})
	case !cut && p.cut != nil:
		close(p.cut)
		p.cut = nil
	}
}

func (p *proxy) endpoints() (list []string) {
	for _, s := range p.servers {
		list = append(list, s.URL)
	}
	return list
}

// breakConnections closes all connections, the watch's too.
func (p *proxy) breakConnections() {
	for _, s := range p.servers {
		s.CloseClientConnections()
	}
}

func (p *proxy) close() {
	p.setCut(false)
	for _, s := range p.servers {
		s.CloseClientConnections()
		s.Close()
	}
}

// gated is an answer that waits while the way is cut.
type gated struct {
	io.ReadCloser
	p   *proxy
	ctx context.Context
}

func (g *gated) Read(b []byte) (n int, err error) {
	n, err = g.ReadCloser.Read(b)
	if !g.p.wait(g.ctx) {
		return 0, g.ctx.Err()
	}
	return n, err
}

// The proxy does what it says: else the faults would be none.
func TestProxy(t *testing.T) {
	lab, err := etcdlab.Start(t.Context(), etcdlab.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer lab.Stop()
	p := newProxy(lab.Endpoints())
	defer p.close()
	client := &http.Client{Timeout: time.Second}
	key := "YQ=="
	// put writes the key if it is not there.
	put := func() (answer string) {
		r, err := client.Post(p.endpoints()[0]+"/v3/kv/txn", "application/json", strings.NewReader(
			fmt.Sprintf(`{"compare":[{"key":%q,"target":"CREATE","createRevision":"0"}],"success":[{"requestPut":{"key":%[1]q,"value":"YQ=="}}]}`, key)))
		if err != nil {
			return "lost"
		}
		defer r.Body.Close()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return "lost"
		}
		var made struct{ Succeeded bool }
		if err := json.Unmarshal(body, &made); err != nil {
			t.Errorf("%s: %v", body, err)
		}
		if made.Succeeded {
			return "made"
		}
		return "not made"
	}
	revision := func() int64 {
		n, err := lab.Revision(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	first := revision()
	p.setCut(true)
	if got := put(); got != "lost" || revision() != first {
		t.Errorf("cut: %s, revision %d", got, revision()-first)
	}
	p.setCut(false)
	p.loseRequests.Store(1)
	if got := put(); got != "lost" || revision() != first {
		t.Errorf("a lost request: %s, revision %d", got, revision()-first)
	}
	p.loseAnswers.Store(1)
	if got := put(); got != "lost" || revision() != first+1 {
		t.Errorf("a lost answer: %s, revision %d", got, revision()-first)
	}
	if got := put(); got != "not made" || revision() != first+1 {
		t.Errorf("the key is there: %s, revision %d", got, revision()-first)
	}
	p.late.Store(true)
	key = "Yg=="
	p.setCut(true)
	if got := put(); got != "lost" || revision() != first+1 {
		t.Errorf("cut again: %s, revision %d", got, revision()-first)
	}
	p.setCut(false)
	for revision() != first+2 { // arrives late
		time.Sleep(10 * time.Millisecond)
	}
}
