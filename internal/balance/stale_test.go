package balance

import (
	"slices"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/testnet/sim"
)

// reads counts what clients were handed by single HSDirs.
type reads struct {
	all, none     int
	older, points int // with a lower counter than the newest edition, and with points that this has not
}

// truth is the newest edition of a period.
type truth struct {
	counter uint64
	since   time.Time
	points  map[[32]byte]bool
}

func learn(known map[[32]byte]*truth, d *descriptor.Descriptor) {
	if d == nil {
		return
	}
	blinded, _ := d.SigningCert.SigningKey()
	k := known[blinded]
	if k == nil || k.counter < d.RevisionCounter {
		k = &truth{d.RevisionCounter, time.Now(), make(map[[32]byte]bool)}
		known[blinded] = k
	}
	if k.counter == d.RevisionCounter {
		for n := range d.IntroductionPoints {
			k.points[d.IntroductionPoints[n].AuthKey] = true
		}
	}
}

func (r *reads) judge(known map[[32]byte]*truth, d *descriptor.Descriptor) {
	r.all++
	if d == nil {
		r.none++
		return
	}
	blinded, _ := d.SigningCert.SigningKey()
	k := known[blinded]
	if k.counter == d.RevisionCounter || time.Since(k.since) < 5*time.Minute { // else it is on its way
		return
	}
	r.older++
	if slices.ContainsFunc(d.IntroductionPoints, func(p descriptor.IntroductionPoint) bool { return !k.points[p.AuthKey] }) {
		r.points++
	}
}

func (r reads) percent(n int) float64 { return 100 * float64(n) / float64(max(r.all, 1)) }

// staleReads has clients with the consensuses that tors have read a service for days, of
// whose HSDirs 2 % an hour lose their flag, and go on answering. Its manager has
// each consensus early. Without uploads to HSDirs that left its ring, those keep what
// they had.
func staleReads(t *testing.T, seed uint64, lasts time.Duration, uploads bool) (got reads) {
	cfg := sim.Config{Seed: seed, Relays: 60, Churn: 24 * 0.02, Linger: 24 * time.Hour, Tor: sim.TorConfig{ConsensusDelay: 3 * time.Minute}}
	onScene(t, cfg, func(t *testing.T, s *scene) {
		s.fetchEvery(10 * time.Minute)
		s.settle(10 * time.Minute)
		address := s.custodian.Address()
		early := s.net.NewReader(4 * time.Minute)
		var readers []*sim.Reader
		for range 30 {
			readers = append(readers, s.net.NewReader(0))
		}
		known := make(map[[32]byte]*truth) // by blinded key
		for end := time.Now().Add(lasts); time.Now().Before(end); s.settle(5 * time.Minute) {
			if !uploads {
				s.keepOld()
			}
			found := early.Read(address)
			for _, r := range readers {
				found = append(found, r.Read(address)...)
			}
			for _, d := range found {
				learn(known, d)
			}
			for _, d := range found[6:] {
				got.judge(known, d)
			}
		}
	})
	return got
}

// keepOld has the relays that are no HSDirs of the service in the newest consensus take
// no news of it.
func (s *scene) keepOld() {
	first, second, err := s.net.Responsible(s.custodian.Address())
	if err != nil {
		s.t.Fatal(err)
	}
	for _, r := range s.net.Relays() {
		r.SetFaults(sim.Faults{Replay: !slices.Contains(first, r) && !slices.Contains(second, r)})
	}
}

// An HSDir that lost its flag goes on serving those with an older consensus: clients do not
// read older points there, as it is still given each edition for as long as they ask.
func TestStale(t *testing.T) {
	t.Parallel()
	lasts := 36 * time.Hour
	if soaking() {
		lasts = 30 * 24 * time.Hour
	}
	with, without := staleReads(t, 2, lasts, true), staleReads(t, 2, lasts, false)
	for what, got := range map[string]reads{"given each edition": with, "left alone": without} {
		t.Logf("HSDirs that left %s: of %d reads %.3f %% none, %.3f %% older, %.3f %% older points",
			what, got.all, got.percent(got.none), got.percent(got.older), got.percent(got.points))
	}
	if with.percent(with.points) >= 0.02 || with.percent(with.none) > 0.1 {
		t.Errorf("%+v", with)
	}
	if without.percent(without.older) < 0.5 || without.points == 0 {
		t.Errorf("%+v with HSDirs left alone: the test shows nothing", without)
	}
}
