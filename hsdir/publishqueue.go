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
	if t.unmake != nil {
		t.unmake()
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
		if t.Slow && t.body == nil {
			return p.make(t)
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
	again, made := t.failures > 0, t.body
	t.body = nil // the next upload has bytes of its own
	p.busy[t.route()] = true
	p.inFlight++
	if again {
		p.retrying++
	}
	p.posts.Go(func() {
		began := time.Now()
		result := UploadResult{Slot: t.slot}
		result.Unmade, result.Err = p.upload(t, made)
		result.Took = time.Since(began)

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

// upload posts the descriptor made for this one slot, or encodes it first. It
// reports whether that is what failed.
func (p *Publisher) upload(t *task, made []byte) (unmade bool, err error) {
	ctx, cancel := context.WithTimeout(p.ctx, p.cfg.Patience)
	defer cancel()
	if made == nil {
		if made, err = t.Encode(ctx); err != nil {
			return true, err
		}
	}
	hsdir := Relay{Fingerprint: t.slot.HSDir}.Hex()
	return false, p.cfg.Poster.HSPost(ctx, t.Address.Label(), hsdir, made)
}

// settle decides what follows upon an upload, fills in the rest of its result,
// and reports whether anybody still wants to know. The caller holds p.mu.
func (p *Publisher) settle(t *task, result *UploadResult) bool {
	if t.dropped {
		return false
	}
	if result.Err == nil || !result.Unmade && rejected(result.Err) {
		result.Rejected = result.Err != nil
		p.drop(t)
		return true
	}
	t.failures++
	result.Failures, result.Retry = t.failures, p.backoff(t.failures, p.cfg.BackoffMax)
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

// backoff is the wait after so many failures in a row, longest at the most.
func (p *Publisher) backoff(failures int, longest time.Duration) time.Duration {
	wait := min(p.cfg.Backoff, longest)
	for range failures - 1 {
		if wait *= 2; wait >= longest {
			wait = longest
			break
		}
	}
	return wait - time.Duration(p.cfg.Random()*float64(wait)/2)
}
