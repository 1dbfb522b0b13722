package balance

import (
	"slices"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/state"
	"onionbalancer/internal/state/statetest"
	"onionbalancer/internal/status"
	"onionbalancer/testnet/sim"
)

// current returns the descriptor that clients of the service get.
func (s *scene) current() *descriptor.Descriptor {
	s.t.Helper()
	keys, err := s.custodian.Address().Keys(s.net.Consensus().Period())
	if err != nil {
		s.t.Fatal(err)
	}
	first, second, err := s.net.Responsible(s.custodian.Address())
	if err != nil {
		s.t.Fatal(err)
	}
	for _, r := range append(first, second...) {
		if body, _ := r.Stored(keys.Blinded); body != nil {
			if d, err := new(descriptor.Decoder).Decode(body, keys, nil, time.Now()); err == nil {
				return d
			}
		}
	}
	s.t.Fatal("no HSDir has the descriptor")
	return nil
}

// An instance that offers the others' keys takes no visitor from them, wherever
// it stands in the file, and is named.
func TestInstanceWithStolenKeys(t *testing.T) {
	t.Parallel()
	for _, place := range []int{0, 2} {
		onScene(t, sim.Config{Seed: 58, Relays: 400}, func(t *testing.T, s *scene) {
			s.settle(time.Minute)
			evil, name := s.instances[place], []string{"web1", "", "web3"}[place]
			stolen := s.current().IntroductionPoints
			evil.SetContents(func(c *descriptor.Contents) {
				for _, p := range stolen {
					if !slices.ContainsFunc(c.IntroductionPoints, func(q descriptor.IntroductionPoint) bool { return q.AuthKey == p.AuthKey }) {
						q := c.IntroductionPoints[0] // at a relay of its own
						q.AuthKey = p.AuthKey
						c.IntroductionPoints = append(c.IntroductionPoints, q)
					}
				}
			})
			s.settle(5 * time.Minute)
			got := s.want("with a thief of keys", status.StateDegraded)
			if !strings.Contains(strings.Join(got.Warnings, "\n"), "instance "+name+" offers keys") {
				t.Errorf("warnings: %q", got.Warnings)
			}
			for n, i := range got.Instances {
				if i.Published != 3 {
					t.Errorf("%s has %d points published", i.Name, i.Published)
				}
				if len(i.Warnings) > 0 != (n == place) {
					t.Errorf("%s: %q", i.Name, i.Warnings)
				}
			}
			// The claims outlast a restart, no matter who answers first.
			s.restart()
			s.settle(5 * time.Minute)
			answers := s.reach("with a thief of keys", 300)
			for n, i := range s.instances {
				if share := float64(answers[i]) / 300; share < 0.2 || share > 0.47 {
					t.Errorf("instance %d answered %.0f %% of the requests", n, 100*share)
				}
			}
			evil.SetContents(nil)
			s.settle(5 * time.Minute)
			s.want("when it behaves again", status.StateOK)
		})
	}
}

// All points of a descriptor expire together, whosever they are.
func TestOneExpiry(t *testing.T) {
	t.Parallel()
	onScene(t, sim.Config{Seed: 52}, func(t *testing.T, s *scene) {
		s.fetchEvery(20 * time.Minute)
		for range 6 {
			s.settle(83 * time.Minute)
			d := s.current()
			for _, p := range d.IntroductionPoints {
				if !p.Expires.Equal(d.IntroductionPoints[0].Expires) || p.Expires.Minute() != 0 || time.Until(p.Expires) < 51*time.Hour {
					t.Fatalf("points expire at %s and %s", p.Expires, d.IntroductionPoints[0].Expires)
				}
			}
		}
	})
}

// An instance that changes its points all the time has them published a few
// times, and is named; the others' changes go on being published at once.
func TestRestlessInstance(t *testing.T) {
	t.Parallel()
	onScene(t, sim.Config{Seed: 53}, func(t *testing.T, s *scene) {
		s.settle(time.Minute)
		before := s.net.Tor().Counts().Posts
		for range 60 {
			s.instances[1].ReplacePoints()
			s.settle(2 * time.Minute)
		}
		posts := s.net.Tor().Counts().Posts - before
		// Without a bound it is once in a minute or two.
		if most := 16 * (8 + int(2*time.Hour*2/(backend.ChangesEvery+time.Minute)) + 3); posts > most {
			t.Errorf("%d uploads in two hours, want at most %d", posts, most)
		}
		if got := s.want("with a restless instance", status.StateDegraded); !warned(got, "web2 changes its introduction points too often") {
			t.Errorf("warnings: %q", got.Warnings)
		}
		s.instances[0].ReplacePoints()
		s.settle(2 * time.Minute)
		if got := s.service.Status(); got.Instances[0].Published != 3 {
			t.Errorf("the new points of another are not published: %+v", got.Instances[0])
		}
		s.reach("with a restless instance", 20)
		s.settle(30 * time.Minute)
		s.want("when it is calm", status.StateOK)
	})
}

// All backends replaced by a mistake, under the names of those before: what was
// published goes on, over the end of the period and over the rotation, which needs
// another descriptor, and the status says failed.
func TestAllInstancesReplaced(t *testing.T) {
	t.Parallel()
	for change, start := range map[string]time.Duration{"in the next period": 9 * time.Hour, "after the rotation": 21 * time.Hour} {
		onScene(t, sim.Config{Seed: 57}, func(t *testing.T, s *scene) {
			s.startAt(start)
			s.settle(time.Minute)
			good := s.config()
			good.FetchEvery = 10 * time.Minute
			bad := good
			bad.Instances = slices.Clone(good.Instances)
			for n := range bad.Instances {
				bad.Instances[n].Address = testAddress(t, byte(n+1)) // that nobody publishes
			}
			s.service.Reconfigure(bad)
			s.settle(15 * time.Minute)
			s.wantAllReplaced("at once")
			s.settle(6 * time.Hour) // tor may hear of the change three hours later
			s.wantAllReplaced(change)
			s.service.Reconfigure(good)
			s.settle(5 * time.Minute)
			s.want("with the right ones", status.StateOK)
			s.reach("with the right ones", 20)
		})
	}
}

// wantAllReplaced fails unless the points of instances that are not configured any
// more are published, and the status says so.
func (s *scene) wantAllReplaced(when string) {
	s.t.Helper()
	got := s.want(when, status.StateFailed)
	for _, i := range got.Instances {
		if i.Published != 0 || i.Share != 0 {
			s.t.Errorf("%s: %s has %d points published, which are another's", when, i.Name, i.Published)
		}
	}
	for _, d := range got.Descriptors {
		if d.Points != 9 || d.Confirmed == 0 {
			s.t.Errorf("%s: the %s descriptor: %+v", when, d.Which, d)
		}
	}
	if len(got.Descriptors) != 2 || !warned(got, "no longer configured stay published") {
		s.t.Errorf("%s: %d descriptors, warnings %q", when, len(got.Descriptors), got.Warnings)
	}
	s.reach(when, 20)
}

// With nothing to publish from the start on the status says failed, not starting.
func TestNothingToPublish(t *testing.T) {
	onSceneOf(t, sim.Config{Seed: 55}, []sim.InstanceConfig{{Offline: true}, {Offline: true}}, func(t *testing.T, s *scene) {
		s.settle(5 * time.Minute)
		if got := s.want("without an instance", status.StateFailed); !warned(got, "nothing to publish") {
			t.Errorf("warnings: %q", got.Warnings)
		}
		s.instances[0].SetOnline(true)
		s.settle(5 * time.Minute)
		s.want("with one of two", status.StateDegraded)
	})
}

// What is published keeps its relays over a restart, no matter who offers points on
// them meanwhile.
func TestRelaysOutlastARestart(t *testing.T) {
	t.Parallel()
	onScene(t, sim.Config{Seed: 56, Relays: 400}, func(t *testing.T, s *scene) {
		s.settle(2 * time.Minute)
		var stolen []descriptor.IntroductionPoint
		s.instances[0].SetContents(func(c *descriptor.Contents) {
			for n := range min(len(stolen), len(c.IntroductionPoints)) {
				c.IntroductionPoints[n].LinkSpecifiers = stolen[n].LinkSpecifiers
			}
		})
		s.settle(time.Minute)
		for _, p := range s.current().IntroductionPoints {
			if !slices.ContainsFunc(s.service.instances.View().Backends[0].Offer.Points, func(q backend.Point) bool { return q.AuthKey == p.AuthKey }) {
				stolen = append(stolen, p)
			}
		}
		s.instances[0].ReplacePoints()
		s.settle(5 * time.Minute)
		for _, when := range []string{"before a restart", "after a restart"} {
			got := s.service.Status()
			if a, b, c := got.Instances[0].Published, got.Instances[1].Published, got.Instances[2].Published; a != 0 || b != 3 || c != 3 {
				t.Errorf("%s: %d, %d and %d points published", when, a, b, c)
			}
			s.want(when, status.StateDegraded)
			s.restart()
			s.settle(5 * time.Minute)
		}
	})
}

// Anyone who is taken out of the file does not keep the keys that it got hold of.
func TestThiefTakenOut(t *testing.T) {
	onScene(t, sim.Config{Seed: 57, Relays: 400}, func(t *testing.T, s *scene) {
		s.settle(2 * time.Minute)
		s.stop()
		// As if web1 had been first with all keys of web2.
		s.rewriteClaims(s.instances[1].Address(), s.instances[0].Address())
		s.start()
		s.settle(2 * time.Minute)
		if got := s.service.Status(); got.Instances[1].Published != 0 || !warned(got, "instance web2 offers keys of introduction points that web1 had first") {
			t.Fatalf("%d points published, warnings %q", got.Instances[1].Published, got.Warnings)
		}
		for range 1800 { // while instances are fetched, too
			s.settle(time.Second)
			if !warned(s.service.Status(), "instance web2 offers keys") {
				t.Fatalf("the warning is gone at %s", time.Now().Format(time.TimeOnly))
			}
		}
		cfg := s.config()
		cfg.Instances = cfg.Instances[1:]
		s.service.Reconfigure(cfg)
		s.settle(2 * time.Minute)
		if got := s.want("with the thief gone", status.StateOK); got.Instances[0].Published != 3 {
			t.Errorf("%d points published", got.Instances[0].Published)
		}
	})
}

// rewriteClaims gives the stored claims of one instance to another.
func (s *scene) rewriteClaims(from, to descriptor.Address) {
	store := statetest.Open(s.t, s.dir)
	all, err := store.AllClaims()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, c := range all {
		for key, list := range c.Record.Keys {
			for n := range list {
				if list[n] == state.Address(from) {
					list[n] = state.Address(to)
				}
			}
			c.Record.Keys[key] = list
		}
		if _, err := store.SwapClaims(s.t.Context(), c.Period, c.Version, c.Record); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := store.Close(); err != nil {
		s.t.Fatal(err)
	}
}
