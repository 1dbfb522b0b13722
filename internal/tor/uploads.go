package tor

import (
	"context"
	"errors"
	"time"

	"onionbalancer/internal/backoff"
	"onionbalancer/internal/tor/control"
)

// A tor may answer on its control port, have a consensus, and still get nothing through:
// its guard drops its circuits, or its network does. It is mute if no upload was
// answered for this long, by this many HSDirs, and another tor's still are: fewer may be
// down themselves. HSDirs that failed while the tor was working do not count, however
// often they are retried. Its services are moved to the others then, so nothing shows
// when it recovers, and it is retried after a while.
const (
	muteAfter    = 5 * time.Minute
	muteHSDirs   = 8
	muteRetry    = 15 * time.Minute
	muteRetryMax = 6 * time.Hour
	maxDead      = 4096 // more than a network has at a time
)

// uploads is the state of the uploads through a tor.
type uploads struct {
	answered  time.Time       // the last that an HSDir answered
	failing   time.Time       // the first that none did since then
	silent    map[string]bool // HSDirs that did not answer since then
	dead      map[string]bool // HSDirs that did not answer though others did
	muteUntil time.Time
	muted     backoff.Backoff // times in a row that it was found mute
}

// Poster posts descriptors through one tor, and records the results for the pool.
type Poster struct{ tor *Tor }

// Poster posts through t.
func (t *Tor) Poster() Poster { return Poster{t} }

// HSPost implements hsdir.Poster.
func (p Poster) HSPost(ctx context.Context, address, hsdir string, body []byte) error {
	begun := time.Now()
	err := p.tor.client.HSPost(ctx, address, hsdir, body)
	if !errors.Is(err, context.Canceled) && !errors.Is(err, control.ErrNotConnected) {
		p.tor.uploaded(begun, time.Now(), hsdir, err)
	}
	return err
}

// uploaded records the result of an upload that began at begun. A refusal is an answer,
// too.
func (t *Tor) uploaded(begun, now time.Time, hsdir string, err error) {
	var failed *control.HSDescError
	t.mu.Lock()
	defer t.mu.Unlock()
	u := &t.uploads
	switch {
	case err == nil, errors.As(err, &failed) && failed.Reason() == "UPLOAD_REJECTED":
		for other := range u.silent {
			u.noteDead(other)
		}
		delete(u.dead, hsdir)
		*u = uploads{answered: now, dead: u.dead}
	case u.dead[hsdir]:
	case begun.Before(u.answered):
		u.noteDead(hsdir)
	case len(u.silent) == 0:
		u.failing, u.silent = now, map[string]bool{hsdir: true}
	default:
		u.silent[hsdir] = true
	}
}

// noteDead has an HSDir not counted until it answers.
func (u *uploads) noteDead(hsdir string) {
	if u.dead == nil || len(u.dead) >= maxDead {
		u.dead = map[string]bool{}
	}
	u.dead[hsdir] = true
}

// findMute decides whether t is mute, given when an upload through any tor was last answered.
func (t *Tor) findMute(now, answered time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	u := &t.uploads
	if len(u.silent) >= muteHSDirs && answered.Sub(u.failing) >= muteAfter {
		u.muted.Policy = backoff.Policy{Min: muteRetry, Max: muteRetryMax}
		u.muteUntil, u.silent = now.Add(u.muted.Next()), nil
	}
}

// answered returns when an upload through one of the tors was last answered.
func (p *Pool) answered() (last time.Time) {
	for _, t := range p.tors {
		t.mu.Lock()
		if t.uploads.answered.After(last) {
			last = t.uploads.answered
		}
		t.mu.Unlock()
	}
	return last
}
