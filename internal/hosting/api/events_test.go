package api_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"onionbalancer/internal/hosting/api"
	"onionbalancer/internal/hosting/api/apitest"
)

// stream is a client that follows events.
type stream struct {
	response *http.Response
	lines    *bufio.Scanner
}

// follow begins to follow the events of a server.
func follow(t *testing.T, client *http.Client, url string, header ...string) *stream {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(header); n += 2 {
		r.Header.Set(header[n], header[n+1])
	}
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%s, %v", response.Status, response.Header)
	}
	return &stream{response, bufio.NewScanner(response.Body)}
}

// read returns the next event, as "ID KIND", or a comment.
func (s *stream) read(t *testing.T) string {
	t.Helper()
	var id, kind string
	for s.lines.Scan() {
		name, value, _ := strings.Cut(s.lines.Text(), ": ")
		switch name {
		case "id":
			id = value
		case "event":
			kind = value
		case "":
			if value != "" {
				kind = "comment"
			} else {
				return strings.TrimSpace(id + " " + kind)
			}
		}
	}
	return fmt.Sprint("ended: ", s.lines.Err())
}

func (s *stream) want(t *testing.T, want ...string) {
	t.Helper()
	for _, w := range want {
		got := s.read(t)
		for got == "comment" && w != "comment" {
			got = s.read(t)
		}
		if got != w {
			t.Fatalf("got %q, want %q", got, w)
		}
	}
}

// Followers get what was kept and what comes, from where they were, for longer than the
// server's own deadlines, and are told when something is missing.
func TestEvents(t *testing.T) {
	host := apitest.New(9, "s1")
	host.Kept = 4
	server := httptest.NewUnstartedServer(api.HandlerWith(host, 8, 40*time.Millisecond, time.Minute))
	server.Config.ReadTimeout, server.Config.WriteTimeout = 100*time.Millisecond, 100*time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	server.Config.BaseContext = func(net.Listener) context.Context { return ctx }
	server.Start()
	defer server.Close()
	defer cancel()
	add := func(name string) {
		if _, _, err := host.Add(t.Context(), name, "", ""); err != nil {
			t.Fatal(err)
		}
	}
	add("a")
	fresh := follow(t, http.DefaultClient, server.URL)
	fresh.want(t, "1 added", "2 confirmed")
	resumed := follow(t, http.DefaultClient, server.URL, "Last-Event-ID", "1")
	resumed.want(t, "2 confirmed")
	for range 6 { // twice the deadlines
		fresh.want(t, "comment")
	}
	add("b")
	add("c")
	fresh.want(t, "3 added", "4 confirmed", "5 added", "6 confirmed")
	resumed.want(t, "3 added", "4 confirmed", "5 added", "6 confirmed")
	follow(t, http.DefaultClient, server.URL, "Last-Event-ID", "1").want(t, "lost", "3 added")
	follow(t, http.DefaultClient, server.URL, "Last-Event-ID", "2").want(t, "3 added")
	follow(t, http.DefaultClient, server.URL).want(t, "3 added")
	follow(t, http.DefaultClient, server.URL, "Last-Event-ID", "99").want(t, "lost", "3 added")

	cancel() // as the daemon does when it ends
	fresh.want(t, "ended: <nil>")
}

// A client that is gone, and one that reads nothing, leave their places to others.
func TestFollowersLeave(t *testing.T) {
	host := apitest.New(4000, "s1")
	for range 4000 { // more than the socket holds
		if _, _, err := host.Add(t.Context(), "", "", ""); err != nil {
			t.Fatal(err)
		}
	}
	path := serve(t, api.HandlerWith(host, 1, time.Millisecond, 50*time.Millisecond))
	client := apitest.OverSocket(path)
	defer client.CloseIdleConnections()
	for _, leave := range []func(*stream){
		func(s *stream) { s.response.Body.Close() },
		func(*stream) {}, // reads nothing
	} {
		leave(follow(t, client, "http://balancer"))
		for taken := true; taken; {
			response, err := client.Head("http://balancer/v1/events")
			if err != nil {
				t.Fatal(err)
			}
			taken = response.StatusCode != http.StatusOK
			response.Body.Close()
		}
	}
}

func TestClientEvents(t *testing.T) {
	host := apitest.New(9, "s1")
	path := serve(t, api.Handler(host))
	client := api.Client(path)
	if _, _, err := client.Add(t.Context(), "shop", "", ""); err != nil {
		t.Fatal(err)
	}
	var got []string
	take := func(e api.Event) error {
		got = append(got, e.Kind)
		if e.Kind == "suspended" {
			return io.EOF
		}
		return nil
	}
	if err := client.Events(t.Context(), 0, false, take); err != nil || !slices.Equal(got, []string{"added", "confirmed"}) {
		t.Errorf("%q, %v", got, err)
	}
	got = nil
	go func() { _, _ = client.Change(context.Background(), "shop", api.Change{To: "suspended"}) }()
	if err := client.Events(t.Context(), 1, true, take); !errors.Is(err, io.EOF) || !slices.Equal(got, []string{"confirmed", "suspended"}) {
		t.Errorf("followed: %q, %v", got, err)
	}
}

// A follower is told once that something is missing, however long nothing happens then.
func TestLostOnce(t *testing.T) {
	host := apitest.New(9, "s1")
	server := httptest.NewServer(api.HandlerWith(host, 8, 10*time.Millisecond, time.Minute))
	t.Cleanup(server.Close) // when the follower has gone
	s := follow(t, http.DefaultClient, server.URL, "Last-Event-ID", "99")
	s.want(t, "lost", "comment", "comment", "comment")
	if _, _, err := host.Add(t.Context(), "a", "", ""); err != nil {
		t.Fatal(err)
	}
	s.want(t, "1 added", "2 confirmed")
}
