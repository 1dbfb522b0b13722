package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const (
	relayA = "$60A3A1B2C3D4E5F60718293A4B5C6D7E8F901234~relay06"
	relayB = "$C9D4A1B2C3D4E5F60718293A4B5C6D7E8F901234~relay07"
	user   = "0123456789abcdef0123456789abcdef"
)

// tail is what tor adds to an event about a user.
func tail(user string) string {
	return ` SOCKS_USERNAME="` + user + `" SOCKS_PASSWORD="-" CLIENT_PROTOCOL=SOCKS5 NYM_EPOCH=0`
}

// asked returns what the last SETEVENTS asked for besides events.
func (f *fakeTor) asked() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, line := range slices.Backward(f.commands) {
		if rest, found := strings.CutPrefix(line, events); found {
			return rest
		}
	}
	return "nothing at all"
}

// heard keeps the events that a follower is told of.
type heard struct {
	mu   sync.Mutex
	list []Traffic
}

func (h *heard) note(e Traffic) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = append(h.list, e)
}

// take empties it.
func (h *heard) take() []Traffic {
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	list := h.list
	h.list = nil
	return list
}

// nothing is for followers whose events do not matter.
func nothing(Traffic) {}

// TestFollow: the events of one's own stream and circuits come, and of nobody else's;
// tor is asked for them only while it must.
func TestFollow(t *testing.T) {
	tor := &fakeTor{}
	withClient(t, tor, Config{Heartbeat: time.Minute}, func(t *testing.T, c *Client) {
		if got := tor.asked(); got != "" {
			t.Errorf("asked for%s from the beginning", got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var first, second heard
		for _, h := range []*heard{&first, &second} {
			if _, err := c.Follow(ctx, Followed{user, addressA, 80}, h.note); err != nil {
				t.Fatal(err)
			}
		}
		if got := tor.asked(); got != " CIRC CIRC_MINOR STREAM" || tor.count("SETEVENTS") != 2 {
			t.Errorf("asked for%s, %d times", got, tor.count("SETEVENTS"))
		}
		target := addressA + ".onion:80"
		for _, line := range []string{
			"STREAM 1 NEW 0 " + target + " SOURCE_ADDR=127.0.0.1:5 PURPOSE=USER" + tail("another"),
			"STREAM 2 NEW 0 " + addressA + ".onion:81 PURPOSE=USER" + tail(user),
			"STREAM 3 NEW 0 " + target + " PURPOSE=USER" + tail(user),
			"STREAM 4 NEW 0 " + target + " PURPOSE=USER" + tail(user),
			"STREAM 5 NEW 0 " + target + " PURPOSE=USER" + tail(user),
			"CIRC 6 LAUNCHED BUILD_FLAGS=IS_INTERNAL PURPOSE=HS_CLIENT_REND HS_STATE=HSCR_CONNECTING",
			"CIRC 7 BUILT " + relayA + "," + relayB + " PURPOSE=HS_CLIENT_INTRO HS_STATE=HSCI_CONNECTING REND_QUERY=" + addressA + tail(user),
			"CIRC_MINOR 7 PURPOSE_CHANGED " + relayA + "," + relayB + " PURPOSE=HS_CLIENT_INTRO HS_STATE=HSCI_INTRO_SENT" + tail(user) + " OLD_PURPOSE=HS_CLIENT_INTRO OLD_HS_STATE=HSCI_CONNECTING",
			"CIRC 8 CLOSED PURPOSE=HS_CLIENT_REND" + tail(user+"x"),
			"STREAM 4 FAILED 9 " + target + " REASON=END REMOTE_REASON=DONE" + tail(user),
			"STREAM", "CIRC", "STREAM 3" + tail(user)[:len(user)+18], `CIRC 7 BUILT SOCKS_USERNAME="` + user,
			"HS_DESC FAILED " + addressA + " NO_AUTH UNKNOWN REASON=NOT_FOUND",
			"HS_DESC FAILED " + addressB + " NO_AUTH UNKNOWN REASON=NOT_FOUND",
		} {
			tor.event("650 " + line + "\r\n")
		}
		last := strings.ToUpper(relayB[1:41])
		circuits := []Traffic{
			{Circuit: "7", Status: "BUILT", Last: last, Purpose: "HS_CLIENT_INTRO", State: "HSCI_CONNECTING"},
			{Circuit: "7", Status: "PURPOSE_CHANGED", Last: last, Purpose: "HS_CLIENT_INTRO", State: "HSCI_INTRO_SENT", OldState: "HSCI_CONNECTING"},
		}
		news := func(n string) Traffic { return Traffic{Stream: n, Status: "NEW", Circuit: "0", Purpose: "USER"} }
		failed := Traffic{Fetch: "FAILED", Reason: "NOT_FOUND"}
		wantFirst := append(append([]Traffic{news("3")}, circuits...), failed)
		wantSecond := append(append([]Traffic{news("4")}, circuits...), Traffic{Stream: "4", Status: "FAILED", Circuit: "9", Reason: "END", Remote: "DONE"}, failed)
		if got := first.take(); !slices.Equal(got, wantFirst) {
			t.Errorf("first: %+v\nwant   %+v", got, wantFirst)
		}
		if got := second.take(); !slices.Equal(got, wantSecond) {
			t.Errorf("second: %+v\nwant    %+v", got, wantSecond)
		}
		cancel()
		synctest.Wait()
		tor.event("650 CIRC 7 CLOSED PURPOSE=HS_CLIENT_REND" + tail(user) + "\r\n")
		if got := first.take(); got != nil {
			t.Errorf("after its context's end: %+v", got)
		}
		time.Sleep(3 * time.Minute)
		if got := tor.asked(); got != "" {
			t.Errorf("minutes after the last follower, tor is still asked for%s", got)
		}
		again, cancel := context.WithCancel(t.Context())
		defer cancel()
		if _, err := c.Follow(again, Followed{user, addressA, 80}, nothing); err != nil || tor.asked() == "" {
			t.Errorf("following again: %v, asked for%s", err, tor.asked())
		}
		time.Sleep(10 * time.Minute)
		if tor.asked() == "" {
			t.Error("tor is not asked any more, though one follows")
		}
	})
}

// TestFollowEnds: with the connection.
func TestFollowEnds(t *testing.T) {
	tor := &fakeTor{}
	withClient(t, tor, Config{}, func(t *testing.T, c *Client) {
		lost, err := c.Follow(t.Context(), Followed{user, addressA, 80}, nothing)
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-lost:
			t.Error("lost with the connection there")
		default:
		}
		tor.die()
		synctest.Wait()
		select {
		case <-lost:
		default:
			t.Error("the connection's end does not show")
		}
		within(t, time.Minute, c.Ready)
		if got := tor.asked(); got != "" {
			t.Errorf("the next connection asks for%s", got)
		}
	})
}

// TestFollowRefused: a filter before the control port may refuse the events.
func TestFollowRefused(t *testing.T) {
	tor := &fakeTor{}
	tor.on("SETEVENTS", func(c *fakeConn, line, _ string) {
		if strings.Contains(line, "STREAM") {
			c.say("510 Command filtered")
			return
		}
		c.say("250 OK")
	})
	withClient(t, tor, Config{}, func(t *testing.T, c *Client) {
		for range 2 {
			_, err := c.Follow(t.Context(), Followed{user, addressA, 80}, nothing)
			var refused *ReplyError
			if !errors.As(err, &refused) || refused.Code != 510 {
				t.Errorf("%v", err)
			}
		}
		if n := tor.count("SETEVENTS"); n != 2 {
			t.Errorf("asked %d times", n)
		}
		if err := c.Signal(t.Context(), "ACTIVE"); err != nil {
			t.Errorf("the connection is lost: %v", err)
		}
	})
}

// TestFollowNobodyAnswers: the wait ends with its context.
func TestFollowNobodyAnswers(t *testing.T) {
	tor := &fakeTor{}
	withClient(t, tor, Config{}, func(t *testing.T, c *Client) {
		tor.on("SETEVENTS", func(*fakeConn, string, string) {})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Follow(ctx, Followed{user, addressA, 80}, nothing); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// FuzzTraffic: whatever a line is, it is read without harm, and what is read has a form.
func FuzzTraffic(f *testing.F) {
	f.Add("7 BUILT "+relayA+","+relayB+" PURPOSE=HS_CLIENT_INTRO HS_STATE=HSCI_CONNECTING"+tail(user), false)
	f.Add("3 FAILED 9 a.onion:80 REASON=END REMOTE_REASON=DONE"+tail(user), true)
	f.Add("7 BUILT $,$ =", false)
	f.Add(`SOCKS_USERNAME="`, true)
	f.Fuzz(func(t *testing.T, line string, stream bool) {
		traffic, target, ok := parseTraffic(line, stream)
		if !ok {
			return
		}
		if traffic.Last != "" && !isHex(traffic.Last) || stream != (traffic.Stream != "") || stream && target == "" || traffic.Status == "" {
			t.Errorf("%q: %+v, %q", line, traffic, target)
		}
		_, _ = socksUser(line)
	})
}

// BenchmarkTraffic is a line of somebody else's circuit on a busy tor.
func BenchmarkTraffic(b *testing.B) {
	s := &session{}
	s.follow.list = []*follower{{Followed: Followed{User: user}}}
	line := fmt.Sprintf("7 BUILT %s,%s,%s PURPOSE=GENERAL TIME_CREATED=2026-01-01T00:00:00.000000%s", relayA, relayB, relayA, tail("somebody"))
	b.ReportAllocs()
	for b.Loop() {
		s.dispatchTraffic("CIRC", line)
	}
}
