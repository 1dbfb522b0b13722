package balance

import (
	"bytes"
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
	"onionbalancer/internal/health"
	"onionbalancer/selection"
)

// testPoint returns an introduction point told apart by n.
func testPoint(n byte) descriptor.IntroductionPoint {
	return descriptor.IntroductionPoint{
		LinkSpecifiers: []descriptor.LinkSpecifier{{Type: descriptor.LinkRSA, Data: append(make([]byte, 19), n)}},
		OnionKey:       [32]byte{n, 1}, AuthKey: [32]byte{n, 2}, EncKey: [32]byte{n, 3},
		Expires: testNow.Add(24 * time.Hour),
	}
}

// testMember returns an instance that is ok, with the given points.
func testMember(name string, points ...byte) *member {
	address := descriptor.Address{name[0]}
	d := &descriptor.Descriptor{}
	d.FlowControl = &descriptor.FlowControl{Versions: "1-2", SendmeInc: 31}
	for _, n := range points {
		d.IntroductionPoints = append(d.IntroductionPoints, testPoint(n))
	}
	return &member{Instance{Name: name, Address: address, Weight: 1}, &backend.Backend{
		Address: address, Finding: backend.Found, Renewed: testNow.Add(-time.Hour), Seen: testNow, Heard: testNow,
		Descriptor: d, Due: testNow.Add(time.Minute), Interval: 2 * time.Minute,
	}}
}

// anyRelay vouches for all relays.
func anyRelay(p *descriptor.IntroductionPoint) (*descriptor.IntroductionPoint, error) { return p, nil }

var (
	testPeriod     = descriptor.Period{Number: 20000, Length: 24 * time.Hour}
	testCredential = &credential.Credential{Expires: testNow.Add(50 * time.Hour)}
	testLater      = &credential.Credential{Expires: testNow.Add(70 * time.Hour)}
)

// testView returns a view of the instances, with slots at n HSDirs for the first
// descriptor.
func testView(n byte, members ...*member) View {
	v := View{Now: testNow, Vouch: anyRelay, SendmeInc: 31}
	v.Config = Config{Strategy: selection.Spread{}, Room: selection.Room{Points: 20, PerInstance: 3}}
	for _, m := range members {
		if m.Descriptor != nil {
			m.adopt(testNow)
		}
		v.Config.Instances = append(v.Config.Instances, m.Instance)
		v.Instances.Backends = append(v.Instances.Backends, m.Backend)
	}
	for role := range v.Targets {
		p := testPeriod
		p.Number += uint64(role)
		v.Targets[role] = ViewTarget{Ring: &hsdir.Ring{Period: p}, Keys: descriptor.PeriodKeys{Period: p}}
	}
	for i := range n {
		v.Targets[0].Slots = append(v.Targets[0].Slots, hsdir.Slot{Replica: 1, HSDir: [20]byte{i + 1}})
	}
	v.Targets[0].Credential = testCredential
	return v
}

// made is the state after the plan of v was carried out, an hour ago, and
// confirmed everywhere.
func made(v View) State {
	p := makePlan(v, State{})
	s := State{Editions: map[descriptor.Period]*Edition{}, Published: p.Chosen}
	e := newEdition(testNow.Add(-time.Hour), &p.Targets[0], nil, 5)
	e.Refresh = testNow.Add(time.Minute)
	e.due = e.Refresh
	for n := range e.slots {
		e.slots[n].confirmed = testNow.Add(-time.Hour)
	}
	e.heard = testNow.Add(-time.Hour)
	s.Editions[testPeriod] = e
	return s
}

func names(list []selection.Candidate) string {
	text := ""
	for _, c := range list {
		text += c.Instance + string('0'+rune(c.Point.AuthKey[0]))
	}
	return text
}

func TestCandidates(t *testing.T) {
	silent, unknown, legacy := testMember("s", 1), testMember("u", 2), testMember("l", 3, 4)
	silent.Renewed = testNow.Add(-backend.SilentAfter - time.Second)
	unknown.Finding, unknown.Failures = backend.NotFound, 2
	legacy.Descriptor.IntroductionPoints[0].Legacy = true
	expired := testMember("e", 5, 6)
	expired.Descriptor.IntroductionPoints[1].Expires = testNow
	never := testMember("n")
	never.Descriptor, never.Finding = nil, backend.Unreachable
	missed := testMember("m", 8)
	missed.Finding, missed.Failures = backend.NotFound, 1
	for _, test := range []struct {
		what     string
		in       []*member
		want     string
		fallback bool
	}{
		{"all ok", []*member{testMember("a", 1, 2), testMember("b", 3)}, "a1a2b3", false},
		{"silent and unknown stay out while another is ok", []*member{silent, unknown, testMember("a", 7)}, "a7", false},
		{"one fetch that finds nothing drops nobody", []*member{missed, testMember("a", 7)}, "m8a7", false},
		{"the last known are better than none", []*member{silent, unknown, never}, "s1u2", true},
		{"legacy and expired points stay out", []*member{legacy, expired}, "l4e5", false},
		{"points that expire soon stay out", []*member{soon(testMember("a", 1, 2, 3), 2), testMember("b", 4)}, "a3b4", false},
		{"unless there are no others", []*member{soon(testMember("a", 1, 2), 2), testMember("b", 4)}, "a1a2b4", false},
		{"never seen", []*member{never}, "", true},
	} {
		got := gather(testView(8, test.in...))
		if names(got.candidates) != test.want || got.fallback != test.fallback {
			t.Errorf("%s: %q, %v; want %q, %v", test.what, names(got.candidates), got.fallback, test.want, test.fallback)
		}
	}
}

// soon has the first n points of an instance expire before clients have forgotten
// what is published now.
func soon(m *member, n int) *member {
	for i := range n {
		m.Descriptor.IntroductionPoints[i].Expires = testNow.Add(keptFor)
	}
	return m
}

// TestExpiringPoints: a point leaves the descriptor as long before it expires as
// clients may be given what is published now, and its instance's status says so.
func TestExpiringPoints(t *testing.T) {
	m := soon(testMember("a", 1, 2), 1)
	m.Descriptor.IntroductionPoints[0].Expires, m.Due = testNow.Add(keptFor+time.Minute), testNow.Add(time.Hour)
	v := testView(8, m)
	s := made(v)
	p := makePlan(v, s)
	if at := testNow.Add(time.Minute); names(p.Chosen) != "a1a2" || p.Next.After(at) {
		t.Errorf("before: %q, until %v", names(p.Chosen), p.Next)
	}
	v.Now = testNow.Add(time.Minute)
	p = makePlan(v, s)
	if names(p.Chosen) != "a2" || p.Targets[0].Reason != ReasonChanged || !strings.Contains(strings.Join(p.Left["a"], ""), "about to expire") {
		t.Errorf("after: %q, %q, %q", names(p.Chosen), p.Targets[0].Reason, p.Left)
	}
}

func TestContents(t *testing.T) {
	a, b, c, d := testMember("a", 1), testMember("b", 2), testMember("c", 3), testMember("d", 4)
	a.Descriptor.SingleOnion, b.Descriptor.SingleOnion = true, true
	b.Descriptor.FlowControl = &descriptor.FlowControl{Versions: "2-3", SendmeInc: 30}
	b.Descriptor.PowParams = []descriptor.PowParams{{Scheme: "v1"}}
	c.Descriptor.FlowControl = nil
	build := func(members ...*member) *descriptor.Contents {
		v := testView(8, members...)
		v.Config.CAA = []descriptor.CAA{{Tag: "issue", Value: "ca.example"}}
		v.Config.Clients = []descriptor.AuthorizedClient{{PublicKey: [32]byte{9}}}
		p := gather(v)
		return contents(p.candidates, v, p.flow)
	}
	if got := build(a); !got.SingleOnion || *got.FlowControl != (descriptor.FlowControl{Versions: "1-2", SendmeInc: 31}) {
		t.Errorf("one instance: %+v", got)
	}
	got := build(a, b)
	if !got.SingleOnion || *got.FlowControl != (descriptor.FlowControl{Versions: "2", SendmeInc: 31}) {
		t.Errorf("what both have: %+v, %+v", got, got.FlowControl)
	}
	if got.PowParams != nil {
		t.Error("proof-of-work parameters of an instance were copied")
	}
	if !slices.Equal(got.Create2Formats, []int{2}) || len(got.IntroductionPoints) != 2 || len(got.CAA) != 1 || len(got.Clients) != 1 {
		t.Errorf("contents: %+v", got)
	}
	if got := build(a, c); got.SingleOnion || got.FlowControl != nil || len(got.IntroductionPoints) != 2 {
		t.Errorf("what one of them lacks: %+v", got)
	}
	if got := build(a, c, d); got.SingleOnion || *got.FlowControl != (descriptor.FlowControl{Versions: "1-2", SendmeInc: 31}) || len(got.IntroductionPoints) != 2 {
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

func TestPlan(t *testing.T) {
	view := func(points ...byte) View { return testView(8, testMember("a", points...)) }
	later := testMember("a", 1, 2)
	later.Descriptor.IntroductionPoints[0].Expires = testNow.Add(30 * time.Hour)
	with := func(v View, change func(v *View)) View {
		change(&v)
		return v
	}
	changed := func(s State, change func(e *Edition)) State {
		change(s.Editions[testPeriod])
		return s
	}
	records := func(critical bool) func(v *View) {
		return func(v *View) {
			v.Config.CAA, v.Config.CAACritical = []descriptor.CAA{{Tag: "issue", Value: "ca.example"}}, critical
		}
	}
	stale := func(v *View) { v.Instances.Backends[0].Heard = testNow.Add(-7 * time.Minute) }
	for _, test := range []struct {
		what    string
		state   State
		view    View
		reason  Reason
		urgency hsdir.Urgency
		held    bool
	}{
		{what: "nothing changed", state: made(view(1, 2)), view: view(1, 2)},
		{what: "only certificates renewed", state: made(view(1, 2)), view: testView(8, later)},
		{what: "nothing to publish", view: view()},
		{what: "nothing to publish any more", state: made(view(1)), view: view()},
		{what: "never made", view: view(1), reason: ReasonNew, urgency: hsdir.UrgencyNew},
		{what: "another point", state: made(view(1, 2)), view: view(1, 3), reason: ReasonChanged, urgency: hsdir.UrgencyPointsDead},
		{what: "all points others", state: made(view(1, 2)), view: view(3, 4), reason: ReasonChanged, urgency: hsdir.UrgencyNoLivePoint},
		{what: "an HSDir more", state: made(testView(7, testMember("a", 1))), view: view(1), reason: ReasonHSDirs, urgency: hsdir.UrgencyPointsDead},
		{what: "an HSDir less", state: made(view(1)), view: testView(7, testMember("a", 1))},
		{what: "refresh", state: changed(made(view(1)), func(e *Edition) { e.Refresh = testNow }), view: view(1), reason: ReasonRefresh, urgency: hsdir.UrgencyRefresh},
		{what: "lost", state: changed(made(view(1)), func(e *Edition) { e.lost = true }), view: view(1), reason: ReasonLost, urgency: hsdir.UrgencyPointsDead},
		{what: "signing key", state: made(view(1)), view: with(view(1), func(v *View) { v.Targets[0].Credential = testLater }), reason: ReasonKey, urgency: hsdir.UrgencyRefresh},
		{what: "signing key gone", state: made(view(1)), view: with(view(2), func(v *View) { v.Targets[0].Credential = nil })},
		{what: "never had a signing key", view: with(view(2), func(v *View) { v.Targets[0].Credential = nil })},
		{what: "certificate", state: changed(made(view(1)), func(e *Edition) {
			e.Credential = &credential.Credential{Expires: testNow.Add(credential.ExpiryMargin - 1)}
		}), view: view(1), reason: ReasonExpiring, urgency: hsdir.UrgencyRefresh},
		{what: "rejected by one", state: changed(made(view(1)), func(e *Edition) { e.retryAt = testNow }), view: view(1), reason: ReasonRejected, urgency: hsdir.UrgencyPointsDead},
		{what: "rejected by one, not yet", state: changed(made(view(1)), func(e *Edition) { e.retryAt = testNow.Add(1) }), view: view(1)},
		{what: "other clients", state: made(view(1)), view: with(view(1), func(v *View) {
			v.Config.Clients = []descriptor.AuthorizedClient{{PublicKey: [32]byte{9}}}
		}), reason: ReasonClients, urgency: hsdir.UrgencyPointsDead},
		{what: "other clients in a stale view", state: made(view(1)), view: with(with(view(1), stale), func(v *View) {
			v.Config.Clients = []descriptor.AuthorizedClient{{PublicKey: [32]byte{9}}}
		}), reason: ReasonClients, urgency: hsdir.UrgencyPointsDead},
		{what: "CAA records critical", state: made(with(view(1), records(false))), view: with(view(1), records(true)), reason: ReasonChanged, urgency: hsdir.UrgencyPointsDead},
		{what: "none of them critical", state: made(view(1)), view: with(view(1), func(v *View) { v.Config.CAACritical = true })},
		{what: "a stale view", state: made(view(1)), view: with(view(2), stale), reason: ReasonChanged, urgency: hsdir.UrgencyNoLivePoint, held: true},
		{what: "a stale view, and HSDirs soon drop the last", state: changed(made(view(1)), func(e *Edition) { e.Built = testNow.Add(-150 * time.Minute) }),
			view: with(view(2), stale), reason: ReasonChanged, urgency: hsdir.UrgencyNoLivePoint},
		{what: "a stale view, and nothing published", view: with(view(2), stale), reason: ReasonNew, urgency: hsdir.UrgencyNew},
		{what: "a stale view, and nothing confirmed", state: changed(made(view(1)), func(e *Edition) { e.heard = time.Time{} }),
			view: with(view(2), stale), reason: ReasonChanged, urgency: hsdir.UrgencyNoLivePoint},
	} {
		p := makePlan(test.view, test.state)
		if again := makePlan(test.view, test.state); !reflect.DeepEqual(p, again) {
			t.Errorf("%s: the plan changes from one time to the next", test.what)
		}
		got := p.Targets[0]
		if got.Reason != test.reason || got.Reason != "" && got.Urgency != test.urgency || (got.Held != "") != test.held {
			t.Errorf("%s: %q, urgency %d, held %q; want %q, %d, %v", test.what, got.Reason, got.Urgency, got.Held, test.reason, test.urgency, test.held)
		}
		for n, at := range got.places {
			if at.holding != got.places[0].holding {
				t.Errorf("%s: slot %d holds something else", test.what, n)
			}
		}
	}
}

// While a fetch is in flight or due, nothing is decided, but not for long.
func TestPlanWaits(t *testing.T) {
	a, b := testMember("a", 1), testMember("b", 2)
	a.Asking, a.Asked = true, testNow.Add(-time.Second)
	b.Due = testNow.Add(-2 * time.Second)
	if p := makePlan(testView(8, a, b), State{}); p.Waiting == "" || !p.Next.Equal(testNow.Add(3*time.Second)) {
		t.Errorf("waits until %v: %q", p.Next, p.Waiting)
	}
	b.Due, b.Answered = testNow.Add(time.Minute), testNow.Add(-time.Second/2)
	if p := makePlan(testView(8, a, b), State{}); p.Waiting == "" || !p.Next.Equal(testNow.Add(time.Second/2)) {
		t.Errorf("after an answer, waits until %v: %q", p.Next, p.Waiting)
	}
	v := testView(8, a, b)
	if v.Waiting = testNow.Add(-waitMost); makePlan(v, State{}).Waiting != "" {
		t.Error("plans wait for one fetch after the other")
	}
	a.Asked, b.Answered = testNow.Add(-5*time.Second), testNow.Add(-time.Minute)
	if p := makePlan(testView(8, a, b), State{}); p.Waiting != "" {
		t.Errorf("waits for longer than five seconds: %q", p.Waiting)
	}
	if p := makePlan(testView(0, a, b), State{}); p.Waiting == "" || len(p.Targets) > 0 {
		t.Errorf("without an HSDir: %q", p.Waiting)
	}
}

// A plan can be printed, and shows no key.
func TestPlanPrints(t *testing.T) {
	p := makePlan(testView(2, testMember("a", 1), testMember("b", 2)), State{})
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var back map[string]any
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"reason":"new period"`, `"role":"first"`, `"expected_shares":{"a":0.5,"b":0.5}`, strings.Repeat("00", 19) + "01"} {
		if !bytes.Contains(raw, []byte(want)) {
			t.Errorf("no %s in %s", want, raw)
		}
	}
}

// Two editions of one second would differ in a counter that no clock explains.
func TestOneEditionASecond(t *testing.T) {
	v := testView(8, testMember("a", 1, 2), testMember("b", 3))
	s := made(v)
	built := testNow.Truncate(time.Second)
	s.Editions[testPeriod].Built = built
	v = testView(8, testMember("a", 1, 2))
	for after, held := range map[time.Duration]bool{-time.Second: false, 0: true, 900 * time.Millisecond: true, time.Second: false} {
		v.Now = built.Add(after)
		p := makePlan(v, s)
		if is := p.Targets[0]; is.Reason == "" || (is.Held != "") != held {
			t.Errorf("%v later: %q, held %q", after, is.Reason, is.Held)
		}
		if held && !p.Next.Equal(built.Add(time.Second)) {
			t.Errorf("%v later: planned again at %s", after, p.Next)
		}
	}
}

func TestMostRejected(t *testing.T) {
	refused, confirmed, silent := slot{rejected: true}, slot{confirmed: testNow}, slot{attempts: 4}
	for _, test := range []struct {
		slots []slot
		want  bool
	}{
		{[]slot{refused, confirmed, silent}, false},
		{[]slot{refused, refused, silent}, true},
		{[]slot{refused, refused, confirmed}, true}, // which lost what it held
		{[]slot{refused, confirmed, confirmed}, false},
		{[]slot{confirmed, silent}, false},
	} {
		if got := (&Edition{slots: test.slots}).mostRejected(); got != test.want {
			t.Errorf("%+v: %t", test.slots, got)
		}
	}
}

// Points that stay when no instance has any are for the clients of the present
// configuration, and for as many points as these leave room for.
func TestRemainingFollowsConfiguration(t *testing.T) {
	v := testView(8, testMember("a", 1, 2))
	v.Config.Clients, v.Config.CAA = []descriptor.AuthorizedClient{{PublicKey: [32]byte{8}}}, []descriptor.CAA{{Tag: "issue", Value: "old.example"}}
	s := made(v)
	v = testView(8, testMember("a"))
	v.Config.Clients, v.Config.CAA = []descriptor.AuthorizedClient{{PublicKey: [32]byte{9}}}, []descriptor.CAA{{Tag: "issue", Value: "new.example"}}
	p := makePlan(v, s)
	if !slices.Equal(p.Contents.Clients, v.Config.Clients) || !slices.Equal(p.Contents.CAA, v.Config.CAA) || len(p.Contents.IntroductionPoints) != 2 {
		t.Errorf("contents: %+v", p.Contents)
	}
	if t0 := p.Targets[0]; t0.Reason != ReasonClients || t0.Held != "" {
		t.Errorf("%q, held %q", t0.Reason, t0.Held)
	}
	v.Config.Room.Points = 1
	if p := makePlan(v, s); len(p.Contents.IntroductionPoints) != 1 {
		t.Errorf("%d points, with room for one", len(p.Contents.IntroductionPoints))
	}
}

// chooseNone is a strategy that chooses no point.
type chooseNone struct{ selection.Spread }

func (chooseNone) Wish([]selection.Standing, time.Time) selection.Wishes { return selection.Wishes{} }

// Without a chosen point something is missing, though an instance is ok.
func TestLacks(t *testing.T) {
	drained, silent, out := testMember("a", 1), testMember("a", 1), testMember("a", 1)
	out.Word.Admin = health.Drain
	drained.Weight = 0
	silent.Renewed = testNow.Add(-backend.SilentAfter - time.Second)
	ok := testView(8, testMember("a", 1))
	for _, test := range []struct {
		what     string
		member   *member
		strategy selection.Strategy
		state    State
		want     lack
	}{
		{"ok", testMember("a", 1), selection.Spread{}, State{}, lackNone},
		{"weight 0 everywhere", drained, selection.Weighted{}, State{}, lackNone},
		{"silent", silent, selection.Spread{}, State{}, lackInstance},
		{"no points", testMember("a"), selection.Spread{}, State{}, lackPoints},
		{"no points any more", testMember("a"), selection.Spread{}, made(ok), lackAll},
		{"taken out", out, selection.Spread{}, State{}, lackPoints},
		{"taken out after it was published", out, selection.Spread{}, made(ok), lackService},
		{"none is chosen", testMember("a", 1), chooseNone{}, State{}, lackChoice},
		{"none is chosen any more", testMember("a", 1), chooseNone{}, made(ok), lackChoice},
	} {
		v := testView(8, test.member)
		v.Config.Strategy = test.strategy
		p := makePlan(v, test.state)
		if got := new(Service).lacks(testNow, &p); got != test.want || (got == lackNone) != (len(p.Chosen) > 0 && !p.Fallback) {
			t.Errorf("%s: lacks %q, want %q; %d points chosen", test.what, got.warning(), test.want.warning(), len(p.Chosen))
		}
	}
}
