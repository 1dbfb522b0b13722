package apitest

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// workers is how many requests the hammer has in flight.
const workers = 50

// OverSocket is a client of whoever listens at path.
func OverSocket(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: workers,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}
}

// Hammer sends count requests over the socket at path, many at a time, at most rate a
// second (0: as many as it can), and counts the answers by status; 0 is none. A seventh of
// them add a customer.
func Hammer(t *testing.T, path string, count, rate int) map[int]int {
	t.Helper()
	client := OverSocket(path)
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
				method, page, body := anyRequest(n)
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
