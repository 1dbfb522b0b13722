package api

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// Lost is the kind of an event of the stream itself: events are missing before the next
// one, so that what is followed has to be listed.
const Lost = "lost"

// events serves GET /v1/events as server-sent events, until the client goes or the daemon
// ends; with follow=false, until there are no more.
func (s *server) events(c *call) error {
	values, err := c.parameters("after", "follow")
	if err != nil {
		return err
	}
	follow := true
	if said, given := values["follow"]; given {
		if follow, err = strconv.ParseBool(said); err != nil {
			return refuse(http.StatusBadRequest, "bad_request", "follow is true or false")
		}
	}
	// A client that comes back asks for the same URL, and says where it was.
	position := values["after"]
	if last := c.r.Header.Get("Last-Event-ID"); last != "" {
		position = last
	}
	after := uint64(0)
	if position != "" {
		if after, err = strconv.ParseUint(position, 10, 64); err != nil {
			return refuse(http.StatusBadRequest, "bad_request", "an event's id is a number, not %q", position)
		}
	}
	select {
	case s.followers <- struct{}{}:
		defer func() { <-s.followers }()
	default:
		return refuse(http.StatusServiceUnavailable, "too_many_followers", "%d clients follow the events already", cap(s.followers))
	}
	f := follower{s: s, c: c, control: http.NewResponseController(c.ResponseWriter), after: after, silent: after == 0}
	f.run(follow)
	return nil
}

// follower is a client that follows the events.
type follower struct {
	s       *server
	c       *call
	control *http.ResponseController
	after   uint64
	silent  bool // about what it cannot have missed, as it follows only now
}

// run writes events. An error is of a client that is gone, or reads nothing.
func (f *follower) run(follow bool) {
	// The server's own deadlines are for answers that end. Not all writers have any.
	_ = f.control.SetReadDeadline(time.Time{})
	f.c.Header().Set("Content-Type", "text/event-stream")
	f.c.WriteHeader(http.StatusOK)
	if f.c.r.Method == http.MethodHead {
		return
	}
	defer f.extend()
	ticker := time.NewTicker(f.s.keepAlive)
	defer ticker.Stop()
	for {
		events, lost, more := f.s.host.Events(f.after)
		if err := f.write(events, lost && !f.silent); err != nil || !follow {
			return
		}
		if f.silent = len(events) == 0 && (lost || f.silent); f.silent {
			f.after = 0 // it goes on with whatever comes, and is told once what it has missed
		}
		select {
		case <-more:
		case <-ticker.C:
			if err := f.say(": still here\n\n"); err != nil {
				return
			}
		case <-f.c.r.Context().Done():
			return
		}
	}
}

// write writes events, and sends them.
func (f *follower) write(events []Event, lost bool) error {
	f.extend()
	if lost {
		if err := f.event(Event{Kind: Lost, Text: "older events are no longer here: list what you follow"}); err != nil {
			return err
		}
	}
	for _, e := range events {
		if err := f.event(e); err != nil {
			return err
		}
		f.after = e.ID
	}
	return f.control.Flush()
}

func (f *follower) event(e Event) error {
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	id := ""
	if e.ID != 0 {
		id = fmt.Sprintf("id: %d\n", e.ID)
	}
	return f.say(fmt.Sprintf("%sevent: %s\ndata: %s\n\n", id, e.Kind, data))
}

// say writes text.
func (f *follower) say(text string) error {
	f.extend()
	_, err := io.WriteString(f.c, text)
	return err
}

// extend gives the client time to read what is written next.
func (f *follower) extend() {
	_ = f.control.SetWriteDeadline(time.Now().Add(f.s.patience))
}
