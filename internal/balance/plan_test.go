package balance

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/credential"
	"onionbalancer/selection"
)

var testNow = time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)

// testPoint returns an introduction point told apart by n.
func testPoint(n byte) descriptor.IntroductionPoint {
	return descriptor.IntroductionPoint{
		LinkSpecifiers: []descriptor.LinkSpecifier{{Type: descriptor.LinkRSA, Data: append(make([]byte, 19), n)}},
		OnionKey:       [32]byte{n, 1}, AuthKey: [32]byte{n, 2}, EncKey: [32]byte{n, 3},
		Expires: testNow.Add(24 * time.Hour),
	}
}

// testBackend is an instance with its name.
type testBackend struct {
	*backend.Backend
	name string
	held *descriptor.Descriptor
}

// testInstance returns an instance that is ok, with the given points.
func testInstance(name string, points ...byte) *testBackend {
	b := &testBackend{name: name, held: &descriptor.Descriptor{}, Backend: &backend.Backend{
		Finding: backend.Found, Renewed: testNow.Add(-time.Hour), Seen: testNow, Heard: testNow, Answered: testNow,
		Due: testNow.Add(time.Minute), Interval: time.Minute,
	}}
	b.Address[0] = name[0]
	b.held.FlowControl = &descriptor.FlowControl{Versions: "1-2", SendmeInc: 31}
	for _, n := range points {
		b.held.IntroductionPoints = append(b.held.IntroductionPoints, testPoint(n))
	}
	return b
}

// anyRelay vouches for all relays.
func anyRelay(p descriptor.IntroductionPoint) (descriptor.IntroductionPoint, error) { return p, nil }

// testView is what a service with the given instances sees.
func testView(instances ...*testBackend) View {
	v := View{Now: testNow, SendmeInc: 31, Vouch: anyRelay}
	v.Config = Config{Strategy: selection.Spread{}, Room: selection.Room{Points: 20, PerInstance: 3}}
	for _, i := range instances {
		if i.held != nil {
			i.Descriptor, i.Offer = i.held, backend.OfferOf(i.held)
		}
		v.Config.Instances = append(v.Config.Instances, Instance{Name: i.name, Address: i.Address, Weight: 1})
		v.Instances.Backends = append(v.Instances.Backends, i.Backend)
	}
	for role := range v.Targets {
		v.Targets[role] = testTarget(uint64(20000+role), 8)
	}
	return v
}

var testCredential, testLater = &credential.Credential{Expires: testNow.Add(50 * time.Hour)}, &credential.Credential{Expires: testNow.Add(70 * time.Hour)}

// testTarget returns a descriptor's target at HSDirs 1 to n.
func testTarget(period uint64, n byte) ViewTarget {
	p := descriptor.Period{Number: period, Length: 24 * time.Hour}
	t := ViewTarget{Ring: &hsdir.Ring{Period: p}, Keys: descriptor.PeriodKeys{Period: p}, Credential: testCredential}
	for i := range n {
		t.Slots = append(t.Slots, hsdir.Slot{Replica: 1, HSDir: [20]byte{i + 1}})
	}
	return t
}

// published is the state of a service that carried the plan of v out an hour ago.
func published(v View) State {
	p := makePlan(v, State{})
	s := State{Editions: map[descriptor.Period]*Edition{}, Published: p.Chosen, Contents: p.Contents}
	for n := range p.Targets {
		t := &p.Targets[n]
		e := newEdition(testNow.Add(-time.Hour), t, nil, 5)
		e.Refresh, e.heard = testNow.Add(time.Minute), testNow.Add(-time.Hour)
		for i := range e.slots {
			e.slots[i].confirmed = e.heard
		}
		s.Editions[t.Keys.Period] = e
	}
	return s
}

func candidateNames(list []selection.Candidate) string {
	text := ""
	for _, c := range list {
		text += c.Instance + string('0'+rune(c.Point.AuthKey[0]))
	}
	return text
}

func TestCandidates(t *testing.T) {
	silent, unknown, legacy := testInstance("s", 1), testInstance("u", 2), testInstance("l", 3, 4)
	silent.Renewed = testNow.Add(-backend.SilentAfter - time.Second)
	unknown.Finding, unknown.Failures = backend.NotFound, 2
	legacy.held.IntroductionPoints[0].Legacy = true
	expired := testInstance("e", 5, 6)
	expired.held.IntroductionPoints[1].Expires = testNow
	never := &testBackend{name: "n", Backend: &backend.Backend{Finding: backend.Unreachable}}
	for _, test := range []struct {
		what     string
		in       []*testBackend
		want     string
		fallback bool
	}{
		{"all ok", []*testBackend{testInstance("a", 1, 2), testInstance("b", 3)}, "a1a2b3", false},
		{"silent and unknown stay out while another is ok", []*testBackend{silent, unknown, testInstance("a", 7)}, "a7", false},
		{"the last known are better than none", []*testBackend{silent, unknown, never}, "s1u2", true},
		{"legacy and expired points stay out", []*testBackend{legacy, expired}, "l4e5", false},
		{"never seen", []*testBackend{never}, "", true},
	} {
		got := gather(testView(test.in...))
		if candidateNames(got.candidates) != test.want || got.fallback != test.fallback {
			t.Errorf("%s: %q, %v; want %q, %v", test.what, candidateNames(got.candidates), got.fallback, test.want, test.fallback)
		}
	}
}

func TestContents(t *testing.T) {
	a, b, c := testInstance("a", 1), testInstance("b", 2), testInstance("c", 3)
	a.held.SingleOnion, b.held.SingleOnion = true, true
	b.held.FlowControl = &descriptor.FlowControl{Versions: "2-3", SendmeInc: 30}
	b.held.PowParams = []descriptor.PowParams{{Scheme: "v1"}}
	c.held.FlowControl = nil
	build := func(instances ...*testBackend) *descriptor.Contents {
		v := testView(instances...)
		v.SendmeInc = 32
		p := gather(v)
		return contents(p.candidates, v, p.flow)
	}
	if got := build(a); !got.SingleOnion || *got.FlowControl != (descriptor.FlowControl{Versions: "1-2", SendmeInc: 32}) {
		t.Errorf("one instance: %+v", got)
	}
	got := build(a, b)
	if !got.SingleOnion || *got.FlowControl != (descriptor.FlowControl{Versions: "2", SendmeInc: 32}) {
		t.Errorf("what both have: %+v, %+v", got, got.FlowControl)
	}
	if got.PowParams != nil {
		t.Error("proof-of-work parameters of an instance were copied")
	}
	if !slices.Equal(got.Create2Formats, []int{2}) || len(got.IntroductionPoints) != 2 {
		t.Errorf("contents: %+v", got)
	}
	if got := build(a, c); got.SingleOnion || got.FlowControl != nil || len(got.IntroductionPoints) != 2 {
		t.Errorf("what one of them lacks: %+v", got)
	}
	d := testInstance("d", 4)
	if got := build(a, c, d); got.SingleOnion || *got.FlowControl != (descriptor.FlowControl{Versions: "1-2", SendmeInc: 32}) || len(got.IntroductionPoints) != 2 {
		t.Errorf("what one of three lacks: %+v", got)
	}
	if got := build(); got.SingleOnion || got.FlowControl != nil {
		t.Errorf("no points: %+v", got)
	}
}

func TestVersionRanges(t *testing.T) {
	for _, test := range []struct{ in, out string }{
		{"1-2", "1-2"}, {"1", "1"}, {"4,1-2", "1-2,4"}, {"1,2,3", "1-3"}, {"63", "63"}, {"0-63", "0-63"},
		{"", ""}, {"x", ""}, {"2-1", ""}, {"64", ""}, {"62-200", "62-63"}, {"1-2-3", ""},
	} {
		if got := versionRanges(versionSet(test.in)); got != test.out {
			t.Errorf("%q becomes %q, want %q", test.in, got, test.out)
		}
	}
}

// What a plan asks for, for each change of the world or of what is published.
func TestPlanReasons(t *testing.T) {
	for _, test := range []struct {
		what    string
		points  []byte // of the instance now; 1 and 2 are published
		change  func(v *View, e *Edition)
		reason  Reason
		urgency hsdir.Urgency
	}{
		{what: "nothing changed"},
		{what: "only certificates renewed", change: func(v *View, _ *Edition) {
			v.Instances.Backends[0].Offer.Points[0].Expires = testNow.Add(30 * time.Hour)
		}},
		{what: "nothing to publish any more", points: []byte{}},
		{what: "another point", points: []byte{1, 3}, reason: ReasonChanged, urgency: hsdir.UrgencyPointsDead},
		{what: "all points are others", points: []byte{3, 4}, reason: ReasonChanged, urgency: hsdir.UrgencyNoLivePoint},
		{what: "an HSDir more", change: func(v *View, _ *Edition) { v.Targets[0].Slots = testTarget(0, 9).Slots }, reason: ReasonHSDirs, urgency: hsdir.UrgencyPointsDead},
		{what: "an HSDir less", change: func(v *View, _ *Edition) { v.Targets[0].Slots = testTarget(0, 7).Slots }},
		{what: "refresh", change: func(_ *View, e *Edition) { e.Refresh = testNow }, reason: ReasonRefresh, urgency: hsdir.UrgencyRefresh},
		{what: "lost", change: func(_ *View, e *Edition) { e.lost = true }, reason: ReasonLost, urgency: hsdir.UrgencyPointsDead},
		{what: "signing key", change: func(v *View, _ *Edition) { v.Targets[0].Credential = testLater }, reason: ReasonKey, urgency: hsdir.UrgencyRefresh},
		{what: "signing key gone", points: []byte{3}, change: func(v *View, _ *Edition) { v.Targets[0].Credential = nil }},
		{what: "certificate", change: func(v *View, e *Edition) {
			v.Targets[0].Credential = testLater
			e.Credential = &credential.Credential{Expires: testNow.Add(credential.ExpiryMargin - 1)}
		}, reason: ReasonExpiring, urgency: hsdir.UrgencyRefresh},
		{what: "rejected by one", change: func(_ *View, e *Edition) { e.retryAt = testNow }, reason: ReasonRejected, urgency: hsdir.UrgencyPointsDead},
		{what: "rejected by one, not yet", change: func(_ *View, e *Edition) { e.retryAt = testNow.Add(1) }},
	} {
		before := testView(testInstance("a", 1, 2))
		s := published(before)
		points := test.points
		if points == nil {
			points = []byte{1, 2}
		}
		v := testView(testInstance("a", points...))
		if test.change != nil {
			test.change(&v, s.Editions[v.Targets[0].Keys.Period])
		}
		p := makePlan(v, s)
		got := p.Targets[0]
		if got.Reason != test.reason || got.Held != "" || test.reason != "" && got.Urgency != test.urgency {
			t.Errorf("%s: reason %q, held %q, urgency %v; want %q, %v", test.what, got.Reason, got.Held, got.Urgency, test.reason, test.urgency)
		}
		if got.Reason != "" { // whatever the reason, every slot gets the one counter
			e := newEdition(testNow, &got, s.Editions[got.Keys.Period], 9)
			if len(e.slots) != len(v.Targets[0].Slots) || e.everywhere() || e.Revision != 9 {
				t.Errorf("%s: an edition of %d slots, want %d to upload", test.what, len(e.slots), len(v.Targets[0].Slots))
			}
		}
	}
	v := testView(testInstance("a", 1))
	if p := makePlan(v, State{}); p.Targets[0].Reason != ReasonNew || p.Targets[0].Urgency != hsdir.UrgencyNew {
		t.Errorf("never published: %q, %v", p.Targets[0].Reason, p.Targets[0].Urgency)
	}
	s := published(v)
	delete(s.Editions, v.Targets[1].Keys.Period)
	if p := makePlan(v, s); p.Targets[1].Reason != ReasonNew || p.Targets[1].Urgency != hsdir.UrgencyRotation {
		t.Errorf("a new period: %q, %v", p.Targets[1].Reason, p.Targets[1].Urgency)
	}
	v = testView(testInstance("a"))
	if p := makePlan(v, State{}); p.Targets[0].Reason != "" {
		t.Errorf("no points at all: %q", p.Targets[0].Reason)
	}
}

// A ring without HSDirs leaves what is published.
func TestPlanWithoutHSDirs(t *testing.T) {
	v := testView(testInstance("a", 1))
	s := published(v)
	for role := range v.Targets {
		v.Targets[role].Slots = nil
	}
	if p := makePlan(v, s); p.Waiting == "" || len(p.Targets) != 0 || p.Contents != s.Contents {
		t.Errorf("without HSDirs: %+v", p)
	}
}

// While nobody has heard of an instance for three intervals, what is published
// stays until half an hour before HSDirs drop it.
func TestPlanHeld(t *testing.T) {
	for _, test := range []struct {
		what  string
		heard time.Duration // ago
		built time.Duration // ago
		lost  bool
		held  bool
	}{
		{"fresh", time.Minute, 2 * time.Hour, false, false},
		{"not heard of for three intervals", 31 * time.Minute, 2 * time.Hour, false, true},
		{"heard of just within three intervals", 30 * time.Minute, 2 * time.Hour, false, false},
		{"about to be dropped", 31 * time.Minute, 150 * time.Minute, false, false},
		{"lost by the HSDirs", 31 * time.Minute, 2 * time.Hour, true, false},
	} {
		v := testView(testInstance("a", 1, 2))
		v.Instances.Backends[0].Heard, v.Instances.Backends[0].Interval = testNow.Add(-test.heard), 10*time.Minute
		s := published(v)
		e := s.Editions[v.Targets[0].Keys.Period]
		e.Built, e.Refresh, e.lost = testNow.Add(-test.built), testNow.Add(-time.Second), test.lost
		p := makePlan(v, s)
		if held := p.Targets[0].Held != ""; held != test.held || p.Targets[0].Reason == "" {
			t.Errorf("%s: reason %q, held %q", test.what, p.Targets[0].Reason, p.Targets[0].Held)
		}
		if at := e.Built.Add(keptFor - dropMargin); test.held && p.Next.After(at) {
			t.Errorf("%s: the next plan is at %s, want %s", test.what, p.Next, at)
		}
	}
}

// A plan is a pure function: the same view and state give the same, and are left
// as they were.
func TestPlanIsPure(t *testing.T) {
	view := func() View {
		return testView(testInstance("a", 1, 2), testInstance("b", 3, 4, 5), testInstance("c", 6))
	}
	v, s := view(), published(view())
	s.Published = s.Published[:3]
	keep := func() string {
		text, err := json.Marshal(struct {
			B []*backend.Backend
			P []selection.Candidate
			C *descriptor.Contents
			E uint64
		}{v.Instances.Backends, s.Published, s.Contents, s.Editions[v.Targets[0].Keys.Period].Revision})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	before := keep()
	first, second := makePlan(v, s), makePlan(v, s)
	if !reflect.DeepEqual(first, second) {
		t.Errorf("two plans of the same:\n%+v\n%+v", first, second)
	}
	if after := keep(); after != before {
		t.Errorf("what the plan was made from changed:\n%s\n%s", before, after)
	}
}

func TestPlanAsJSON(t *testing.T) {
	v := testView(testInstance("a", 1))
	v.Targets[0].Slots, v.Targets[1].Slots = v.Targets[0].Slots[:1], nil
	got, err := json.Marshal(makePlan(v, State{Version: 7}))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"at":"2026-11-20T09:00:00Z","version":7,`, `"expected_shares":{"a":1}`, `"period":20000,"reason":"new period"`,
		`"slots":[{"replica":1,"hsdir":"0100000000000000000000000000000000000000","introduction_points":["0000000000000000000000000000000000000001"]}]`,
	} {
		if !strings.Contains(string(got), want) {
			t.Errorf("%s lacks %s", got, want)
		}
	}
}

func TestAllRejected(t *testing.T) {
	v := testView(testInstance("a", 1))
	e := published(v).Editions[v.Targets[0].Keys.Period]
	e.slots = e.slots[:3]
	e.slots[0] = slot{rejected: true}
	if e.allRejected() {
		t.Error("one liar among three counts as all")
	}
	e.slots[1], e.slots[2] = slot{rejected: true}, slot{attempts: 4}
	if !e.allRejected() {
		t.Error("two rejections and one that never answered are not all")
	}
}

func TestWaitingForFetches(t *testing.T) {
	v := testView(testInstance("a", 1))
	v.Instances.Backends[0].Asking, v.Instances.Backends[0].Asked = true, testNow
	if p := makePlan(v, State{}); p.Waiting == "" || len(p.Targets) != 0 || !p.Next.After(testNow) {
		t.Errorf("with a fetch in flight: %+v", p)
	}
	v.Now = testNow.Add(time.Minute)
	if p := makePlan(v, State{}); p.Waiting != "" {
		t.Errorf("with a fetch that takes a minute: %q", p.Waiting)
	}
}
