package balance

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/testnet/sim"
)

// ahead is an Uploader that gives one HSDir a higher counter than the others get.
type ahead struct {
	Uploader
	of    *scene
	hsdir *atomic.Pointer[[20]byte] // of nil: none
}

func (a ahead) Upload(u hsdir.Upload) {
	e := a.of.service.state.Editions[u.Period] // the loop, which calls, holds the lock
	held := make(map[[20]byte]*descriptor.Contents)
	for n := range e.slots {
		held[e.slots[n].HSDir] = e.slots[n].holding.Contents
	}
	body := u.Body
	u.Body = func(ctx context.Context, at hsdir.Slot) ([]byte, error) {
		if h := a.hsdir.Load(); h == nil || at.HSDir != *h {
			return body(ctx, at)
		}
		return e.Credential.Encode(ctx, dated(held[at.HSDir], e.Built), e.Revision+1<<33)
	}
	a.Uploader.Upload(u)
}

// Clients drop a lower counter than that of the descriptor they have: one slot that is
// ahead of the others locks those out who read it last, once its points are dead,
// until the next period. Without the slot ahead none is lost. So the other tests of one
// counter are worth something.
func TestLowerCounterLocksOut(t *testing.T) {
	t.Parallel()
	for _, broken := range []bool{false, true} {
		onScene(t, sim.Config{Seed: 62, Tor: sim.TorConfig{ConsensusDelay: 2 * time.Minute}}, func(t *testing.T, s *scene) {
			s.stop()
			wrong := new(atomic.Pointer[[20]byte])
			s.prepare = func() {
				x := ahead{s.env.Uploads(descriptor.Address{}), s, wrong}
				s.env.Uploads = func(descriptor.Address) Uploader { return x }
			}
			time.Sleep(time.Until(time.Now().Truncate(24 * time.Hour).Add(9*time.Hour + 10*time.Minute)))
			s.start()
			s.settle(time.Minute)
			c, err := s.watcher.Consensus()
			if err != nil {
				t.Fatal(err)
			}
			s.service.mu.Lock()
			asked := s.service.state.Editions[c.CurrentPeriod()].slots[0].HSDir
			s.service.mu.Unlock()
			if broken {
				wrong.Store(&asked)
				s.service.Reconfigure(s.configWith("another")) // for an edition with the slot ahead
				s.settle(time.Minute)
				wrong.Store(nil)
			}
			clients := s.readers(asked, 4)
			for _, i := range s.instances {
				i.ReplacePoints()
			}
			s.settle(16 * time.Minute) // clients do not ask an HSDir again that was silent a quarter of an hour ago
			lost := func(visits int) (lost int) {
				for range visits {
					for _, client := range clients {
						if r := client.Request(); r.Err != nil {
							lost++
						}
					}
					s.settle(10 * time.Minute)
				}
				return lost
			}
			want := 0
			if broken {
				want = 4 * 8
			}
			if n := lost(8); n != want {
				t.Errorf("one slot ahead: %v; %d of 32 visits lost, want %d", broken, n, want)
			}
			s.settle(time.Until(time.Now().Truncate(24 * time.Hour).Add(14 * time.Hour))) // clients have the next period
			if n := lost(2); n > 0 {
				t.Errorf("one slot was ahead: %v; %d of 8 visits lost in the next period", broken, n)
			}
		})
	}
}

// readers returns clients that have read the descriptor from one HSDir.
func (s *scene) readers(from [20]byte, n int) (clients []*sim.Client) {
	only := s.net.Relay(hsdir.Relay{Fingerprint: from}.Hex())
	relays := slices.DeleteFunc(s.net.Relays(), func(r *sim.Relay) bool { return r == only })
	for _, r := range relays {
		r.SetFaults(sim.Faults{Silent: true})
	}
	for range n {
		client := s.client()
		if client.Request(); client.Fetches() != 1 { // the visitor himself may have given up by then
			s.t.Error("a client has not read the descriptor")
		}
		clients = append(clients, client)
	}
	for _, r := range relays {
		r.SetFaults(sim.Faults{})
	}
	return clients
}
