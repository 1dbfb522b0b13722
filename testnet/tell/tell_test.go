package tell

import (
	"math"
	"math/rand/v2"
	"sync"
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

// archive is what the archive has of real tor.
type archive struct {
	captures []capture
	samples  []*Sample
	lot      []Features
	offers   offers
}

var readArchive = sync.OnceValues(func() (a archive, err error) {
	if a.captures, err = readCaptures(capturedFile); err != nil {
		return a, err
	}
	if a.samples, err = samples(a.captures); err != nil {
		return a, err
	}
	for _, s := range a.samples {
		f, err := Measure(s)
		if err != nil {
			return a, err
		}
		a.lot = append(a.lot, f)
	}
	a.offers, err = offersOf(a.captures)
	return a, err
})

// archived returns the archive, which is read and measured once. It is read only.
func archived(t *testing.T) archive {
	t.Helper()
	a, err := readArchive()
	if err != nil {
		t.Fatal(err)
	}
	if len(a.samples) < 200 {
		t.Fatalf("%d captured descriptors", len(a.samples))
	}
	return a
}

// TestOrdinaryLooksOrdinary: nothing that was measured tells our descriptors from those
// of real tor better than chance would.
func TestOrdinaryLooksOrdinary(t *testing.T) {
	tor := archived(t)
	report := Compare(tor.lot, measureAll(t, newOurs(t, tor.offers, 1, recipe{}).samples(tor.samples)))
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
	tor := archived(t)
	tor.samples, tor.lot = tor.samples[:80], tor.lot[:80]
	for feature, r := range map[string]recipe{
		"points: expiries":                            {copied: true},
		"made: points' hours":                         {copied: true},
		"made: certificate's hours":                   {oneExpiry: true},
		"made: certificate's exact hours":             {hourEarly: true},
		"points":                                      {points: func(r *rand.Rand) int { return 3 + r.IntN(2) }},
		"second layer: bytes":                         {points: func(*rand.Rand) int { return 8 }},
		"pair: points in both":                        {alike: true},
		"slots: one of counters":                      {ownCounter: true},
		"outer: bytes":                                {unpadded: true},
		"points: order by key":                        {byInstance: true},
		"second layer: flow-control":                  {noFlow: true},
		"outer: certificate's hours before a point's": {oneExpiry: true},
	} {
		report := Compare(tor.lot, measureAll(t, newOurs(t, tor.offers, 2, r).samples(tor.samples)))
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
