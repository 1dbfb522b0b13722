package sim

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"onionbalancer/descriptor"
)

// What HSDirs take and hand out, without a tor in between.
func TestHSDirRules(t *testing.T) {
	inNetwork(t, Config{Seed: 1}, func(t *testing.T, n *Network) {
		s, r := newService(t, n), n.Relays()[0]
		instance := n.AddInstance(InstanceConfig{})
		time.Sleep(time.Second)
		points := decode(t, n, instance, nil).IntroductionPoints
		period := n.Consensus().Period()
		blinded := s.keys(period).Blinded
		post := func(body []byte) int {
			n.lock()
			defer n.mu.Unlock()
			return r.receive(body, time.Now())
		}
		five := s.encode(period, 5, points...)
		for _, step := range []struct {
			what string
			body []byte
			want int
			now  uint64 // the revision counter stored afterwards
		}{
			{"a first descriptor", five, statusOK, 5},
			{"the same again", five, statusBad, 5},
			{"an equal revision counter", s.encode(period, 5, points...), statusBad, 5},
			{"a lower revision counter", s.encode(period, 4, points...), statusBad, 5},
			{"a higher revision counter", s.encode(period, 6, points...), statusOK, 6},
			{"a tampered descriptor", Tampered(s.encode(period, 7, points...)), statusBad, 6},
			{"a raised revision counter", Raised(five), statusBad, 6},
			{"garbage", Garbage(nil), statusBad, 6},
			{"nothing", nil, statusBad, 6},
			{"too large", append(bytes.Clone(five), make([]byte, 50000)...), statusBad, 6},
			{"another service's", n.Foreign()(nil), statusOK, 6},
		} {
			if got := post(step.body); got != step.want {
				t.Errorf("%s: status %d, want %d", step.what, got, step.want)
			}
			if _, revision := r.Stored(blinded); revision != step.now {
				t.Errorf("after %s: revision %d stored, want %d", step.what, revision, step.now)
			}
		}
		time.Sleep(3*time.Hour + time.Second)
		if body, _ := r.Stored(blinded); body != nil {
			t.Error("the descriptor outlived its lifetime")
		}
		post(five)
		r.Wipe()
		if body, _ := r.Stored(blinded); body != nil {
			t.Error("the descriptor survived a restart of the HSDir")
		}
	})
}

// The faults of an HSDir, one by one.
func TestHSDirFaults(t *testing.T) {
	inNetwork(t, Config{Seed: 1}, func(t *testing.T, n *Network) {
		s, r := newService(t, n), n.Relays()[0]
		instance := n.AddInstance(InstanceConfig{})
		time.Sleep(time.Second)
		points := decode(t, n, instance, nil).IntroductionPoints
		period := n.Consensus().Period()
		keys := s.keys(period)
		revision := uint64(1)
		for _, test := range []struct {
			what          string
			faults        Faults
			stored        int // status of an upload
			served        int // status of a fetch
			fresh, intact bool
		}{
			{"none", Faults{}, statusOK, statusOK, true, true},
			{"rejects uploads", Faults{RejectUploads: true}, statusBad, statusOK, false, true},
			{"overloaded", Faults{Overloaded: true}, statusUnavailable, statusUnavailable, false, false},
			{"rejects fetches", Faults{RejectFetches: true}, statusOK, statusBad, false, false},
			{"replays", Faults{Replay: true}, statusOK, statusOK, false, true},
			{"forgets", Faults{Amnesia: true}, statusOK, statusMissing, false, false},
			{"tampers", Faults{Forge: Tampered}, statusOK, statusOK, true, false},
			{"raises", Faults{Forge: Raised}, statusOK, statusOK, true, false},
			{"forges", Faults{Forge: n.Foreign()}, statusOK, statusOK, false, false},
			{"garbage", Faults{Forge: Garbage}, statusOK, statusOK, false, false},
		} {
			r.Wipe()
			n.lock()
			now := time.Now()
			r.faults = Faults{}
			r.receive(s.encode(period, revision, points...), now)
			r.faults = test.faults
			status := r.receive(s.encode(period, revision+1, points...), now)
			body, served := r.serve(keys.Blinded, now)
			n.mu.Unlock()
			if status != test.stored || served != test.served {
				t.Errorf("%s: upload %d, fetch %d, want %d, %d", test.what, status, served, test.stored, test.served)
			}
			d, err := new(descriptor.Decoder).Decode(body, keys, nil, now)
			if test.intact != (err == nil) {
				t.Errorf("%s: what is served decodes: %v, want %v", test.what, err, test.intact)
			}
			if test.intact && (d.RevisionCounter == revision+1) != test.fresh {
				t.Errorf("%s: served revision %d, of %d and %d", test.what, d.RevisionCounter, revision, revision+1)
			}
			revision += 2
		}
	})
}

// This package's reading of the outer wrapper against package descriptor's.
func TestWrapperAgrees(t *testing.T) {
	inNetwork(t, Config{}, func(t *testing.T, n *Network) {
		i := n.AddInstance(InstanceConfig{})
		time.Sleep(time.Second)
		period := n.Consensus().Period()
		keys, err := i.Address().Keys(period)
		if err != nil {
			t.Fatal(err)
		}
		body, revision := n.Consensus().current().store(&n.cfg, keys.Blinded)[0].Stored(keys.Blinded)
		w, err := readWrapper(body, time.Now(), defaultMaxSize)
		if err != nil || w.blinded != keys.Blinded || w.revision != revision || w.lifetime != 3*time.Hour {
			t.Errorf("read %+v, %v", w, err)
		}
		if _, err := readWrapper(body, time.Now().Add(55*time.Hour), defaultMaxSize); !errors.Is(err, errWrapper) {
			t.Errorf("with an expired certificate: %v", err)
		}
		for cut := range 400 {
			if _, err := readWrapper(body[:cut], time.Now(), defaultMaxSize); err == nil {
				t.Fatalf("the first %d bytes are taken for a descriptor", cut)
			}
		}
	})
}
