package health

import (
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
)

// TestPath goes through stories, one letter for each event, a second apart:
//
//	a b c  an introduction at this point was answered
//	A B C  it was acknowledged only
//	n      no point acknowledged
//	+ -    a check of the instance's own address was answered, was not
//	0      no tor took the check
//	x      the instance has other points; y: one of them is another; z: they are the same
func TestPath(t *testing.T) {
	for _, test := range []struct {
		what   string
		story  string
		probe  bool
		single bool // one point is published
		want   string
	}{
		{what: "nothing is known", story: "", want: ""},
		{what: "it answers", story: "abc+", want: ""},
		{what: "no line in ob_config", story: "+ABC+", want: "broken"},
		{what: "no check has passed since", story: "+ABC", want: "suspected"},
		{what: "no check is made", story: "ABCABC", want: "suspected"},
		{what: "no tor for checks", story: "+ABC0", want: "suspected"},
		{what: "too few", story: "+AB+", want: "suspected"},
		{what: "too few in a row", story: "+ABcAB+", want: "suspected"},
		{what: "a point that does not acknowledge says nothing", story: "+AnBnnC+", want: "broken"},
		{what: "it never acknowledges", story: "+nnnnnnn+", want: ""},
		{what: "the instance is dead", story: "+ABC-", want: ""},
		{what: "the instance was frozen for a while", story: "+AB-C+", want: "suspected"},
		{what: "frozen, and back", story: "+ABC-+", want: ""},
		{what: "one dead point", story: "+AAAA+", want: "suspected"},
		{what: "its one point", story: "+AAA+", single: true, want: "broken"},
		{what: "broken stays broken", story: "+ABC+-+zz", want: "broken"},
		{what: "broken, and answers after all", story: "+ABC+a", want: ""},
		{what: "restarted with the line", story: "x+ABC+xa", want: ""},
		{what: "restarted without the line", story: "x+ABC+xABC+", want: "broken"},
		{what: "restarted, and not visited since", story: "x+ABC+x", want: ""},
		{what: "one new point", story: "x+ABC+y", want: ""},
		{what: "misses at points of before a restart", story: "x+ABx+C+", want: "suspected"},
		{what: "a point replaced under load", story: "x+ABy+C+", want: "broken"},
		{what: "a probe whose line was never there", story: "+ABC+", probe: true, want: "unproven"},
		{what: "a probe whose line is gone", story: "a+ABC+", probe: true, want: "broken"},
		{what: "a probe whose line was added", story: "+ABC+a", probe: true, want: ""},
	} {
		at := time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)
		p := Path{Fall: 3, Probe: test.probe}
		published, serial := 3, byte(0)
		if test.single {
			published = 1
		}
		points := [][32]byte{{1}, {2}, {3}}
		for _, event := range test.story {
			at = at.Add(time.Second)
			relay := descriptor.Fingerprint{byte(strings.ToLower(string(event))[0])}
			switch {
			case event == '+':
				p.Checked(Result{Began: at, Ended: at, Stage: Answered})
			case event == '-':
				p.Checked(Result{Began: at, Ended: at, Stage: Introduced})
			case event == '0':
				p.Checked(Result{Began: at, Ended: at, Stage: NoTor})
			case event == 'x':
				serial++
				points = [][32]byte{{1, serial}, {2, serial}, {3, serial}}
				p.Offers(points)
			case event == 'y':
				serial++
				points = [][32]byte{points[0], points[1], {3, serial}}
				p.Offers(points)
			case event == 'z':
				p.Offers(points)
			case event == 'n':
				p.Visited(at, PointResult{Relay: relay}, published)
			default:
				p.Visited(at, PointResult{Relay: relay, Acknowledged: true, Answered: event >= 'a'}, published)
			}
		}
		got := ""
		switch {
		case p.Broken():
			got = "broken"
		case p.Unproven():
			got = "unproven"
		case p.Suspected():
			got = "suspected"
		}
		if got != test.want {
			t.Errorf("%s (%s): %q, want %q", test.what, test.story, got, test.want)
		}
	}
}

// A pass that is shown again, of before the last miss, proves nothing.
func TestPathOldCheck(t *testing.T) {
	at := time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)
	p := Path{Fall: 2}
	old := Result{Began: at, Ended: at.Add(time.Second), Stage: Spoken}
	for n := range 3 {
		p.Visited(at.Add(time.Minute), PointResult{Relay: descriptor.Fingerprint{byte(n)}, Acknowledged: true}, 3)
		if p.Checked(old); p.Broken() {
			t.Fatal("broken by a check of before")
		}
	}
	// Nor does a failure of before clear anybody.
	p.Checked(Result{Began: at, Ended: at.Add(time.Second), Stage: NoPoint})
	if p.Checked(Result{Began: at.Add(2 * time.Minute), Stage: Spoken}); !p.Broken() {
		t.Error("not broken")
	}
}
