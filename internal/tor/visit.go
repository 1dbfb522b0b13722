package tor

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"onionbalancer/internal/health"
	"onionbalancer/internal/tor/control"
)

// lateEvents is how long to wait for the last events of a visit after the SOCKS port's
// answer: they come over another connection, a millisecond later as a rule.
const lateEvents = time.Second

// Dial connects to an onion service through the tor that serves it, or the one that v
// names. The trace
// says how far it came, if there is an error too. Points are those that were tried by
// circuits of this visit, as far as tor's events say so without doubt. ctx bounds it.
func (p *Pool) Dial(ctx context.Context, v health.Visit) (net.Conn, health.Trace, error) {
	t := p.through(v)
	given, err := p.handKey(ctx, t, v.Address)
	conn, trace, dialErr := t.visit(ctx, v, p.socksUser(v))
	if dialErr != nil && trace.Stage == health.NoPoint && given && ctx.Err() == nil {
		// SIGNAL NEWNYM makes tor forget client keys.
		if again, _ := p.giveKey(ctx, t, v.Address); again {
			conn, trace, dialErr = t.visit(ctx, v, p.socksUser(v))
		}
	}
	if dialErr != nil {
		return nil, trace, fmt.Errorf("visiting %s:%d: %w", v.Address.Short(), v.Port, both(dialErr, err))
	}
	return conn, trace, nil
}

// through returns the tor that a visit goes through.
func (p *Pool) through(v health.Visit) *Tor {
	if n := slices.IndexFunc(p.tors, func(t *Tor) bool { return t.name == v.Via }); n >= 0 {
		return p.tors[n]
	}
	return p.For(v.Address)
}

// socksUser names the circuits of a visit to tor, which isolates SOCKS users. It says
// nothing to who does not know the pool's secret.
func (p *Pool) socksUser(v health.Visit) string {
	m := hmac.New(sha256.New, p.secret[:])
	m.Write(v.Address[:])
	m.Write([]byte(v.Circuit))
	return hex.EncodeToString(m.Sum(nil)[:16])
}

// visit is one try of Dial.
func (t *Tor) visit(ctx context.Context, v health.Visit, user string) (net.Conn, health.Trace, error) {
	trace := health.Trace{Via: t.name, Stage: health.NoTor}
	conn, err := t.dialSocks(ctx)
	if err != nil {
		t.answers(false)
		return nil, trace, err
	}
	seen := newPassage()
	followed, cancel := context.WithCancel(ctx)
	defer cancel()
	asked := ctx
	if !v.Patient {
		var refuse context.CancelCauseFunc
		asked, refuse = context.WithCancelCause(ctx)
		defer refuse(nil)
		seen.refused = func() { refuse(errUnknown) }
	}
	host := v.Address.Label()
	lost, noEvents := t.client.Follow(followed, control.Followed{User: user, Address: host, Port: v.Port}, seen.note)
	code, taken, err := socksConnect(asked, conn, user, host+".onion", v.Port)
	if code != noCode && noEvents == nil {
		seen.wait(ctx, lost)
	}
	trace.Points = seen.points()
	t.answers(code == socksSucceeded)
	if code == socksSucceeded && err == nil {
		trace.Stage = health.Connected
		return conn, trace, nil
	}
	_ = conn.Close()
	switch {
	case !taken:
		return nil, trace, err
	case code == socksSucceeded:
		trace.Stage = health.Connected
		return nil, trace, err
	}
	var why error
	if trace.Stage, why = seen.outcome(code); noEvents != nil {
		trace.Stage, why = outcomeOf(code)
	}
	if context.Cause(asked) == errUnknown {
		err = nil // why says it
	}
	return nil, trace, both(why, err)
}

// errUnknown ends a visit whose first introduction point does not know the service.
var errUnknown = errors.New("refused")

// both joins two errors in one line. Either may be nil.
func both(first, second error) error {
	switch {
	case first == nil:
		return second
	case second == nil:
		return first
	}
	return fmt.Errorf("%w: %w", first, second)
}

// wait waits for the stream's last event, unless the connection by which it would come
// is lost.
func (p *passage) wait(ctx context.Context, lost <-chan struct{}) {
	timer := time.NewTimer(lateEvents)
	defer timer.Stop()
	select {
	case <-p.finished:
	case <-lost:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// wellFor is how long a tor that got a visit through is not asked again where its SOCKS
// port is, and whether it can build circuits: with many checks that would be half
// of what they ask.
const wellFor = 10 * time.Second

// port is a SOCKS port by which a visit got through.
type port struct {
	network, address string
	until            time.Time // zero: it is to be asked for
}

// answers notes whether a visit got through.
func (t *Tor) answers(through bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.socks.until = (time.Time{}); through {
		t.socks.until = time.Now().Add(wellFor)
	}
}

// dialSocks connects to the SOCKS port of a tor that can build circuits.
func (t *Tor) dialSocks(ctx context.Context) (net.Conn, error) {
	p, err := t.socksPort(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := new(net.Dialer).DialContext(ctx, p.network, p.address)
	if err != nil {
		return nil, fmt.Errorf("dialling tor's SOCKS port: %w", err)
	}
	return conn, nil
}

// socksPort returns the SOCKS port, if tor can build circuits.
func (t *Tor) socksPort(ctx context.Context) (p port, err error) {
	t.mu.Lock()
	p = t.socks
	t.mu.Unlock()
	if time.Now().Before(p.until) {
		return p, nil
	}
	enough, err := t.client.GetInfo(ctx, "status/enough-dir-info")
	switch {
	case err != nil:
		return p, err
	case strings.TrimSpace(string(enough)) != "1":
		return p, errors.New("tor has not enough directory information yet")
	}
	if p.network, p.address, err = t.Socks(ctx); err != nil {
		return p, err
	}
	t.mu.Lock()
	t.socks.network, t.socks.address = p.network, p.address
	t.mu.Unlock()
	return p, nil
}
