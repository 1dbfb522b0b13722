package api_test

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"onionbalancer/internal/hosting/api"
	"onionbalancer/internal/hosting/api/apitest"
	"onionbalancer/internal/status"
)

// serve serves h as a daemon does, and returns the path of its socket.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "api") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, status.SocketName)
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		if err := status.Serve(ctx, path, slog.New(slog.DiscardHandler), func() status.Snapshot { return status.Snapshot{} }, nil, h); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); group.Wait() })
	for range 500 {
		if _, err := status.Query(ctx, path); err == nil {
			return path
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the socket does not answer")
	return ""
}

// heap returns how much of it is in use, in bytes.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestHammer: each of many requests at a time is answered, none with 500, and little is
// kept of them.
func TestHammer(t *testing.T) {
	count, rate := 1000, 0
	if os.Getenv("BALANCER_SOAK") != "" {
		count, rate = 10_000, 1000
	}
	host := apitest.New(count, "s1", "s2")
	host.Kept = 1000
	path := serve(t, api.Handler(host))
	before, start := heap(), time.Now()
	answers := apitest.Hammer(t, path, count, rate)
	t.Logf("%d requests in %v: %v", count, time.Since(start), answers)
	if answers[0] > 0 || answers[500] > 0 || answers[503] > 0 {
		t.Errorf("unanswered or failed: %v", answers)
	}
	for _, want := range []int{200, 201, 400} {
		if answers[want] < count/50 {
			t.Errorf("only %d answers are %d: the test shows little", answers[want], want)
		}
	}
	if grown := int64(heap()) - int64(before); grown > 32<<20 {
		t.Errorf("the heap has grown by %d MiB", grown>>20)
	}
}
