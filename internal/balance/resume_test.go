package balance

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/health"
	"onionbalancer/internal/state"
	"onionbalancer/internal/status"
	"onionbalancer/internal/times"
	"onionbalancer/selection"
	"onionbalancer/testnet/sim"
)

// published is what a service knows that HSDirs have of a period.
type published struct {
	Contents       state.Bytes32
	Signer         state.Bytes32
	Revision, Turn uint64
	Built, Refresh time.Time
	Due            time.Time
	Slots          string
}

// editions are what the service has published.
func (m *managers) editions() map[descriptor.Period]published {
	s := m.service
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make(map[descriptor.Period]published)
	for p, e := range s.state.Editions {
		at := published{digest(e.places(), s.client()), e.signer, e.Revision, e.Turn, e.Built.UTC().Round(0), e.Refresh.UTC().Round(0), e.due.UTC().Round(0), ""}
		for _, place := range inOrderOfHSDir(e.places()) {
			at.Slots += fmt.Sprintf("%x/%d/%t ", place.HSDir[:3], place.Replica, place.Left)
		}
		list[p] = at
	}
	return list
}

// due returns when the first edition is to be refreshed.
func (m *managers) due() (first time.Time) {
	for _, e := range m.editions() {
		if first.IsZero() || e.Refresh.Before(first) {
			first = e.Refresh
		}
	}
	return first
}

// A service that moves to another manager is not published again: that goes on from what
// HSDirs have, says so, reads it back, and publishes at the moment at which the one before
// would have. The same after a kill, with slots that hold different points, of an ordinary
// service, and of one that only authorized clients read.
func TestMovedService(t *testing.T) {
	key, err := descriptor.ParseClientKey([]byte("descriptor:x25519:OM7TGIVRYMY6PFX6GAC6ATRTA5U6WW6U7A4ZNHQDI6OVL52XVV2Q"))
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*Config){
		"balanced":             func(*Config) {},
		"killed":               func(*Config) {},
		"few points":           func(c *Config) { c.Room.Points = 4 },
		"few points, weighted": func(c *Config) { c.Room.Points, c.Strategy = 4, selection.Weighted{} },
		"ordinary":             func(c *Config) { c.Ordinary, c.Room.Points = true, 3 },
		"restricted, visited": func(c *Config) {
			c.Clients = []descriptor.AuthorizedClient{key.Client()}
			c.Visits = Visits{Every: time.Minute, Spec: health.Spec{Kind: health.TCP, Port: 80, Timeout: time.Minute, Rise: 1, Fall: 1}}
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			onManagers(t, sim.Config{Seed: 221}, reserves(6*time.Hour), func(t *testing.T, m *managers) {
				m.stop()
				resume := m.custody
				m.custody = func(c *Config) { resume(c); change(c) }
				m.startAt(27 * time.Hour)
				m.settle(3*time.Hour + 10*time.Minute) // all was refreshed, and is at different times
				for moves := range 2 {
					if strings.HasPrefix(what, "few") { // an edition between two turns
						m.instances[moves].ReplacePoints()
						m.settle(5 * time.Minute)
					}
					for time.Until(m.due()) < 8*time.Minute {
						m.settle(max(0, time.Until(m.due())) + time.Minute)
					}
					before, uploads, first := m.editions(), m.launches(), m.due()
					if what == "killed" {
						m.kill()
					} else {
						m.stop()
					}
					m.start()
					m.settle(2 * time.Minute)
					m.want("moved", status.StateOK, status.StateDegraded)
					if after := m.editions(); !maps.Equal(after, before) {
						t.Errorf("move %d: it goes on from\n%+v, and had\n%+v", moves, after, before)
					}
					if until, holds := m.service.Reserved(); holds || until.Sub(m.now()) < 5*time.Hour+50*time.Minute {
						t.Errorf("move %d: counters are reserved until %s", moves, until)
					}
					got := m.service.Status()
					if len(got.Descriptors) != 2 || len(got.Warnings) > 0 || !m.service.Published() || m.service.Summary().Missing != 0 {
						t.Errorf("move %d: %d descriptors, warnings %q, %+v", moves, len(got.Descriptors), got.Warnings, m.service.Summary())
					}
					for _, d := range got.Descriptors {
						if d.Reason != string(ReasonResumed) || d.Confirmed != len(d.Slots) || d.Points == 0 {
							t.Errorf("move %d: %+v", moves, d)
						}
					}
					m.settle(min(time.Until(first)-10*time.Second, 15*time.Minute))
					if n := m.launches() - uploads; n > 0 {
						t.Fatalf("move %d: %d uploads though nothing was due", moves, n)
					}
					got = m.service.Status()
					if got.ReadBack.IsZero() || len(got.Warnings) > 0 || got.VisitError != "" {
						t.Errorf("move %d: read back %s, warnings %q, visits %q", moves, got.ReadBack, got.Warnings, got.VisitError)
					}
					m.settle(time.Until(first) + time.Minute)
					refreshed := 0
					for _, d := range m.service.Status().Descriptors {
						if d.Reason == string(ReasonRefresh) && !d.Built.Before(first) && d.Built.Before(first.Add(10*time.Second)) && d.Confirmed == len(d.Slots) {
							refreshed++
						}
					}
					if n := m.launches() - uploads; n == 0 || refreshed == 0 {
						t.Errorf("move %d: %d uploads, and %d descriptors refreshed, when that was due", moves, n, refreshed)
					}
				}
			})
		})
	}
}

// A hosted service moves without an upload as well, and its record still tells what HSDirs
// have.
func TestMovedHosted(t *testing.T) {
	onManagers(t, sim.Config{Seed: 224}, reserves(6*time.Hour), func(t *testing.T, m *managers) {
		m.stop()
		custody := m.custody
		m.custody = func(c *Config) { custody(c); c.Hosted = true }
		m.startAt(34*time.Hour + 30*time.Minute) // both descriptors are made by then
		m.settle(20 * time.Minute)
		stored := func() []state.Made {
			r, _, err := m.store.DB.Service(m.custodian.Address())
			if err != nil {
				t.Fatal(err)
			}
			slices.SortFunc(r.Made, func(a, b state.Made) int { return cmp.Compare(a.Period, b.Period) })
			return r.Made
		}
		for range 3 {
			uploads := m.launches()
			m.stop()
			m.start()
			before := stored()
			m.settle(10 * time.Minute)
			if after := stored(); m.launches() != uploads || !reflect.DeepEqual(after, before) || len(after) != 2 {
				t.Errorf("%d uploads; the record has\n%+v, and had\n%+v", m.launches()-uploads, after, before)
			}
			if until, holds := m.service.Reserved(); holds || until.Sub(m.now()) < 5*time.Hour || !m.service.Published() {
				t.Errorf("counters are reserved until %s", until)
			}
			m.want("moved", status.StateOK)
		}
	})
}

// What is pending, due or should be otherwise is published by whoever takes over, soon.
func TestMovedServiceHasToPublish(t *testing.T) {
	for what, test := range map[string]struct {
		change func(m *managers)
		reason Reason
	}{
		"an instance restarted": {func(m *managers) { m.instances[0].ReplacePoints() }, ReasonChanged},
		"an instance was taken out": {func(m *managers) {
			custody := m.custody
			m.custody = func(c *Config) { custody(c); c.Instances = c.Instances[:2] }
		}, ReasonChanged},
		"another room": {func(m *managers) {
			custody := m.custody
			m.custody = func(c *Config) { custody(c); c.Room.Points = 3 }
		}, ReasonChanged},
		"it is due":              {func(m *managers) { time.Sleep(121 * time.Minute) }, ReasonRefresh},
		"HSDirs have dropped it": {func(m *managers) { time.Sleep(4 * time.Hour) }, ReasonNew},
		"another clock":          {func(m *managers) { m.step(-3 * time.Hour) }, ReasonNew},
		"an HSDir is another": {func(m *managers) {
			first, _, err := m.net.Responsible(m.custodian.Address())
			if err != nil {
				m.t.Fatal(err)
			}
			first[0].Remove()
			time.Sleep(115 * time.Minute)
		}, ReasonHSDirs},
		"it is pending": {func(m *managers) {
			m.start()
			m.settle(time.Minute)
			for _, r := range m.net.Relays() {
				r.SetFaults(sim.Faults{Silent: true})
			}
			m.service.Reconfigure(m.configWith("another"))
			m.settle(10 * time.Second)
			m.stop()
			for _, r := range m.net.Relays() {
				r.SetFaults(sim.Faults{})
			}
			custody := m.custody
			m.custody = func(c *Config) { custody(c); c.CAA = []descriptor.CAA{{Tag: "issue", Value: "another"}} }
		}, ReasonPending},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			onManagers(t, sim.Config{Seed: 222}, reserves(6*time.Hour), func(t *testing.T, m *managers) {
				m.startAt(28 * time.Hour)
				m.settle(5 * time.Minute)
				before := m.launches()
				m.stop()
				test.change(m)
				m.start()
				m.settle(2 * time.Minute)
				m.want("taken over", status.StateOK, status.StateDegraded)
				reasons := map[string]bool{}
				for _, d := range m.service.Status().Descriptors {
					reasons[d.Reason] = true
				}
				if n := m.launches() - before; n < 8 || !reasons[string(test.reason)] {
					t.Errorf("%d uploads, for %v, want %q", n, slices.Collect(maps.Keys(reasons)), test.reason)
				}
				m.reach("taken over", 5)
			})
		})
	}
}

// The manager that takes a service over has not seen its instances for too long, or never:
// it makes no new descriptor until HSDirs are about to drop the last, neither as its first
// nor as its second.
func TestMovedServiceIsNotSeen(t *testing.T) {
	for _, adopted := range []bool{true, false} {
		t.Run(fmt.Sprintf("adopted %t", adopted), func(t *testing.T) {
			onManagers(t, sim.Config{Seed: 223}, reserves(6*time.Hour), func(t *testing.T, m *managers) {
				m.startAt(28 * time.Hour)
				m.settle(5 * time.Minute)
				before := m.editions()
				built := time.Time{}
				for _, e := range before {
					built = times.Later(built, e.Built)
				}
				m.stop()
				m.net.Tor().SetOffline(true)
				if !adopted {
					custody := m.custody
					m.custody = func(c *Config) { custody(c); c.CAA = []descriptor.CAA{{Tag: "issue", Value: "another"}} }
				}
				m.start()
				m.settle(time.Until(built.Add(keptFor - dropMargin - time.Minute)))
				if adopted {
					if after := m.editions(); !maps.Equal(after, before) {
						t.Errorf("it has\n%+v, and had\n%+v", after, before)
					}
				} else if n := len(m.editions()); n != 0 {
					t.Errorf("%d descriptors were made", n)
				}
				if got := m.service.Status(); !warned(got, "no instance has answered for too long to make a new descriptor") {
					t.Errorf("warnings %q", got.Warnings)
				}
				m.settle(2 * time.Minute)
				for _, e := range m.editions() {
					if e.Built.Before(built.Add(keptFor - dropMargin)) {
						t.Errorf("built %s after the last", e.Built.Sub(built))
					}
				}
				if len(m.editions()) != 2 {
					t.Error("nothing is made before HSDirs drop the last")
				}
			})
		})
	}
}

// The first plan of a service that HSDirs have.
func TestResumePlan(t *testing.T) {
	members := []*member{testMember("a", 1, 2, 3), testMember("b", 4, 5, 6)}
	view := func(change func(*View)) View {
		v := wideView(20, members...)
		v.Config.Resume = true
		for n := range v.Instances.Backends {
			v.Instances.Backends[n].Heard = v.Now
		}
		if change != nil {
			change(&v)
		}
		return v
	}
	v := view(nil)
	first := makePlan(v, State{})
	target := first.Targets[v.Current]
	unseen := func(v *View) {
		for n, b := range v.Instances.Backends {
			other := *b
			other.Heard = time.Time{}
			v.Instances.Backends[n] = &other
		}
	}
	for what, test := range map[string]struct {
		made   func(*state.Made)
		places func([]place) []place
		view   func(*View)
		want   Reason
		held   bool
		next   time.Duration // from now; 0: whenever
	}{
		"the same":                         {next: 40 * time.Minute},
		"the same, and nothing is seen":    {view: unseen, next: 40 * time.Minute},
		"due":                              {made: func(m *state.Made) { m.Refresh = v.Now }, want: ReasonRefresh},
		"due, and nothing is seen":         {made: func(m *state.Made) { m.Refresh = v.Now }, view: unseen, want: ReasonRefresh, held: true},
		"pending":                          {made: func(m *state.Made) { m.Pending = true }, want: ReasonPending},
		"otherwise":                        {made: func(m *state.Made) { m.Contents[0]++ }, want: ReasonChanged},
		"otherwise, and nothing is seen":   {made: func(m *state.Made) { m.Contents[0]++ }, view: unseen, want: ReasonChanged, held: true},
		"dropped":                          {made: func(m *state.Made) { m.Built = v.Now.Add(-3 * time.Hour) }, want: ReasonNew},
		"about to be, and nothing is seen": {made: func(m *state.Made) { m.Built, m.Refresh = v.Now.Add(-151*time.Minute), v.Now }, view: unseen, want: ReasonRefresh},
		"of the future":                    {made: func(m *state.Made) { m.Built, m.Refresh = v.Now.Add(48*time.Hour), v.Now.Add(49*time.Hour) }, want: ReasonNew},
		"an HSDir is another":              {places: func(p []place) []place { return p[1:] }, want: ReasonHSDirs},
		"the HSDirs are not known": {places: func(p []place) []place {
			p[0].HSDir = [20]byte{}
			return p[:1]
		}, next: 40 * time.Minute},
	} {
		m := state.Made{Built: v.Now.Add(-time.Hour), Refresh: v.Now.Add(40 * time.Minute), Contents: digest(target.places, nil)}
		if test.made != nil {
			test.made(&m)
		}
		places := slices.Clone(target.places)
		if test.places != nil {
			places = test.places(places)
		}
		p := makePlan(view(test.view), State{Before: map[descriptor.Period]*past{target.Keys.Period: {m, places}}})
		got := p.Targets[v.Current]
		if got.Reason != test.want || got.Held != "" != test.held || got.stored != (test.want != ReasonNew) || test.next > 0 && !p.Next.Equal(v.Now.Add(test.next)) {
			t.Errorf("%s: %q, held %q, next in %s; want %q, held %t, next in %s", what, got.Reason, got.Held, p.Next.Sub(v.Now), test.want, test.held, test.next)
		}
		if got.Reason != "" && got.Reason != ReasonRefresh && got.Urgency == hsdir.UrgencyRefresh {
			t.Errorf("%s: no urgency", what)
		}
	}
}
