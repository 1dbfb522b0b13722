package control

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Watch returns a channel that wakes its reader when the documents of GetInfo
// may have changed: a new consensus arrived, tor has enough directory
// information, or the connection was made (again). Wakes coalesce: one that was
// not received yet stands for all. With a connection there, the first wake is
// waiting at once. The channel is never closed; it falls silent when ctx ends.
//
// No event tells of microdescriptors. For some seconds after a new consensus
// those of its new relays are still being fetched.
func (c *Client) Watch(ctx context.Context) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := subscribe(ctx, c, c.watchers)
	if c.session != nil {
		ch <- struct{}{}
	}
	return ch
}

// readers are channels that each hold the latest value, until it is
// read. Their client's mutex guards them.
type readers[T any] map[chan T]struct{}

// subscribe adds a reader, until ctx ends. c.mu is held.
func subscribe[T any](ctx context.Context, c *Client, to readers[T]) chan T {
	ch := make(chan T, 1)
	to[ch] = struct{}{}
	context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(to, ch)
	})
	return ch
}

// tell sends a value to all readers, and never blocks. Their client's mutex is held.
func tell[T any](to readers[T], what T) {
	for ch := range to {
		select {
		case <-ch:
		default:
		}
		ch <- what // room was made, and only we send, under the lock
	}
}

// dispatch passes an event on, and never blocks. A malformed one is still well
// framed, so the connection stays.
func (s *session) dispatch(r *reply) {
	switch keyword, rest, _ := strings.Cut(r.lines[0], " "); keyword {
	case "CIRC", "CIRC_MINOR", "STREAM":
		s.dispatchTraffic(keyword, rest)
		return
	}
	e, err := parseEvent(r)
	if err != nil {
		s.log.Debug("malformed event from tor", "error", err)
		return
	}
	if e.hsDesc != nil {
		s.deliver(e.hsDesc)
		s.tellFetch(e.hsDesc)
		return
	}
	c := s.client
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.progress != nil {
		tell(c.progress, *e.progress)
	}
	if e.refresh || e.progress != nil && e.progress.Done() {
		tell(c.watchers, struct{}{})
	}
	if e.skew != 0 {
		c.skew = e.skew
	}
}

// event is one of tor's asynchronous events (control-spec, section 4.1), of
// which at most one field is set: none for events that are ignored.
type event struct {
	hsDesc   *hsDescEvent
	progress *Progress
	skew     time.Duration // how far tor finds the clock ahead, if it does
	// refresh: the directory documents may have changed.
	refresh bool
}

// hsDescEvent is HS_DESC or, with Action "CONTENT", HS_DESC_CONTENT.
type hsDescEvent struct {
	action  string // UPLOADED, FAILED, CONTENT and others
	pair    pair
	reason  string
	content []byte // whole lines; nil when the fetch brought nothing
}

// parseEvent reads an event, whose first line names it.
func parseEvent(r *reply) (event, error) {
	keyword, rest, _ := strings.Cut(r.lines[0], " ")
	var e event
	var err error
	switch keyword {
	case "HS_DESC":
		e.hsDesc, err = parseHSDesc(rest)
	case "HS_DESC_CONTENT":
		e.hsDesc, err = parseHSDescContent(rest, r.document)
	case "STATUS_CLIENT":
		e, err = parseStatusClient(rest)
	case "STATUS_GENERAL":
		e.skew = parseClockSkew(rest)
	}
	if err != nil {
		return event{}, fmt.Errorf("reading %s: %w", keyword, err)
	}
	return e, nil
}

// parseClockSkew reads: severity, "CLOCK_SKEW", SKEW=SECONDS and others
// (control-spec, section 4.1.10). All else gives 0.
func parseClockSkew(text string) time.Duration {
	words := strings.Fields(text)
	if len(words) < 3 || words[1] != "CLOCK_SKEW" {
		return 0
	}
	seconds, _ := strings.CutPrefix(words[2], "SKEW=")
	return parseSkew(seconds)
}

// parseHSDesc reads: action, address, authorization, HSDir, and then perhaps
// the descriptor's blinded key and KEY=VALUE pairs (control-spec, section
// 4.1.25). Uploads come without the blinded key.
func parseHSDesc(text string) (*hsDescEvent, error) {
	words := strings.Fields(text)
	if len(words) < 4 {
		return nil, fmt.Errorf("%d words, want at least 4", len(words))
	}
	e := &hsDescEvent{action: words[0]}
	e.pair = pair{address: strings.ToLower(words[1]), hsdir: fingerprint(words[3])}
	for _, word := range words[4:] {
		if reason, ok := strings.CutPrefix(word, "REASON="); ok {
			e.reason = reason
		}
	}
	return e, nil
}

// parseHSDescContent reads: address, blinded key, HSDir; the document is the
// descriptor (control-spec, section 4.1.26). For a failed fetch tor sends an empty
// line in its place.
func parseHSDescContent(text string, document []byte) (*hsDescEvent, error) {
	words := strings.Fields(text)
	if len(words) < 3 || document == nil {
		return nil, errors.New("want three words and a document")
	}
	e := &hsDescEvent{action: "CONTENT"}
	e.pair = pair{address: strings.ToLower(words[0]), hsdir: fingerprint(words[2])}
	if len(bytes.TrimSpace(document)) > 0 {
		e.content = document
	}
	return e, nil
}

// fingerprint returns the 40 hex digits of $FINGERPRINT~nickname, or
// "" for UNKNOWN and anything else.
func fingerprint(longName string) string {
	name := strings.TrimPrefix(longName, "$")
	if i := strings.IndexAny(name, "~="); i >= 0 {
		name = name[:i]
	}
	if !isHex(name) {
		return ""
	}
	return strings.ToUpper(name)
}

// isHex reports whether s is a relay's fingerprint: 40 hex digits.
func isHex(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == 40
}

// parseStatusClient reads: severity, action, arguments (control-spec, section
// 4.1.10).
func parseStatusClient(text string) (event, error) {
	_, rest, found := strings.Cut(text, " ")
	if !found {
		return event{}, errors.New("no action")
	}
	action, args, _ := strings.Cut(rest, " ")
	switch action {
	case "CONSENSUS_ARRIVED", "ENOUGH_DIR_INFO":
		return event{refresh: true}, nil
	case "BOOTSTRAP":
		p, err := parseBootstrap(args)
		if err != nil {
			return event{}, err
		}
		return event{progress: &p}, nil
	}
	return event{}, nil
}

// Progress is tor's bootstrap progress.
type Progress struct {
	Percent int    // 0 to 100
	Tag     string // a word for programs, such as "conn_dir"
	Summary string // for people
	Warning string // what went wrong last, if anything did
	Reason  string // a word for programs about Warning, such as "CLOCK_SKEW"
	Stuck   bool   // tor thinks that people should be told of Warning
}

// Done reports whether tor can build circuits.
func (p Progress) Done() bool { return p.Percent >= 100 }

// Bootstrap asks tor for its bootstrap progress.
func (c *Client) Bootstrap(ctx context.Context) (Progress, error) {
	value, err := c.GetInfo(ctx, "status/bootstrap-phase")
	if err != nil {
		return Progress{}, err
	}
	e, err := parseStatusClient(string(value))
	if err != nil {
		return Progress{}, fmt.Errorf("reading bootstrap phase: %w", err)
	}
	if e.progress == nil {
		return Progress{}, fmt.Errorf("reading bootstrap phase: no BOOTSTRAP in %.80q", value)
	}
	return *e.progress, nil
}

// WatchBootstrap returns a channel of tor's progress from its events. It
// holds the latest only, is never closed, and gets nothing more once ctx ends.
// Bootstrap returns the progress before.
func (c *Client) WatchBootstrap(ctx context.Context) <-chan Progress {
	c.mu.Lock()
	defer c.mu.Unlock()
	return subscribe(ctx, c, c.progress)
}

// parseBootstrap reads the arguments of BOOTSTRAP: KEY=VALUE, values quoted
// where they have spaces.
func parseBootstrap(args string) (Progress, error) {
	p := Progress{Percent: -1}
	for args = strings.TrimLeft(args, " "); args != ""; args = strings.TrimLeft(args, " ") {
		key, rest, found := strings.Cut(args, "=")
		if !found {
			return p, fmt.Errorf("BOOTSTRAP argument %.40q has no value", args)
		}
		value, err := "", error(nil)
		if strings.HasPrefix(rest, `"`) {
			value, args, err = unquote(rest)
		} else {
			value, args, _ = strings.Cut(rest, " ")
		}
		if err != nil {
			return p, fmt.Errorf("BOOTSTRAP argument %.40q: %w", key, err)
		}
		if err := p.set(key, value); err != nil {
			return p, err
		}
	}
	if p.Percent < 0 {
		return p, fmt.Errorf("BOOTSTRAP without PROGRESS")
	}
	return p, nil
}

func (p *Progress) set(key, value string) error {
	switch key {
	case "PROGRESS":
		n, err := strconv.ParseUint(value, 10, 8)
		if err != nil || n > 100 {
			return fmt.Errorf("BOOTSTRAP with PROGRESS %.20q", value)
		}
		p.Percent = int(n)
	case "TAG":
		p.Tag = value
	case "SUMMARY":
		p.Summary = value
	case "WARNING":
		p.Warning = value
	case "REASON":
		p.Reason = value
	case "RECOMMENDATION":
		p.Stuck = value == "warn"
	}
	return nil
}
