package tell

import (
	"math"
	"math/rand/v2"
	"testing"
)

// alpha is how often a report on lots without a difference may find one.
const alpha = 1e-4

func measureAll(t *testing.T, samples []*Sample) (lot []Features) {
	t.Helper()
	for _, s := range samples {
		f, err := Measure(s)
		if err != nil {
			t.Fatal(err)
		}
		lot = append(lot, f)
	}
	return lot
}

// captured returns what the archive has of real tor, which is read and measured once.
func captured(t *testing.T) ([]capture, []*Sample) {
	t.Helper()
	captures, err := readCaptures(capturedFile)
	if err != nil {
		t.Fatal(err)
	}
	real, err := samples(captures)
	if err != nil {
		t.Fatal(err)
	}
	if len(real) < 200 {
		t.Fatalf("%d captured descriptors", len(real))
	}
	return captures, real
}

// TestOrdinaryLooksOrdinary: nothing that was measured tells our descriptors from those
// of real tor better than chance would.
func TestOrdinaryLooksOrdinary(t *testing.T) {
	captures, real := captured(t)
	tor := measureAll(t, real)
	report := Compare(tor, measureAll(t, newOurs(t, captures, 1, recipe{}).samples(real)))
	for _, f := range report[:5] {
		t.Log(f)
	}
	for _, f := range report.Tells(alpha) {
		t.Errorf("told apart by %v", f)
	}
}

// TestFaultsAreTold: descriptors with any one fault are told from those of real tor, by
// the feature that the fault is about.
func TestFaultsAreTold(t *testing.T) {
	captures, real := captured(t)
	real = real[:80]
	tor := measureAll(t, real)
	for feature, r := range map[string]recipe{
		"points: expiries":                            {copied: true},
		"made: points' hours":                         {copied: true},
		"made: certificate's hours":                   {oneExpiry: true},
		"made: certificate's exact hours":             {fromHour: true},
		"points":                                      {points: func(r *rand.Rand) int { return 3 + r.IntN(2) }},
		"second layer: bytes":                         {points: func(*rand.Rand) int { return 8 }},
		"pair: points in both":                        {alike: true},
		"slots: one of counters":                      {ownCounter: true},
		"outer: bytes":                                {unpadded: true},
		"points: order by key":                        {byInstance: true},
		"second layer: flow-control":                  {noFlow: true},
		"outer: certificate's hours before a point's": {oneExpiry: true},
	} {
		report := Compare(tor, measureAll(t, newOurs(t, captures, 2, r).samples(real)))
		found, together := false, false
		for _, f := range report.Tells(alpha) {
			found = found || f.Feature == feature
			together = together || f.Feature == "all together"
		}
		if !found || !together {
			t.Errorf("%s: found %v, found by all features %v; %v", feature, found, together, report[:2])
		}
	}
}

func TestFisher(t *testing.T) {
	for _, test := range []struct {
		hits, marked, drawn, all int
		want                     float64
	}{{0, 5, 3, 10, 1}, {3, 5, 3, 10, 10. / 120}, {2, 5, 3, 10, 60. / 120}, {100, 100, 100, 200, 1.1e-59}, {4, 3, 4, 9, 0}} {
		if got := fisher(test.hits, test.marked, test.drawn, test.all); math.Abs(got-test.want) > 0.01*test.want+1e-300 {
			t.Errorf("%d hits of %d marked and %d drawn of %d: %g, want %g", test.hits, test.marked, test.drawn, test.all, got, test.want)
		}
	}
}

// TestNoDifference: of lots that are drawn alike, few reports find a difference.
func TestNoDifference(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	draw := func() (lot []Features) {
		for range 100 {
			f := make(Features)
			for _, name := range []string{"a", "b", "c"} {
				f.word(name, random.IntN(6))
				f.number(name+" number", random.IntN(30))
			}
			lot = append(lot, f)
		}
		return lot
	}
	found := 0
	for range 200 {
		if len(Compare(draw(), draw()).Tells(0.05)) > 0 {
			found++
		}
	}
	if found > 20 { // ten at most are expected
		t.Errorf("%d of 200 found a difference", found)
	}
}
