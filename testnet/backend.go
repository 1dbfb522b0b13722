package testnet

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// maxBulk bounds what one request for bulk data is answered with.
const maxBulk = 1 << 30 // 1 GiB

// backend is the web server behind an onion service. It says its name, and
// serves as many bytes as it is asked for.
type backend struct {
	address  string // host:port
	server   *http.Server
	done     chan struct{}
	requests atomic.Int64
}

// startBackend serves name on a free port:
//
//	/              the name and a line feed
//	/bulk?bytes=N  N bytes
//
// Any other handler can take its place.
func startBackend(name string, handler http.Handler) (*backend, error) {
	l, err := net.Listen("tcp4", host+":0")
	if err != nil {
		return nil, fmt.Errorf("starting the backend of %q: %w", name, err)
	}
	if handler == nil {
		handler = nameHandler(name)
	}
	b := &backend{address: l.Addr().String(), done: make(chan struct{})}
	b.server = &http.Server{
		ReadHeaderTimeout: 30 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b.requests.Add(1)
			handler.ServeHTTP(w, r)
		}),
	}
	go func() {
		defer close(b.done)
		b.server.Serve(l)
	}()
	return b, nil
}

// close drops all connections.
func (b *backend) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if b.server.Shutdown(ctx) != nil {
		b.server.Close()
	}
	<-b.done
}

// nameHandler is what a backend serves by default.
func nameHandler(name string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, name)
	})
	mux.HandleFunc("GET /bulk", func(w http.ResponseWriter, r *http.Request) {
		left, err := strconv.ParseInt(r.FormValue("bytes"), 10, 64)
		if err != nil || left < 0 || left > maxBulk {
			http.Error(w, "bytes: a number up to 1 GiB, please", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Length", strconv.FormatInt(left, 10))
		chunk := make([]byte, 64<<10)
		for left > 0 && err == nil {
			var n int
			n, err = w.Write(chunk[:min(left, int64(len(chunk)))])
			left -= int64(n)
		}
	})
	return mux
}
