package api_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
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

// workers is how many requests the hammer has in flight.
const workers = 50

// overSocket is a client of whoever listens at path.
func overSocket(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: workers,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}
}

// hammer sends count requests over the socket at path, each from send, many at a time, at
// most rate a second (0: as many as it can), and counts the answers by status; 0 is none.
func hammer(t *testing.T, path string, count, rate int, send func(n int) (method, page, body string)) map[int]int {
	t.Helper()
	const workers = 50
	client := http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: workers,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}
	defer client.CloseIdleConnections()
	numbers := make(chan int)
	go func() {
		defer close(numbers)
		for n, start := 0, time.Now(); n < count; n++ {
			if rate > 0 {
				time.Sleep(time.Until(start.Add(time.Duration(n) * time.Second / time.Duration(rate))))
			}
			numbers <- n
		}
	}()
	var mu sync.Mutex
	answers := make(map[int]int)
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for n := range numbers {
				method, page, body := send(n)
				got := 0
				r, err := http.NewRequestWithContext(t.Context(), method, "http://balancer"+page, strings.NewReader(body))
				if err == nil {
					r.Header.Set("Content-Type", "application/json")
					var response *http.Response
					if response, err = client.Do(r); err == nil {
						if _, err = io.Copy(io.Discard, response.Body); err == nil {
							got = response.StatusCode
						}
						response.Body.Close()
					}
				}
				if err != nil {
					t.Logf("%s %s: %v", method, page, err)
				}
				mu.Lock()
				answers[got]++
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return answers
}

// anyRequest is what a busy panel, and a broken one, might send.
func anyRequest(n int) (method, page, body string) {
	name := fmt.Sprintf("c%d", rand.IntN(n/4+1))
	switch n % 10 {
	case 0, 1, 2:
		return "POST", "/v1/customers", fmt.Sprintf(`{"name":"c%d","request_id":"r%d"}`, n/4, n)
	case 3:
		return "POST", "/v1/customers/" + name + "/suspend", ""
	case 4:
		return "POST", "/v1/customers/" + name + "/resume", "{}"
	case 5:
		return "DELETE", "/v1/customers/" + name, ""
	case 6:
		return "GET", "/v1/customers?limit=100&name=c1", ""
	case 7:
		return "GET", "/v1/events?follow=false&after=" + fmt.Sprint(max(n-20, 1)), ""
	case 8:
		return "POST", "/v1/customers", `{"name":` + strings.Repeat("[", n%6000)
	}
	return "GET", "/v1/customers/" + name, ""
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
	answers := hammer(t, path, count, rate, anyRequest)
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
