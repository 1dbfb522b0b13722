package hsdir

import (
	"context"
	"time"

	"onionbalancer/descriptor"
)

// unmadeBackoffMax is the longest wait after a slow Encode failed. It is short:
// trying costs the network nothing, and a token that is put back shall be used
// soon.
const unmadeBackoffMax = 30 * time.Second

// maker makes the bytes of the Slow publications of one address, one upload at a
// time. One that hangs holds up nothing but its own address.
type maker struct {
	busy     bool
	failures int         // in a row
	timer    *time.Timer // until it tries again
}

// make begins to make the bytes for a task, unless those of another of its
// address are being made, or the last try failed a moment ago. It reports
// whether it did; then the task is ready again when they are made. The caller
// holds p.mu.
func (p *Publisher) make(t *task) bool {
	m := p.makers[t.Address]
	if m == nil {
		m = new(maker)
		p.makers[t.Address] = m
	}
	if m.busy || m.timer != nil {
		return false
	}
	m.busy = true
	ctx, cancel := context.WithTimeout(p.ctx, p.cfg.Patience)
	t.unmake = cancel
	p.posts.Go(func() {
		defer cancel()
		began := time.Now()
		body, err := t.Encode(ctx)
		result := UploadResult{Slot: t.slot, Err: err, Unmade: true, Took: time.Since(began)}

		p.mu.Lock()
		m.busy, t.unmake = false, nil
		heard := p.made(m, t, body, &result)
		p.start()
		p.mu.Unlock()
		if heard && t.Report != nil {
			t.Report(result)
		}
	})
	return true
}

// made takes in what became of making t's bytes, and reports whether that is a
// failure which somebody wants to know of. The caller holds p.mu and calls start.
func (p *Publisher) made(m *maker, t *task, body []byte, result *UploadResult) bool {
	if t.dropped {
		return false // and says nothing about the key that is used now
	}
	p.ready = append(p.ready, t)
	if result.Err == nil {
		t.body, m.failures = body, 0
		return false
	}
	m.failures++
	result.Failures, result.Retry = m.failures, p.backoff(m.failures, unmadeBackoffMax)
	var timer *time.Timer
	timer = time.AfterFunc(result.Retry, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if m.timer == timer {
			m.timer = nil
			p.start()
		}
	})
	m.timer = timer
	return true
}

// wake ends the wait after a failure to make anything for address. The caller
// holds p.mu and calls start.
func (p *Publisher) wake(address descriptor.Address) {
	if m := p.makers[address]; m != nil && m.timer != nil {
		m.timer.Stop()
		m.timer = nil
	}
}
