package credential

import (
	"context"
	"crypto/ed25519"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/event"
)

// crowd counts who of many custodians is asked to certify at once.
type crowd struct {
	mu        sync.Mutex
	now, most int
}

// add returns how many there were at most.
func (c *crowd) add(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now += n
	c.most = max(c.most, c.now)
	return c.most
}

// crowded is a custodian that shares a slow token with others.
type crowded struct {
	*slowKeys
	crowd *crowd
}

func (c crowded) Certify(ctx context.Context, p descriptor.Period, signing ed25519.PublicKey, expiries descriptor.Expiries) (descriptor.HourlyCertificates, error) {
	c.crowd.add(1)
	defer c.crowd.add(-1)
	time.Sleep(time.Second)
	return c.slowKeys.Certify(ctx, p, signing, expiries)
}

// TestGate: a hundred services share a token that takes a second for each two of them, longer
// for all than a call may take. Each waits for its turn, none fails, and none is said to be slow.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crowd, gates := new(crowd), NewGates()
		const services, places = 100, 2
		desks := make([]*desk, services)
		for i := range desks {
			d := newDesk(t)
			d.Keeper = New(Keys{Custodian: crowded{d.keys, crowd}, Signing: d.keys, Reference: "r", Gate: Gate{"token", places}}, Env{
				Gates: gates, Record: func(e event.Event) {
					if e.Kind != event.Certified {
						t.Errorf("recorded: %s", e.Text)
					}
				},
				Post: func(f func(time.Time)) {
					d.mu.Lock()
					defer d.mu.Unlock()
					f(time.Now())
				},
			})
			desks[i] = d
			d.Require(time.Now(), d.needs)
		}
		for range 20 {
			time.Sleep(4 * time.Second)
			for _, d := range desks {
				d.mu.Lock()
				d.Warn(time.Now())
				if len(d.failures) > 0 {
					t.Fatalf("failures after waiting: %v", d.failures)
				}
				d.mu.Unlock()
			}
		}
		time.Sleep(services*2/places*time.Second - 20*4*time.Second + time.Second)
		synctest.Wait()
		if most := crowd.add(0); most != places {
			t.Errorf("%d were asked at once, want %d", most, places)
		}
		for i, d := range desks {
			if d.mu.Lock(); len(d.credentials) != 2 {
				t.Errorf("service %d has %d credentials", i, len(d.credentials))
			}
			d.mu.Unlock()
			d.Close()
		}
	})
}

// TestGateEnds: who waits at a gate leaves when the keys are closed, and passes no one by.
func TestGateEnds(t *testing.T) {
	gates, gate := NewGates(), Gate{"disk", 1}
	inside, leave, left := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		left <- gates.within(t.Context(), gate, func() error { close(inside); <-leave; return nil })
	}()
	<-inside
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := gates.within(ctx, gate, func() error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
	other := false
	if err := gates.within(t.Context(), Gate{"token", 1}, func() error { other = true; return nil }); err != nil || !other {
		t.Errorf("at another gate: %v", err)
	}
	close(leave)
	if err := <-left; err != nil {
		t.Error(err)
	}
	if err := gates.within(t.Context(), gate, func() error { return errClosed }); !errors.Is(err, errClosed) {
		t.Errorf("afterwards: %v", err)
	}
}
