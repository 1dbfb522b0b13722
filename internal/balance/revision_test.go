package balance

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/state"
)

var testRun = time.Unix(1_800_000_000, 0)

// testRing is a ring of a period whose counters count from testRun, with a
// credential for it.
func testRing(t *testing.T, number uint64) (*hsdir.Ring, *credential.Credential) {
	t.Helper()
	p := descriptor.Period{Number: number, Length: 24 * time.Hour}
	blinded, err := testIdentity(t, 1).Blind(p)
	if err != nil {
		t.Fatal(err)
	}
	return &hsdir.Ring{Period: p, RunStart: testRun}, &credential.Credential{Revision: blinded.RevisionKey()}
}

// Revision counters never repeat nor go back, through steps of the clock either
// way, and are tor's own while the clock behaves.
func TestRevisionsOnlyRise(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	last := map[uint64]uint64{}
	c := counters{}
	now := testRun.Add(time.Hour)
	for step := range 300 {
		// An hour either way, now and then a week.
		now = now.Add(time.Duration(random.IntN(7200)-3600) * time.Second)
		if random.IntN(20) == 0 {
			now = testRun.Add(time.Duration(random.IntN(14*86400)-7*86400) * time.Second)
		}
		ring, signer := testRing(t, 20000+uint64(random.IntN(2)))
		got, err := c.next(signer, ring, now)
		if err != nil {
			t.Fatal(err)
		}
		if before := last[ring.Period.Number]; got <= before || before > 0 && got == before+1 {
			t.Fatalf("step %d: revision %d after %d", step, got, before)
		}
		last[ring.Period.Number] = got
	}
	ring, signer := testRing(t, 20002)
	got, err := counters{}.next(signer, ring, testRun.Add(36*time.Hour))
	want, wantErr := signer.Revision.RevisionCounter(testRun, testRun.Add(36*time.Hour))
	if err != nil || wantErr != nil || got != want {
		t.Fatalf("revision = %d, %v; tor's is %d, %v", got, err, want, wantErr)
	}
}

// A stored counter beyond any that is used is not believed, and said to be so.
func TestStoredRevisionBeyondAny(t *testing.T) {
	p := descriptor.Period{Number: 20000, Length: 24 * time.Hour}
	c := counters{p: 7}
	stored := []state.Ceiling{{Period: p.Number, Minutes: p.Minutes(), Counter: 1 << 63}, {Period: p.Number + 1, Minutes: p.Minutes(), Counter: 1 << 34}}
	err := c.raise(stored)
	if p2 := period(stored[1]); c[p] != 7 || c[p2] != 1<<34 || !errors.Is(err, errCounter) {
		t.Errorf("counters %v, %v", c, err)
	}
}

func TestRevisionsForgetOldPeriods(t *testing.T) {
	c := counters{}
	for n := range uint64(20) {
		ring, signer := testRing(t, 20000+n)
		if _, err := c.next(signer, ring, testRun.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		c.forget(ring.Period)
	}
	if len(c) != counterPeriods+1 {
		t.Fatalf("%d counters kept, want %d", len(c), counterPeriods+1)
	}
}

// The lead is bounded, and less so while none of ours was ever confirmed.
func TestLead(t *testing.T) {
	rejected := func(n int, heard time.Time) *Edition {
		return &Edition{slots: []slot{{rejected: true}}, rejections: n, heard: heard}
	}
	for _, test := range []struct {
		last *Edition
		want time.Duration
	}{
		{nil, 0}, {&Edition{slots: []slot{{confirmed: testNow}, {rejected: true}}, rejections: 3}, 0},
		{rejected(1, testNow), 4 * time.Minute}, {rejected(2, testNow), 16 * time.Minute},
		{rejected(60, testNow), leadMax}, {rejected(60, time.Time{}), leadUnseen},
	} {
		if got := lead(test.last); got != test.want {
			t.Errorf("lead = %v, want %v", got, test.want)
		}
	}
}

// A counter that the service took itself is never given up, however far above the
// period's largest it is.
func TestRevisionsRiseBeyondThePeriod(t *testing.T) {
	ring, signer := testRing(t, 20000)
	c := counters{}
	for n, last := 0, uint64(0); n < 2000; n++ {
		got, err := c.next(signer, ring, testRun.Add(30*24*time.Hour))
		if err != nil || got <= last {
			t.Fatalf("edition %d: revision %d after %d, %v", n, got, last, err)
		}
		last = got
	}
}
