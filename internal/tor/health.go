package tor

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"onionbalancer/internal/event"
)

// times are the delays and timeouts of a pool.
type times struct {
	look   time.Duration // between two looks at the tors
	grace  time.Duration // how long a tor may be down before its services move
	settle time.Duration // how long it must be well again before they move back
	poll   time.Duration // between two questions for its consensus, without an event
}

var defaultTimes = times{look: 5 * time.Second, grace: 30 * time.Second, settle: 3 * time.Minute, poll: time.Minute}

// condition is how much a tor can do.
type condition int

const (
	down        condition = iota // not connected
	noConsensus                  // or only an old one
	mute                         // no upload through it is answered
	well
)

func (t *Tor) health(now time.Time) condition {
	if !t.client.State().Connected {
		return down
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case now.After(t.until):
		return noConsensus
	case now.Before(t.uploads.muteUntil):
		return mute
	}
	return well
}

// judgement is a tor's health with a delay, so that a tor that restarts keeps its
// services, and an unstable one does not get them back.
type judgement struct {
	health condition
	since  time.Time // since when the tor's health differs; zero if it does not
	better bool      // whether it is better now
}

// update updates the judgement. best is the best health that any tor of the pool is
// judged to have: a tor that is better than that is used at once.
func (j *judgement) update(now time.Time, is, best condition, times times) {
	if is == j.health {
		j.since = time.Time{}
		return
	}
	if better := is > j.health; j.since.IsZero() || better != j.better {
		j.since, j.better = now, better
	}
	wait := times.grace
	if j.better {
		wait = times.settle
	}
	if now.Sub(j.since) >= wait || is > best {
		j.health, j.since = is, time.Time{}
	}
}

// review decides which tors serve: those with the best health in the pool. While
// all of them are down, all keep their services.
func (p *Pool) review(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	best, answered := p.bestLocked(), p.answered()
	for _, t := range p.tors {
		t.findMute(now, answered)
		t.judged.update(now, t.health(now), best, p.times)
	}
	best = p.bestLocked()
	var list []*Tor
	for _, t := range p.tors {
		if t.judged.health == best {
			list = append(list, t)
		}
	}
	if slices.Equal(list, p.serving) {
		return
	}
	for _, t := range p.tors {
		before, after := slices.Contains(p.serving, t), slices.Contains(list, t)
		switch {
		case before && !after:
			p.tell(slog.LevelWarn, "a tor does not serve, its services move to the others", t, slog.String("error", t.trouble()))
		case after && !before:
			p.tell(slog.LevelInfo, "a tor serves again, its services move back", t)
		}
	}
	p.serving = list
	close(p.changed)
	p.changed = make(chan struct{})
}

// tell records an event of a tor.
func (p *Pool) tell(level slog.Level, text string, t *Tor, attrs ...slog.Attr) {
	p.record(event.Event{At: time.Now(), Kind: event.Tor, Level: level, Text: text, Attrs: append([]slog.Attr{slog.String("tor", t.name)}, attrs...)})
}

func (p *Pool) bestLocked() condition {
	best := down
	for _, t := range p.tors {
		best = max(best, t.judged.health)
	}
	return best
}

// trouble says why the tor does not serve.
func (t *Tor) trouble() string {
	switch t.health(time.Now()) {
	case down:
		return cmp.Or(t.client.State().LastError, "not connected")
	case noConsensus:
		return "it has no consensus, or only an expired one"
	case mute:
		return "no HSDir answers uploads through it, while they answer those through another tor; it is tried again later"
	}
	return "it was in trouble, and is not yet trusted again"
}

// follow records a tor's consensus and guards.
func (p *Pool) follow(ctx context.Context, t *Tor) {
	woken := t.client.Watch(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-woken:
		case <-time.After(p.times.poll):
		}
		if until, err := t.expiry(ctx); err == nil {
			t.mu.Lock()
			t.until = until
			t.mu.Unlock()
			p.review(time.Now())
		}
		if guards, err := t.guardsInUse(ctx); err == nil {
			t.mu.Lock()
			t.guards = guards
			t.mu.Unlock()
			p.compareGuards()
		}
	}
}

// compareGuards warns when two tors use the same guard: that relay then carries
// the traffic of both, and when it fails both lose it. The guards are not
// named, since logs travel.
func (p *Pool) compareGuards() {
	p.mu.Lock()
	defer p.mu.Unlock()
	guards := make(map[*Tor][]string)
	for _, t := range p.tors {
		t.mu.Lock()
		guards[t] = t.guards
		t.mu.Unlock()
	}
	for _, t := range p.tors {
		var same []string
		for _, other := range p.tors {
			shared := func(guard string) bool { return slices.Contains(guards[t], guard) }
			if other != t && slices.ContainsFunc(guards[other], shared) {
				same = append(same, other.name)
			}
		}
		slices.Sort(same)
		t.mu.Lock()
		before := t.sameGuards
		t.sameGuards = same
		t.mu.Unlock()
		if len(same) > 0 && !slices.Equal(before, same) {
			p.tell(slog.LevelWarn, "tors use the same guard: one relay carries the traffic of both", t, slog.Any("others", same))
		}
	}
}
