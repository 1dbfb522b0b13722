package hsdir

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// drop takes a task out. One that is under way comes to its end unheard. The
// caller holds p.mu.
func (p *Publisher) drop(t *task) {
	t.dropped = true
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
	if p.tasks[t.place()] == t {
		delete(p.tasks, t.place())
	}
}

// enqueue makes a task ready to start. The caller holds p.mu and calls start.
func (p *Publisher) enqueue(t *task) {
	p.sequence++
	t.sequence = p.sequence
	p.ready = append(p.ready, t)
}

// start starts what may start. The caller holds p.mu.
//
// Slots that clients ask go before reserve ones, and those that never failed
// before those that did. The latter get half of the places at most, so that
// HSDirs that never answer do not keep others waiting.
func (p *Publisher) start() {
	slices.SortFunc(p.ready, func(a, b *task) int {
		return cmp.Or(
			compareBool(a.failures > 0, b.failures > 0),
			compareBool(a.slot.Reserve, b.slot.Reserve),
			cmp.Compare(a.sequence, b.sequence))
	})
	p.ready = slices.DeleteFunc(p.ready, func(t *task) bool {
		if t.dropped {
			return true
		}
		if p.inFlight >= p.cfg.InFlight || p.busy[t.route()] ||
			t.failures > 0 && p.retrying >= max(1, p.cfg.InFlight/2) {
			return false
		}
		p.launch(t)
		return true
	})
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	default:
		return -1
	}
}

// launch begins an upload. The caller holds p.mu.
func (p *Publisher) launch(t *task) {
	again := t.failures > 0
	p.busy[t.route()] = true
	p.inFlight++
	if again {
		p.retrying++
	}
	p.posts.Go(func() {
		began := time.Now()
		err := p.upload(t)
		result := Posted{Slot: t.slot, Err: err, Took: time.Since(began)}

		p.mu.Lock()
		delete(p.busy, t.route())
		p.inFlight--
		if again {
			p.retrying--
		}
		heard := p.settle(t, &result)
		p.start()
		p.mu.Unlock()
		if heard && t.Report != nil {
			t.Report(result)
		}
	})
}

// upload encodes the descriptor for this one slot, and posts it.
func (p *Publisher) upload(t *task) error {
	body, err := t.Encode()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(p.ctx, p.cfg.Patience)
	defer cancel()
	hsdir := Relay{Fingerprint: t.slot.HSDir}.Hex()
	return p.cfg.Poster.HSPost(ctx, t.Address.Label(), hsdir, body)
}

// settle decides what follows upon an upload, fills in the rest of its result,
// and reports whether anybody still wants to know. The caller holds p.mu.
func (p *Publisher) settle(t *task, result *Posted) bool {
	if t.dropped {
		return false
	}
	if result.Err == nil || rejected(result.Err) {
		result.Rejected = result.Err != nil
		p.drop(t)
		return true
	}
	t.failures++
	result.Failures, result.Retry = t.failures, p.backoff(t.failures)
	t.timer = time.AfterFunc(result.Retry, func() { p.again(t) })
	return true
}

// again makes a task ready whose wait is over.
func (p *Publisher) again(t *task) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.dropped || t.timer == nil {
		return
	}
	t.timer = nil
	p.enqueue(t)
	p.start()
}

// backoff is the wait after so many failures in a row.
func (p *Publisher) backoff(failures int) time.Duration {
	wait := p.cfg.Backoff
	for range failures - 1 {
		if wait *= 2; wait >= p.cfg.BackoffMax {
			wait = p.cfg.BackoffMax
			break
		}
	}
	return wait - time.Duration(p.cfg.Random()*float64(wait)/2)
}
