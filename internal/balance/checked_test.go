package balance

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/health"
	"onionbalancer/internal/status"
	"onionbalancer/testnet/sim"
)

// quick are checks every two seconds.
var quick = health.Spec{Kind: health.HTTP, Port: 80, Path: "/", Status: "2xx", Interval: 2 * time.Second, FastInterval: 500 * time.Millisecond,
	Timeout: 3 * time.Second, Rise: 2, Fall: 3, Jitter: 0.2}

// onChecked runs do on a scene whose instances are checked.
func onChecked(t *testing.T, cfg sim.Config, instances int, do func(t *testing.T, s *scene)) {
	t.Helper()
	cfg.Latency = 500 * time.Millisecond
	onSceneOf(t, cfg, make([]sim.InstanceConfig, instances), func(t *testing.T, s *scene) {
		s.checks = quick
		s.restart()
		s.settle(30 * time.Second)
		do(t, s)
	})
}

// published returns how many points of each instance the service's descriptors on the
// HSDirs have, the most of any.
func (s *scene) published() map[*sim.Instance]int {
	s.t.Helper()
	first, second, err := s.net.Responsible(s.custodian.Address())
	if err != nil {
		s.t.Fatal(err)
	}
	most := make(map[*sim.Instance]int)
	period := s.net.Consensus().Period()
	for _, p := range []descriptor.Period{period.Previous(), period, period.Next()} {
		keys, err := s.custodian.Address().Keys(p)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, r := range slices.Concat(first, second) {
			if body, _ := r.Stored(keys.Blinded); body != nil {
				for i, n := range s.owners(body, keys) {
					most[i] = max(most[i], n)
				}
			}
		}
	}
	return most
}

// owners counts the points of each instance in a descriptor, and remembers that.
func (s *scene) owners(body []byte, keys descriptor.PeriodKeys) map[*sim.Instance]int {
	if known := s.decoded[&body[0]]; known != nil {
		return known
	}
	d, err := new(descriptor.Decoder).Decode(body, keys, nil, time.Now())
	if err != nil {
		s.t.Fatal(err)
	}
	count := make(map[*sim.Instance]int)
	for n := range d.IntroductionPoints {
		count[s.net.Owner(&d.IntroductionPoints[n])]++
	}
	if s.decoded == nil {
		s.decoded = make(map[*byte]map[*sim.Instance]int)
	}
	s.decoded[&body[0]] = count
	return count
}

// until waits for a condition, and returns how long that took.
func (s *scene) until(what string, limit time.Duration, holds func() bool) time.Duration {
	s.t.Helper()
	for began := time.Now(); ; s.settle(max(100*time.Millisecond, limit/200)) {
		took := time.Since(began)
		if holds() {
			return took
		}
		if took > limit {
			s.t.Errorf("not within %s: %s (%+v)", limit, what, s.service.Status())
			return took
		}
	}
}

// confirms waits until HSDirs confirm a number of slots, for a minute at most.
func (s *scene) confirms(when string, slots int) {
	s.t.Helper()
	s.until(fmt.Sprintf("%s: %d slots", when, slots), time.Minute, func() bool { return confirmed(s.service.Status()) == slots })
}

// editions returns how many editions do makes the service publish: of the
// descriptor that clients fetch.
func (s *scene) editions(lasts time.Duration) int {
	seen := map[uint64]bool{}
	for end := time.Now().Add(lasts); time.Now().Before(end); s.settle(time.Second) {
		for _, d := range s.service.Status().Descriptors {
			if d.Current {
				seen[d.Revision] = true
			}
		}
	}
	return len(seen) - 1
}

// An instance that fails is off every HSDir in seconds, no visitor is sent there any
// more, and it is back soon after it works again.
func TestFailedInstanceIsTakenOut(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		failure
		out, back time.Duration
	}{
		{killed, 8 * time.Second, 40 * time.Second},
		{appDead, 6 * time.Second, 10 * time.Second},
		{frozen, 12 * time.Second, 10 * time.Second},
		{cut, 12 * time.Second, 10 * time.Second},
	} {
		onChecked(t, sim.Config{Seed: 41}, 3, func(t *testing.T, s *scene) {
			web1 := s.instances[0]
			test.set(web1, true)
			out := s.until(test.name+": it is out", test.out, func() bool { return s.published()[web1] == 0 })
			s.want(test.name, status.StateDegraded)
			if answers := s.reach(test.name, 40); answers[web1] > 0 || len(answers) != 2 {
				t.Errorf("%s: %v", test.name, answers)
			}
			if editions := s.editions(2 * time.Minute); editions > 0 {
				t.Errorf("%s: %d editions while nothing changes", test.name, editions)
			}
			test.set(web1, false)
			back := s.until(test.name+": it is back", test.back, func() bool { return s.published()[web1] > 0 })
			t.Logf("%s: out after %s, back after %s", test.name, out, back)
			s.reach(test.name+" no more", 20)
		})
	}
}

// An instance that flaps changes the descriptor three times in ten minutes at most.
func TestFlappingInstance(t *testing.T) {
	t.Parallel()
	onChecked(t, sim.Config{Seed: 42}, 3, func(t *testing.T, s *scene) {
		stop := make(chan struct{})
		defer close(stop)
		go func() {
			for n := 0; ; n++ {
				appDead.set(s.instances[0], n%2 == 0)
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Second):
				}
			}
		}()
		for range 6 {
			if editions := s.editions(10 * time.Minute); editions > 3 {
				t.Errorf("%d publications in ten minutes", editions)
			}
		}
	})
}

// When our own tor is cut off, nothing changes.
func TestOwnTorCutOff(t *testing.T) {
	t.Parallel()
	for _, lasts := range []time.Duration{20 * time.Second, 5 * time.Minute, 45 * time.Minute} { // no refresh is due yet
		onChecked(t, sim.Config{Seed: 43}, 3, func(t *testing.T, s *scene) {
			before := s.service.Status().Descriptors[0].Revision
			s.net.Tor().SetOffline(true)
			s.settle(lasts)
			s.net.Tor().SetOffline(false)
			s.settle(5 * time.Minute)
			if after := s.service.Status().Descriptors[0].Revision; after != before {
				t.Errorf("cut off for %s: something was published", lasts)
			}
			if got := s.want("afterwards", status.StateOK); len(got.Warnings) > 0 {
				t.Errorf("afterwards: %q", got.Warnings)
			}
			s.reach(fmt.Sprintf("after %s", lasts), 10)
		})
	}
}

// Checks take out no more than half of the instances.
func TestTwoOfThreeDown(t *testing.T) {
	t.Parallel()
	onChecked(t, sim.Config{Seed: 44}, 3, func(t *testing.T, s *scene) {
		for _, i := range s.instances[:2] {
			frozen.set(i, true)
		}
		s.settle(time.Minute)
		got := s.want("two of three frozen", status.StateDegraded)
		if !strings.Contains(strings.Join(got.Warnings, "\n"), "panic") {
			t.Errorf("no word of panic in %q", got.Warnings)
		}
		if left := len(s.published()); left != 2 {
			t.Errorf("%d instances are published, want 2", left)
		}
		for range 400 { // also while fetches are in flight
			s.service.Wake()
			if s.settle(200 * time.Millisecond); !s.service.Status().Panic {
				t.Fatalf("the panic is over, with plan %+v", s.service.Plan().Waiting)
			}
		}
		for _, i := range s.instances[:2] {
			frozen.set(i, false)
		}
		s.settle(2 * time.Minute)
		s.want("when they are back", status.StateOK)
		if left := len(s.published()); left != 3 {
			t.Errorf("%d instances are published, want 3", left)
		}
	})
}

// The last good descriptor stays while all are down.
func TestAllInstancesDown(t *testing.T) {
	t.Parallel()
	for _, f := range []failure{killed, frozen, appDead} {
		onChecked(t, sim.Config{Seed: 45}, 3, func(t *testing.T, s *scene) {
			for _, i := range s.instances {
				f.set(i, true)
			}
			s.settle(10 * time.Minute)
			if len(s.published()) < 2 {
				t.Errorf("all %s: only %d are published", f.name, len(s.published()))
			}
			for _, i := range s.instances {
				f.set(i, false)
			}
			s.settle(15 * time.Minute)
			if got := s.want("all are back", status.StateOK); len(s.published()) != 3 {
				t.Errorf("all back: %d are published, %+v", len(s.published()), got.Instances)
			}
			s.reach("all are back", 10)
		})
	}
}

// An ob_config without the public address is named, with the line to add.
func TestUnlistedInstanceIsNamed(t *testing.T) {
	t.Parallel()
	onChecked(t, sim.Config{Seed: 46}, 3, func(t *testing.T, s *scene) {
		s.visits = time.Minute
		s.restart()
		s.settle(time.Minute)
		web2 := s.instances[1]
		web2.SetListed(s.custodian.Address(), false)
		s.until("it is out", 30*time.Minute, func() bool { return s.published()[web2] == 0 })
		got := s.service.Status()
		if line := "MasterOnionAddress " + s.custodian.Address().String(); !strings.Contains(fmt.Sprint(got.Instances[1].Warnings, got.Warnings), line) {
			t.Errorf("no word of %q in %q", line, got.Instances[1].Warnings)
		}
		s.reach("without it", 20)
		web2.SetOnline(false)
		web2.SetListed(s.custodian.Address(), true)
		web2.SetOnline(true)
		s.until("it is back", 10*time.Minute, func() bool { return s.published()[web2] > 0 })
	})
}
