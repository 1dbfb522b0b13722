package balance

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/backoff"
	"onionbalancer/internal/event"
	"onionbalancer/internal/health"
	"onionbalancer/internal/status"
	"onionbalancer/selection"
	"onionbalancer/testnet/sim"
)

func TestAttribute(t *testing.T) {
	candidate := func(name string, relay byte) selection.Candidate {
		return selection.Candidate{Instance: name, Point: &descriptor.IntroductionPoint{
			LinkSpecifiers: []descriptor.LinkSpecifier{{Type: descriptor.LinkRSA, Data: append([]byte{relay}, make([]byte, 19)...)}},
		}}
	}
	published := []selection.Candidate{candidate("web1", 1), candidate("web2", 2), candidate("web1", 3)}
	refused, silent, answered := health.PointResult{Relay: descriptor.Fingerprint{3}},
		health.PointResult{Relay: descriptor.Fingerprint{2}, Acknowledged: true},
		health.PointResult{Relay: descriptor.Fingerprint{1}, Acknowledged: true, Answered: true}
	stranger := health.PointResult{Relay: descriptor.Fingerprint{9}, Acknowledged: true}
	got := Attribute([]health.PointResult{refused, stranger, silent, answered}, published)
	want := map[string][]health.PointResult{"web1": {refused, answered}, "web2": {silent}}
	if !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// visitor visits the public address as a client with the descriptor that HSDirs have,
// and knows which instances have it in their ob_config.
type visitor struct {
	s *scene

	mu     sync.Mutex // protects the fields below
	lacks  map[descriptor.Address]bool
	frozen map[descriptor.Address]bool
	visits []health.Result
	keys   []*descriptor.ClientKey
	specs  []health.Spec
	cut    bool // our own tor is
}

// frozenTakes is how long an introduction takes that is never answered.
const frozenTakes = 10 * time.Second

func (v *visitor) set(what map[descriptor.Address]bool, i *sim.Instance, is bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	what[i.Address()] = is
}

func (v *visitor) count() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.visits)
}

// Visit implements Visitor.
func (v *visitor) Visit(ctx context.Context, spec health.Spec, key *descriptor.ClientKey) health.Result {
	r := v.visit(ctx, spec.Address, key)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.visits, v.keys, v.specs = append(v.visits, r), append(v.keys, key), append(v.specs, spec)
	return r
}

var errNoAnswer = errors.New("no answer")

func (v *visitor) visit(ctx context.Context, a descriptor.Address, key *descriptor.ClientKey) health.Result {
	r := health.Result{Began: time.Now(), Ended: time.Now(), Fresh: true, Stage: health.NoPoint, Err: errNoAnswer}
	v.mu.Lock()
	cut := v.cut
	v.mu.Unlock()
	if cut {
		r.Stage = health.NoTor
		return r
	}
	d := v.fetch(ctx, a, key)
	if d == nil {
		return r
	}
	for _, n := range rand.Perm(len(d.IntroductionPoints)) {
		p := &d.IntroductionPoints[n]
		of := v.owner(ctx, p)
		tried := health.PointResult{Relay: p.Relay(), Acknowledged: of != nil}
		v.mu.Lock()
		tried.Answered = of != nil && !v.lacks[of.Address()] && !v.frozen[of.Address()]
		v.mu.Unlock()
		r.Points = append(r.Points, tried)
		switch {
		case tried.Answered:
			r.Stage, r.Err = health.Connected, nil
		case tried.Acknowledged:
			r.Stage = health.Introduced
			backoff.Sleep(ctx, frozenTakes)
		default:
			continue
		}
		break
	}
	r.Ended = time.Now()
	return r
}

// fetch returns the descriptor of an address, nil if there is none.
func (v *visitor) fetch(ctx context.Context, a descriptor.Address, key *descriptor.ClientKey) *descriptor.Descriptor {
	c, err := v.s.watcher.Consensus()
	if err != nil {
		return nil
	}
	keys, err := a.Keys(c.CurrentPeriod())
	if err != nil {
		return nil
	}
	got, err := v.s.env.Fetcher.(*hsdir.Fetcher).Fetch(ctx, c, keys, key, 0, time.Now())
	if err != nil {
		return nil
	}
	return got.Descriptor
}

// owner returns the instance that has a point now.
func (v *visitor) owner(ctx context.Context, p *descriptor.IntroductionPoint) *sim.Instance {
	for _, i := range v.s.instances {
		if d := v.fetch(ctx, i.Address(), nil); d != nil && slices.ContainsFunc(d.IntroductionPoints, func(q descriptor.IntroductionPoint) bool { return q.AuthKey == p.AuthKey }) {
			return i
		}
	}
	return nil
}

// checked is the last result of the checks of an instance's own address.
func (v *visitor) checked(a descriptor.Address) health.Result {
	v.mu.Lock()
	defer v.mu.Unlock()
	r := health.Result{Began: time.Now().Add(-time.Second), Ended: time.Now(), Stage: health.Connected}
	if v.frozen[a] {
		r.Stage, r.Err = health.Introduced, errNoAnswer
	}
	return r
}

const visitEvery = 5 * time.Minute

// onVisited runs do with a service that visits its public address.
func onVisited(t *testing.T, cfg sim.Config, instances int, do func(t *testing.T, s *scene, v *visitor)) {
	onSceneOf(t, cfg, make([]sim.InstanceConfig, instances), func(t *testing.T, s *scene) {
		v := &visitor{s: s, lacks: map[descriptor.Address]bool{}, frozen: map[descriptor.Address]bool{}}
		s.stop()
		s.prepare = func() { s.env.Visitor, s.env.Checked = v, v.checked }
		s.custody = func(cfg *Config) {
			cfg.Visits = Visits{visitEvery, health.Spec{Kind: health.TCP, Port: 80, Fall: 3, FastInterval: 10 * time.Second}}
		}
		s.start()
		do(t, s, v)
	})
}

func line(a descriptor.Address) string { return "MasterOnionAddress " + a.String() }

// An instance without the public address in its ob_config is found, named with the
// line to add, and out until it was restarted with it.
func TestObConfigWithoutPublicAddress(t *testing.T) {
	t.Parallel()
	onVisited(t, sim.Config{Seed: 61, Relays: 100}, 3, func(t *testing.T, s *scene, v *visitor) {
		s.settle(30 * time.Minute)
		for _, i := range s.want("at first", status.StateOK).Instances {
			if i.Path != "" || i.Published == 0 {
				t.Errorf("%s: %q, %d points", i.Name, i.Path, i.Published)
			}
		}
		bad := s.instances[0]
		v.set(v.lacks, bad, true)
		out := func() bool { return s.service.Status().Instances[0].Published == 0 }
		s.until("found without the line", 4*time.Hour, out) // visits choose a point at random
		s.settle(2 * time.Hour)
		got := s.want("without the line", status.StateDegraded).Instances
		if web1 := got[0]; web1.Published != 0 || !strings.HasSuffix(web1.Path, line(s.service.Address())) ||
			!strings.Contains(strings.Join(web1.Warnings, "\n"), line(s.service.Address())+restartFix) || len(web1.Warnings) != 1 {
			t.Errorf("web1: %d points, %q, %q", web1.Published, web1.Path, web1.Warnings)
		}
		if got[1].Published == 0 || got[2].Published == 0 || got[1].Path+got[2].Path != "" || time.Since(got[1].Visited) > 2*time.Hour {
			t.Errorf("the others: %+v", got[1:])
		}
		for instance, n := range s.reach("without the line", 20) {
			if instance == bad {
				t.Errorf("%d visitors got to it", n)
			}
		}
		// Restarted without the line, it has its chance, and fails again.
		bad.SetOnline(false)
		bad.SetOnline(true)
		s.until("it has its chance", time.Hour, func() bool { return !out() })
		s.until("found again", 4*time.Hour, out)
		if web1 := s.service.Status().Instances[0]; web1.Path == "" {
			t.Error("after a restart without the line nothing names it")
		}
		v.set(v.lacks, bad, false)
		bad.SetOnline(false)
		bad.SetOnline(true)
		s.settle(time.Hour)
		for _, i := range s.want("with the line", status.StateOK).Instances {
			if i.Path != "" || i.Published == 0 {
				t.Errorf("%s: %q, %d points", i.Name, i.Path, i.Published)
			}
		}
	})
}

// What several instances lack takes half of them out at most, a frozen one is not called
// one without the line, and what our own tor does is nobody's fault.
func TestPathsThatAreNotBroken(t *testing.T) {
	t.Parallel()
	onVisited(t, sim.Config{Seed: 62, Relays: 100}, 4, func(t *testing.T, s *scene, v *visitor) {
		s.settle(10 * time.Minute)
		v.set(v.frozen, s.instances[0], true)
		s.settle(2 * time.Hour)
		if i := s.service.Status().Instances[0]; i.Path != "" || i.Published == 0 {
			t.Errorf("a frozen instance: %q, %d points", i.Path, i.Published)
		}
		v.set(v.frozen, s.instances[0], false)
		s.settle(30 * time.Minute) // the last visits may have failed, and what failed stands while there is no tor
		v.mu.Lock()
		v.cut = true
		v.mu.Unlock()
		before := v.count()
		s.settle(time.Hour)
		if n := v.count() - before; n < 10 {
			t.Errorf("%d visits in an hour without a tor", n)
		}
		s.want("without a tor", status.StateOK)
		v.mu.Lock()
		v.cut = false
		v.mu.Unlock()
		for _, i := range s.instances {
			v.set(v.lacks, i, true)
		}
		s.settle(2 * time.Hour)
		got := s.want("with no line at all", status.StateDegraded)
		out, named := 0, 0
		for _, i := range got.Instances {
			if i.Published == 0 {
				out++
			}
			if i.Path != "" {
				if named++; len(i.Warnings) != 1 {
					t.Errorf("%s: %q", i.Name, i.Warnings)
				}
			}
		}
		if out != 2 || named != 4 || !warned(got, "the public address does not answer visits") || got.VisitError == "" {
			t.Errorf("%d instances are out and %d named; %q", out, named, got.Warnings)
		}
	})
}

// The manager visits a restricted address with a key of its own, which is one of the
// clients while there are visits, and at no other time.
func TestVisitsOfRestrictedAddress(t *testing.T) {
	key, err := descriptor.ParseClientKey([]byte("descriptor:x25519:OM7TGIVRYMY6PFX6GAC6ATRTA5U6WW6U7A4ZNHQDI6OVL52XVV2Q"))
	if err != nil {
		t.Fatal(err)
	}
	onVisited(t, sim.Config{Seed: 63}, 2, func(t *testing.T, s *scene, v *visitor) {
		clients := func() int { return len(s.service.Plan().Contents.Clients) }
		s.settle(20 * time.Minute)
		if clients() != 0 {
			t.Errorf("%d clients of a public address", clients())
		}
		cfg := s.config()
		cfg.Clients = []descriptor.AuthorizedClient{key.Client()}
		s.service.Reconfigure(cfg)
		s.settle(20 * time.Minute)
		s.want("restricted", status.StateOK)
		if clients() != 2 || !slices.Contains(s.service.Plan().Contents.Clients, key.Client()) {
			t.Errorf("%d clients of a restricted address", clients())
		}
		v.mu.Lock()
		last, first, own := v.visits[len(v.visits)-1], v.keys[0], v.keys[len(v.keys)-1]
		v.mu.Unlock()
		if last.Err != nil || own == nil || first != nil {
			t.Errorf("the last visit: %v", last.Err)
		}
		built := s.service.Status().Descriptors[0].Built
		s.settle(20 * time.Minute)
		if now := s.service.Status().Descriptors[0]; now.Built != built {
			t.Errorf("published again for %s", now.Reason)
		}
		cfg = s.config()
		cfg.Clients, cfg.Visits = []descriptor.AuthorizedClient{key.Client()}, Visits{}
		s.service.Reconfigure(cfg)
		s.settle(time.Minute)
		before := v.count()
		s.settle(time.Hour)
		if clients() != 1 || v.count() != before {
			t.Errorf("%d clients and %d visits without visits", clients(), v.count()-before)
		}
	})
}

// A visit costs one fetch of the descriptor, from each HSDir in turn, and one comes about as
// often as configured, of the public address.
func TestVisitsCost(t *testing.T) {
	onVisited(t, sim.Config{Seed: 64}, 2, func(t *testing.T, s *scene, v *visitor) {
		s.fetchEvery(time.Hour)
		s.settle(10 * time.Minute)
		before := v.count()
		s.settle(2 * time.Hour)
		if n := v.count() - before; n < 21 || n > 27 {
			t.Errorf("%d visits in two hours, want about 24", n)
		}
		v.mu.Lock()
		spec := v.specs[0]
		v.mu.Unlock()
		if spec.Address != s.service.Address() || spec.Port != 80 {
			t.Errorf("visited %+v", spec)
		}
		for _, d := range s.service.Status().Descriptors {
			for _, slot := range d.Slots {
				if d.Current && !slot.Reserve && time.Since(slot.ReadBack) > 40*time.Minute {
					t.Errorf("HSDir %s was read back %s ago", slot.HSDir, time.Since(slot.ReadBack))
				}
			}
		}
	})
}

// A probe address that failed says what is missing, but only warns until it has
// answered once; one that recovers gives the public path another chance.
func TestProbePath(t *testing.T) {
	public, probe := descriptor.Address{1}, descriptor.Address{2}
	at := time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)
	tick := func() time.Time { at = at.Add(time.Second); return at }
	miss := func(p *health.Path) {
		for n := range byte(3) {
			p.Visited(tick(), health.PointResult{Relay: descriptor.Fingerprint{n}, Acknowledged: true}, 3)
		}
		p.Checked(health.Result{Began: tick(), Ended: at, Stage: health.Answered})
	}
	answer := func(p *health.Path) {
		p.Visited(tick(), health.PointResult{Acknowledged: true, Answered: true}, 3)
	}
	p := &path{Path: health.Path{Fall: 3}}
	of := ProbePath{Address: probe, Path: health.Path{Fall: 3, Probe: true}}
	want := func(when, why string) {
		t.Helper()
		if got := p.why(public, of); got != why {
			t.Errorf("%s: %q, want %q", when, got, why)
		}
	}
	want("nothing known", "")
	miss(&of.Path)
	want("a probe address that never answered", "")
	answer(&of.Path)
	want("it answers", "")
	miss(&of.Path)
	want("its line is gone", lacks(probe))
	answer(&p.Path)
	want("but visitors of the public address get through", "")
	miss(&p.Path)
	want("neither gets through", lacks(public))
	answer(&of.Path)
	want("the probe address answers again", "")
	miss(&p.Path)
	want("and the public one does not", lacks(public))
	want("with a probe address that goes on answering", lacks(public))
}

// A path that breaks and one that is whole again are events, once.
func TestPathEvents(t *testing.T) {
	var told []event.Event
	s := &Service{cfg: Config{Instances: []Instance{{Name: "web1", Address: descriptor.Address{1}}}}}
	s.env = Env{Now: time.Now, Record: func(e event.Event) { told = append(told, e) }}
	s.path(descriptor.Address{1})
	s.path(descriptor.Address{2}) // of an instance that is no longer configured
	for range 3 {
		s.tellPaths(View{Unreached: map[descriptor.Address]string{{1}: lacks(descriptor.Address{9})}})
	}
	if len(told) != 1 || strings.Contains(told[0].Text, ".onion") || len(s.visits.paths) != 1 {
		t.Errorf("broken: %+v, %d paths", told, len(s.visits.paths))
	}
	for range 3 {
		s.tellPaths(View{})
	}
	if len(told) != 2 || !strings.Contains(told[1].Text, "again") {
		t.Errorf("whole: %+v", told)
	}
}
