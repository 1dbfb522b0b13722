package balance

import (
	"slices"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/status"
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

// testInstance returns an instance that is ok, with the given points.
func testInstance(name string, points ...byte) *instance {
	i := &instance{Instance: Instance{Name: name}, finding: Found, renewed: testNow.Add(-time.Hour), held: &descriptor.Descriptor{}}
	i.held.FlowControl = &descriptor.FlowControl{Versions: "1-2", SendmeInc: 31}
	for _, n := range points {
		i.held.IntroductionPoints = append(i.held.IntroductionPoints, testPoint(n))
	}
	return i
}

// anyRelay vouches for all relays.
func anyRelay(p descriptor.IntroductionPoint) (descriptor.IntroductionPoint, error) { return p, nil }

// offered makes the instances offer what they hold.
func offered(instances []*instance) []*instance {
	for _, i := range instances {
		if i.changes = newChanges(); i.held != nil {
			i.adopt(testNow, true)
		}
		i.see(testNow)
	}
	return instances
}

// candidates gathers what the instances offer, relays and keys being in order.
func candidates(now time.Time, instances []*instance) ([]selection.Candidate, bool) {
	p := gather(now, offered(instances), anyRelay, newClaims(descriptor.Period{}))
	return p.candidates, p.fallback
}

func names(list []selection.Candidate) string {
	text := ""
	for _, c := range list {
		text += c.Instance + string('0'+rune(c.Point.AuthKey[0]))
	}
	return text
}

func TestCandidates(t *testing.T) {
	silent, unknown, legacy := testInstance("s", 1), testInstance("u", 2), testInstance("l", 3, 4)
	silent.renewed = testNow.Add(-silentAfter - time.Second)
	unknown.finding = Unknown
	legacy.held.IntroductionPoints[0].Legacy = true
	expired := testInstance("e", 5, 6)
	expired.held.IntroductionPoints[1].Expires = testNow
	never := &instance{Instance: Instance{Name: "n"}, finding: Unreachable}
	for _, test := range []struct {
		what     string
		in       []*instance
		want     string
		fallback bool
	}{
		{"all ok", []*instance{testInstance("a", 1, 2), testInstance("b", 3)}, "a1a2b3", false},
		{"silent and unknown stay out while another is ok", []*instance{silent, unknown, testInstance("a", 7)}, "a7", false},
		{"the last known are better than none", []*instance{silent, unknown, never}, "s1u2", true},
		{"legacy and expired points stay out", []*instance{legacy, expired}, "l4e5", false},
		{"never seen", []*instance{never}, "", true},
	} {
		got, fallback := candidates(testNow, test.in)
		if names(got) != test.want || fallback != test.fallback {
			t.Errorf("%s: %q, %v; want %q, %v", test.what, names(got), fallback, test.want, test.fallback)
		}
	}
}

func TestInstanceState(t *testing.T) {
	for _, test := range []struct {
		what string
		make func(i *instance)
		want status.State
	}{
		{"fine", func(*instance) {}, status.StateOK},
		{"one fetch that nobody answered", func(i *instance) { i.finding = Unreachable }, status.StateOK},
		{"invalid after a good one", func(i *instance) { i.finding = Invalid }, status.StateOK},
		{"not renewed", func(i *instance) { i.renewed = testNow.Add(-3 * time.Hour) }, status.StateSilent},
		{"gone from the HSDirs", func(i *instance) { i.finding = Unknown }, status.StateUnknown},
		{"never asked", func(i *instance) { i.held, i.finding = nil, NotAsked }, status.StateStarting},
		{"never answered", func(i *instance) { i.held, i.finding = nil, Unreachable }, status.StateUnreachable},
		{"only invalid ones", func(i *instance) { i.held, i.finding = nil, Invalid }, status.StateInvalid},
	} {
		i := testInstance("a", 1)
		test.make(i)
		if got := i.state(testNow); got != test.want {
			t.Errorf("%s: %s, want %s", test.what, got, test.want)
		}
	}
}

func TestContents(t *testing.T) {
	a, b, c := testInstance("a", 1), testInstance("b", 2), testInstance("c", 3)
	a.held.SingleOnion, b.held.SingleOnion = true, true
	b.held.FlowControl = &descriptor.FlowControl{Versions: "2-3", SendmeInc: 30}
	b.held.PowParams = []descriptor.PowParams{{Scheme: "v1"}}
	c.held.FlowControl = nil
	build := func(instances ...*instance) *descriptor.Contents {
		p := gather(testNow, offered(instances), anyRelay, newClaims(descriptor.Period{}))
		return contents(p.candidates, instances, p.flow, 32)
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

var testAuthority, testLater = &authority{expires: testNow.Add(50 * time.Hour)}, &authority{expires: testNow.Add(70 * time.Hour)}

// renewed is w with the authority that replaces the one of testWanted.
func renewed(w wanted) wanted {
	w.authority = testLater
	return w
}

// unsigned is w with nobody to sign it.
func unsigned(w wanted) wanted {
	w.authority = nil
	return w
}

// testWanted returns a wanted descriptor at HSDirs 1 to n.
func testWanted(c *descriptor.Contents, n byte) wanted {
	p := descriptor.Period{Number: 20000, Length: 24 * time.Hour}
	w := wanted{ring: &hsdir.Ring{Period: p}, keys: descriptor.PeriodKeys{Period: p}, authority: testAuthority, contents: c}
	for i := range n {
		w.slots = append(w.slots, hsdir.Slot{Replica: 1, HSDir: [20]byte{i + 1}})
	}
	return w
}

// testEdition returns what was made of w an hour ago and confirmed everywhere.
func testEdition(w wanted) *edition {
	e := &edition{wanted: w, revision: 5, built: testNow.Add(-time.Hour), refresh: testNow.Add(time.Minute),
		filled: map[[20]byte]*filling{}}
	for _, s := range w.slots {
		e.filled[s.HSDir] = &filling{revision: 5, confirmed: testNow}
	}
	return e
}

func TestPlan(t *testing.T) {
	points := func(ns ...byte) *descriptor.Contents {
		list, _ := candidates(testNow, []*instance{testInstance("a", ns...)})
		return contents(list, nil, 1<<1|1<<2, 31)
	}
	later := points(1, 2)
	later.IntroductionPoints[0].Expires = testNow.Add(30 * time.Hour)
	for _, test := range []struct {
		what   string
		last   *edition
		want   wanted
		change func(*edition)
		reason Reason
		fresh  bool
		missed int
	}{
		{what: "nothing changed", last: testEdition(testWanted(points(1, 2), 8)), want: testWanted(points(1, 2), 8)},
		{what: "only certificates renewed", last: testEdition(testWanted(points(1, 2), 8)), want: testWanted(later, 8)},
		{what: "nothing to publish", want: testWanted(points(), 8)},
		{what: "nothing to publish any more", last: testEdition(testWanted(points(1), 8)), want: testWanted(points(), 8)},
		{what: "never made", want: testWanted(points(1), 8), reason: ReasonNew, fresh: true, missed: 8},
		{what: "another point", last: testEdition(testWanted(points(1, 2), 8)), want: testWanted(points(1, 3), 8), reason: ReasonChanged, fresh: true, missed: 8},
		{what: "another order", last: testEdition(testWanted(points(1, 2), 8)), want: testWanted(points(2, 1), 8), reason: ReasonChanged, fresh: true, missed: 8},
		{what: "an HSDir more", last: testEdition(testWanted(points(1), 7)), want: testWanted(points(1), 8), reason: ReasonHSDirs, missed: 1},
		{what: "an HSDir less", last: testEdition(testWanted(points(1), 8)), want: testWanted(points(1), 7), reason: ReasonHSDirs},
		{what: "refresh", last: testEdition(testWanted(points(1), 8)), want: testWanted(points(1), 8),
			change: func(e *edition) { e.refresh = testNow }, reason: ReasonRefresh, fresh: true, missed: 8},
		{what: "lost", last: testEdition(testWanted(points(1), 8)), want: testWanted(points(1), 8),
			change: func(e *edition) { e.lost = true }, reason: ReasonLost, fresh: true, missed: 8},
		{what: "signing key", last: testEdition(testWanted(points(1), 8)), want: renewed(testWanted(points(1), 8)), reason: ReasonKey, fresh: true, missed: 8},
		{what: "signing key gone", last: testEdition(testWanted(points(1), 8)), want: unsigned(testWanted(points(2), 8))},
		{what: "never had a signing key", want: unsigned(testWanted(points(2), 8))},
		{what: "certificate", last: testEdition(testWanted(points(1), 8)), want: renewed(testWanted(points(1), 8)),
			change: func(e *edition) { e.authority = &authority{expires: testNow.Add(certificateMargin - 1)} }, reason: ReasonExpiring, fresh: true, missed: 8},
		{what: "rejected by one", last: testEdition(testWanted(points(1), 8)), want: testWanted(points(1), 8),
			change: func(e *edition) { *e.filled[e.slots[3].HSDir] = filling{rejections: 1, retryAt: testNow} }, reason: ReasonRejected, missed: 1},
		{what: "rejected by one, not yet", last: testEdition(testWanted(points(1), 8)), want: testWanted(points(1), 8),
			change: func(e *edition) { *e.filled[e.slots[3].HSDir] = filling{rejections: 1, retryAt: testNow.Add(1)} }},
		{what: "rejected by one, and sent again", last: testEdition(testWanted(points(1), 8)), want: testWanted(points(1), 8),
			change: func(e *edition) { *e.filled[e.slots[3].HSDir] = filling{rejections: 1} }},
		{what: "no ring at all", last: testEdition(testWanted(points(1), 0)), want: testWanted(points(1), 0)},
	} {
		made := map[descriptor.Period]*edition{}
		if test.last != nil {
			made[test.want.keys.Period] = test.last
		}
		if test.change != nil {
			test.change(test.last)
		}
		steps := plan(testNow, []wanted{test.want}, made)
		switch {
		case test.reason == "" && len(steps) > 0:
			t.Errorf("%s: planned %q, want nothing", test.what, steps[0].reason)
		case test.reason == "":
		case len(steps) != 1:
			t.Errorf("%s: %d steps, want 1", test.what, len(steps))
		case steps[0].reason != test.reason || steps[0].fresh != test.fresh || len(steps[0].missed) != test.missed:
			t.Errorf("%s: %q, fresh %v, %d places; want %q, %v, %d", test.what,
				steps[0].reason, steps[0].fresh, len(steps[0].missed), test.reason, test.fresh, test.missed)
		}
	}
}

func TestAllRejected(t *testing.T) {
	e := testEdition(testWanted(&descriptor.Contents{}, 3))
	reject := func(n int) { *e.filled[e.slots[n].HSDir] = filling{rejections: 1} }
	reject(0)
	if e.allRejected() {
		t.Error("one liar among three counts as all")
	}
	reject(1)
	*e.filled[e.slots[2].HSDir] = filling{attempts: 4}
	if !e.allRejected() {
		t.Error("two rejections and one that never answered are not all")
	}
}
