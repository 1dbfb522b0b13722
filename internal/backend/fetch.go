package backend

import (
	"context"
	"errors"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/backoff"
)

// ask starts a fetch.
func (s *Set) ask(ctx context.Context, now time.Time, a descriptor.Address, w *watch) {
	every := s.interval(w)
	if w.keys.Period != s.epoch.period {
		var err error
		if w.keys, err = a.Keys(s.epoch.period); err != nil {
			w.update(func(b *Backend) { b.Err, b.Due = err, now.Add(every) })
			return
		}
	}
	keys := w.keys
	var client *descriptor.ClientKey
	if keys := w.clientKeys(); len(keys) > 0 {
		client = keys[w.wrongKeys%len(keys)]
	}
	w.asking = true
	w.update(func(b *Backend) { b.Asking, b.Asked = true, now })
	c, floor := s.consensus, w.now.floor(keys.Period)
	s.fetch.Go(func() {
		result, err := s.cfg.Fetcher.Fetch(ctx, c, keys, client, floor, now)
		if ctx.Err() == nil {
			s.absorb(a, w, keys.Period, result, err)
		}
	})
}

// absorb records the result of one fetch.
func (s *Set) absorb(a descriptor.Address, w *watch, p descriptor.Period, result hsdir.FetchResult, err error) {
	defer s.wake()
	now := s.cfg.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	w.asking = false
	if s.watches[a] != w {
		return // no longer in use
	}
	if p != s.epoch.period {
		w.update(func(b *Backend) { b.Asking, b.Due = false, now }) // the period changed meanwhile
		return
	}
	if errors.Is(err, descriptor.ErrClientKey) {
		w.wrongKeys++
	}
	before := *w.now
	w.update(func(b *Backend) {
		b.Asking, b.Answered = false, now
		b.Finding, b.Err, b.Interval = findingOf(err), err, s.interval(w)
		if b.Finding == Found || b.Finding == NotFound {
			b.Heard = now
		}
		if err != nil {
			b.Failures++
			return
		}
		b.Failures = 0
		s.take(now, w, b, p, result)
	})
	w.update(func(b *Backend) { b.Due = now.Add(w.pause(b.Interval)) })
	after := w.now
	renewed := err == nil && after.newer(&before)
	if renewed {
		w.hurry()
		s.saver.setInstance(a, after.record(result.Raw))
	}
	s.settle(now)
	is, was := after.State(now), before.State(now)
	if is != was {
		s.tell(now, w, is, was)
	}
	other := renewed && (before.Descriptor == nil || before.Period != after.Period || !before.Offer.same(after.Offer))
	if other || is != was || after.Finding != before.Finding || after.Restless != before.Restless {
		s.changed(w)
		return
	}
	for sub := range w.users {
		if sub.waiting.Load() { // for the fetch to end
			sub.wake()
		}
	}
}

// newer reports whether b has another descriptor than before.
func (b *Backend) newer(before *Backend) bool {
	return before.Descriptor == nil || before.Period != b.Period || before.Descriptor.RevisionCounter != b.Descriptor.RevisionCounter
}

// take stores a fetched descriptor as that of b.
func (s *Set) take(now time.Time, w *watch, b *Backend, p descriptor.Period, result hsdir.FetchResult) {
	old := b.Period != p // so are all of its points
	if b.Descriptor == nil || old || b.Descriptor.RevisionCounter != result.Descriptor.RevisionCounter {
		b.Renewed, b.Exact = b.renewed(p, result.Descriptor, s.consensus.Current().RunStart, now)
	}
	b.Descriptor, b.Period, b.Seen = result.Descriptor, p, now
	next := OfferOf(result.Descriptor)
	switch {
	case !old && !b.Offer.same(next) && !w.changes.AllowN(now, 1):
		b.Restless = true
	case w.changes.TokensAt(now) >= 2: // it rested for twice as long as it has to
		b.Restless = false
	}
	at, seen := now, b.Offer.FirstSeen()
	if old {
		if now.Sub(s.dawn) < dawnLasts {
			at = s.dawn
		}
		b.Began, seen = at, nil
	}
	next.Date(seen, at)
	b.Offer = next
	s.rival(b)
}

// pause is the time until an instance is fetched again: about every while it
// answers, and longer while it changes too often.
func (w *watch) pause(every time.Duration) time.Duration {
	if w.now.Restless {
		every = max(every, ChangesEvery)
	}
	if w.now.Failures == 0 {
		w.retry.Reset()
		return backoff.Jitter(every)
	}
	return min(w.retry.Next(), every)
}

// interval is how often an instance is fetched while it answers.
func (s *Set) interval(w *watch) time.Duration {
	shortest := time.Duration(0)
	for sub := range w.users {
		if every := s.every(sub); shortest == 0 || every < shortest {
			shortest = every
		}
	}
	return shortest
}

// every is how often a subscription wants its instances fetched while they answer.
func (s *Set) every(sub *Subscription) time.Duration {
	if sub.every != 0 {
		return sub.every
	}
	every := min(max(fetchShortest, time.Duration(len(s.watches))*fetchRate), fetchLongest)
	if s.consensus != nil && s.consensus.Testing {
		every = min(every, fetchTesting)
	}
	return every
}
