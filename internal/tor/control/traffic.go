package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// trafficEvents are those of streams and circuits. A busy tor sends many, so
// they are asked for only while somebody follows.
const trafficEvents = " CIRC CIRC_MINOR STREAM"

// Traffic is an event of a stream, of a circuit or of a descriptor's fetch
// (control-spec, sections 4.1.1, 4.1.2 and 4.1.25) that belongs to who follows.
type Traffic struct {
	Stream  string // number; empty if the event is not of a stream
	Circuit string // number; "0" and empty for none
	// Status is "SENTCONNECT", "SUCCEEDED", "FAILED", "CLOSED" and so on of a stream,
	// "BUILT", "PURPOSE_CHANGED", "CLOSED" and so on of a circuit. Of a fetch it is
	// empty.
	Status string
	Fetch  string // "REQUESTED", "RECEIVED" or "FAILED"

	Last     string // of a circuit's relays, 40 upper-case hex digits
	Purpose  string // of a circuit, such as "HS_CLIENT_REND"
	State    string // HS_STATE, such as "HSCR_JOINED"
	OldState string // before a PURPOSE_CHANGED

	Reason string // why it ended
	Remote string // REMOTE_REASON: what the other end gave as its reason
}

// Followed is what Follow follows.
type Followed struct {
	User    string // the SOCKS user whose circuits and stream
	Address string // 56 characters: the onion service that it connects to
	Port    uint16
}

// follower gets the events of one stream of a SOCKS user, and of all circuits of
// that user.
type follower struct {
	Followed
	target string // of the stream, "ADDRESS.onion:PORT"
	stream string // number; empty until it is new
	note   func(Traffic)
}

// followers are those of a session. Its mutex guards them.
type followers struct {
	list    []*follower
	asked   bool          // whether tor was last asked for traffic
	settled chan struct{} // closed when it has answered to that
	refused error         // its answer, if it refused
	idle    time.Time     // since when nobody follows
}

// Follow tells note the events of one stream, the next that the SOCKS user opens to the
// address and port, and of the user's circuits, until ctx ends or the connection is
// lost, and lost is closed. Several that follow the same get one stream each, in the order
// in which they began. note must return at once: tor's other events wait for it.
func (c *Client) Follow(ctx context.Context, what Followed, note func(Traffic)) (lost <-chan struct{}, err error) {
	s, err := c.current()
	if err != nil {
		return nil, err
	}
	f := &follower{Followed: what, target: fmt.Sprintf("%s.onion:%d", what.Address, what.Port), note: note}
	s.mu.Lock()
	select {
	case <-s.done:
		s.mu.Unlock()
		return nil, s.lost()
	default:
	}
	s.follow.list = append(s.follow.list, f)
	if !s.follow.asked {
		s.follow.asked, s.follow.settled = true, make(chan struct{})
		s.retuneLocked()
	}
	settled := s.follow.settled
	s.mu.Unlock()
	context.AfterFunc(ctx, func() { s.unfollow(f) })
	select {
	case <-settled:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.done:
		return nil, s.lost()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.follow.refused != nil {
		return nil, fmt.Errorf("asking tor for the events of circuits: %w", s.follow.refused)
	}
	return s.done, nil
}

// unfollow ends a follower.
func (s *session) unfollow(f *follower) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.follow.list, f); i >= 0 {
		s.follow.list = slices.Delete(s.follow.list, i, i+1)
	}
	if len(s.follow.list) == 0 {
		s.follow.idle = time.Now()
	}
}

// retuneLocked has the heartbeat's goroutine, the only one that writes to the event
// connection, ask for the events that are wanted now.
func (s *session) retuneLocked() {
	select {
	case s.retune <- struct{}{}:
	default: // it will, and looks at what is wanted only then
	}
}

// wanted returns the command that asks for the events that are wanted now, and what
// to do with tor's answer.
func (s *session) wanted() (command string, answered func(*reply)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.follow.asked {
		return events, func(*reply) {}
	}
	settled := s.follow.settled
	return events + trafficEvents, func(r *reply) {
		s.mu.Lock()
		defer s.mu.Unlock()
		select {
		case <-settled: // asked twice
			return
		default:
		}
		if !r.ok() {
			s.follow.refused = refusal(r.code, r.text())
		}
		close(settled)
	}
}

// relax has tor send no traffic any more, once nobody has followed for a while.
func (s *session) relax(now time.Time, patience time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := &s.follow
	if !f.asked || f.refused != nil || len(f.list) > 0 || now.Sub(f.idle) < patience {
		return
	}
	select {
	case <-f.settled:
		f.asked = false
		s.retuneLocked()
	default: // not answered yet
	}
}

// dispatchTraffic passes a line of CIRC, CIRC_MINOR or STREAM to the followers of its
// user. Most lines are of others, and cost one search.
func (s *session) dispatchTraffic(keyword, line string) {
	user, ok := socksUser(line)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var t Traffic
	parsed, stream := false, keyword == "STREAM"
	for _, f := range s.follow.list {
		if f.User != user {
			continue
		}
		if !parsed {
			var target string
			if t, target, ok = parseTraffic(line, stream); !ok {
				return
			}
			if stream && t.Status == "NEW" {
				s.claimLocked(user, target, t.Stream)
			}
			parsed = true
		}
		if !stream || f.stream == t.Stream {
			f.note(t)
		}
	}
}

// claimLocked gives a new stream to the first follower that waits for one.
func (s *session) claimLocked(user, target, stream string) {
	for _, f := range s.follow.list {
		if f.User == user && f.target == target && f.stream == "" {
			f.stream = stream
			return
		}
	}
}

// tellFetch tells followers of a fetch of the descriptor that they wait for.
func (s *session) tellFetch(e *hsDescEvent) {
	switch e.action {
	case "REQUESTED", "RECEIVED", "FAILED":
	default:
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.follow.list {
		if f.Address == e.pair.address {
			f.note(Traffic{Fetch: e.action, Reason: e.reason})
		}
	}
}

// socksUser returns the SOCKS_USERNAME of an event. Ours need no escapes.
func socksUser(line string) (string, bool) {
	const key = ` SOCKS_USERNAME="`
	_, rest, found := strings.Cut(line, key)
	if !found {
		return "", false
	}
	user, _, found := strings.Cut(rest, `"`)
	return user, found
}

// parseTraffic reads a line of CIRC, CIRC_MINOR or STREAM without the keyword. target
// is that of a stream.
func parseTraffic(line string, stream bool) (t Traffic, target string, ok bool) {
	words := strings.Fields(line)
	switch {
	case stream && len(words) >= 4:
		t.Stream, t.Status, t.Circuit, target = words[0], words[1], words[2], words[3]
		words = words[4:]
	case !stream && len(words) >= 2:
		t.Circuit, t.Status = words[0], words[1]
		words = words[2:]
		if len(words) > 0 && strings.HasPrefix(words[0], "$") {
			t.Last = fingerprint(words[0][strings.LastIndexByte(words[0], ',')+1:])
		}
	default:
		return Traffic{}, "", false
	}
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "PURPOSE":
			t.Purpose = value
		case "HS_STATE":
			t.State = value
		case "OLD_HS_STATE":
			t.OldState = value
		case "REASON":
			t.Reason = value
		case "REMOTE_REASON":
			t.Remote = value
		}
	}
	return t, target, true
}
