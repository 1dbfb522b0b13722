package balance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/state"
	"onionbalancer/internal/status"
	"onionbalancer/testnet/sim"
)

// spy sees every descriptor as it leaves.
type spy struct {
	Uploader
	sees func(p descriptor.Period, revision uint64) error
}

func (x *spy) Upload(u hsdir.Upload) {
	body := u.Body
	u.Body = func(ctx context.Context, at hsdir.Slot) ([]byte, error) {
		raw, err := body(ctx, at)
		if err != nil {
			return nil, err
		}
		_, line, _ := bytes.Cut(raw, []byte("\nrevision-counter "))
		line, _, _ = bytes.Cut(line, []byte("\n"))
		revision, err := strconv.ParseUint(string(line), 10, 64)
		if err != nil {
			return nil, err
		}
		return raw, x.sees(u.Period, revision)
	}
	x.Uploader.Upload(u)
}

// spyOn has sees called with what is uploaded from the next start on. An error of
// its keeps the descriptor from leaving.
func (s *scene) spyOn(sees func(p descriptor.Period, revision uint64) error) {
	s.prepare = func() {
		x := &spy{s.env.Uploads(descriptor.Address{}), sees}
		s.env.Uploads = func(descriptor.Address) Uploader { return x }
	}
}

// ceiling is the stored counter of a period.
func (s *scene) ceiling(p descriptor.Period) uint64 {
	stored, _, err := s.store.DB.Service(s.custodian.Address())
	if err != nil {
		s.t.Error(err)
	}
	for _, c := range stored.Ceilings {
		if period(c) == p {
			return c.Counter
		}
	}
	return 0
}

// Killed at any moment, with a clock that is behind afterwards: whatever was
// uploaded had a counter that was in the store by then, and what comes next is
// above it.
func TestCounterIsStoredBeforeItIsUsed(t *testing.T) {
	onScene(t, sim.Config{Seed: 81, Relays: 30, Latency: 200 * time.Millisecond}, func(t *testing.T, s *scene) {
		s.stop()
		var mu sync.Mutex
		var dead atomic.Bool
		lives, uploads := 0, 0
		before, highest := map[descriptor.Period]uint64{}, map[descriptor.Period]uint64{}
		s.spyOn(func(p descriptor.Period, revision uint64) error {
			mu.Lock()
			defer mu.Unlock()
			if dead.Load() {
				return errors.New("the process is dead")
			}
			if stored := s.ceiling(p); revision > stored {
				t.Errorf("life %d: counter %d was uploaded while the store has %d", lives, revision, stored)
			}
			if revision <= before[p] {
				t.Errorf("life %d: counter %d was uploaded after %d", lives, revision, before[p])
			}
			highest[p] = max(highest[p], revision)
			uploads++
			return nil
		})
		for lives = range 12 {
			dead.Store(false)
			s.start()
			s.settle(time.Duration(lives%8) * 300 * time.Millisecond) // some fetches, all, a part of the uploads
			release := s.store.hang()
			s.instances[lives%3].ReplacePoints()
			s.settle(time.Duration(lives%5) * 3 * time.Second) // with a write in flight, or too late
			dead.Store(true)
			s.store.fail(errors.New("the process is dead"))
			release()
			s.stop()
			maps.Copy(before, highest)
			s.step(-time.Minute)
		}
		if uploads < 40 {
			t.Errorf("%d uploads: the test shows nothing", uploads)
		}
		s.start()
	})
}

// A store that hangs holds up what is published for some seconds, and not at all
// once it has; what was used meanwhile is stored when it answers.
func TestStoreHangs(t *testing.T) {
	onScene(t, sim.Config{Seed: 82, Relays: 30}, func(t *testing.T, s *scene) {
		s.settle(time.Minute)
		release := s.store.hang()
		for _, longest := range []time.Duration{storeTimeout + 10*time.Second, 10 * time.Second} {
			at := s.now()
			service := s.service
			service.Reconfigure(s.configWith(fmt.Sprintf("longest %s", longest)))
			s.settle(longest)
			got := s.want("while the store hangs", status.StateDegraded)
			if !warned(got, "storing the revision counter: no answer within 10s") {
				t.Errorf("warnings: %q", got.Warnings)
			}
			for _, d := range got.Descriptors {
				if d.Built.Before(at) || d.Confirmed < 6 {
					t.Errorf("not published within %s: built %s before, %d slots confirmed", longest, at.Sub(d.Built), d.Confirmed)
				}
			}
		}
		s.reach("while the store hangs", 20)
		release()
		s.settle(time.Minute)
		for _, d := range s.want("with a store that answers", status.StateOK).Descriptors {
			p := descriptor.Period{Number: d.Period, Length: 24 * time.Hour}
			if stored := s.ceiling(p); stored < d.Revision {
				t.Errorf("the store has %d, and %d is published", stored, d.Revision)
			}
		}
	})
}

// configWith is a configuration that makes another descriptor of the same points.
func (s *scene) configWith(caa string) Config {
	cfg := s.config()
	cfg.CAA = []descriptor.CAA{{Tag: "issue", Value: strings.ReplaceAll(caa, " ", "-")}}
	return cfg
}

// configOf is a configuration for another public address.
func (s *scene) configOf(key byte) Config {
	cfg := s.config()
	cfg.Keys = credential.Keys{Custodian: &memoryCustodian{key: testIdentity(s.t, key)}, Signing: credential.Memory{}}
	return cfg
}

// Somebody else wrote the record: nothing is lost of it, nothing below its counters
// is uploaded, and what is published next is above them.
func TestRecordOfSomebodyElse(t *testing.T) {
	onScene(t, sim.Config{Seed: 83}, func(t *testing.T, s *scene) {
		s.stop()
		theirs := map[descriptor.Period]uint64{}
		s.spyOn(func(p descriptor.Period, revision uint64) error {
			if revision <= theirs[p] {
				t.Errorf("counter %d was uploaded, and they have used %d", revision, theirs[p])
			}
			return nil
		})
		s.start()
		s.settle(time.Minute)
		a := s.custodian.Address()
		stored, version, err := s.store.Service(a)
		if err != nil {
			t.Fatal(err)
		}
		old := descriptor.Period{Number: stored.Ceilings[0].Period - 2, Length: 24 * time.Hour}
		for n := range stored.Ceilings {
			stored.Ceilings[n].Counter += 1 << 22 // two minutes of counters
			theirs[period(stored.Ceilings[n])] = stored.Ceilings[n].Counter
		}
		stored.Ceilings = append(stored.Ceilings, state.Ceiling{Period: old.Number, Minutes: old.Minutes(), Counter: 77})
		if _, err := s.store.SwapService(t.Context(), a, version, stored); err != nil {
			t.Fatal(err)
		}
		s.service.Reconfigure(s.configWith("another"))
		s.settle(time.Minute)
		got := s.want("after the record of somebody else", status.StateOK)
		for _, d := range got.Descriptors {
			p := descriptor.Period{Number: d.Period, Length: 24 * time.Hour}
			if d.Revision <= theirs[p] || d.Confirmed != 8 || s.ceiling(p) != d.Revision {
				t.Errorf("they used %d; published is %d in %d slots, stored %d", theirs[p], d.Revision, d.Confirmed, s.ceiling(p))
			}
		}
		if n := s.ceiling(old); n != 77 {
			t.Errorf("of another period the store has %d, want their 77", n)
		}
	})
}

// A write that was done though it failed, as one whose answer was lost, is no
// record of somebody else: nothing is made again for it.
func TestAnswerOfTheStoreIsLost(t *testing.T) {
	onScene(t, sim.Config{Seed: 84, Relays: 30}, func(t *testing.T, s *scene) {
		s.settle(time.Minute)
		a := s.custodian.Address()
		stored, version, err := s.store.Service(a)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.store.SwapService(t.Context(), a, version, stored); err != nil {
			t.Fatal(err)
		}
		before := s.net.Tor().Counts().Posts
		s.service.Reconfigure(s.configWith("another"))
		s.settle(time.Minute)
		got := s.want("in the end", status.StateOK)
		if n := s.net.Tor().Counts().Posts - before; n != 16 || got.Descriptors[0].Reason != string(ReasonChanged) {
			t.Errorf("%d uploads, want 16; made again for %q", n, got.Descriptors[0].Reason)
		}
	})
}

// Nothing that hangs holds up a service's end, nor its status: the store at the
// start or later, and uploads that get no answer. Keys: TestHungToken.
func TestEndIsBounded(t *testing.T) {
	for _, hangs := range []string{"store from the start", "store", "uploads"} {
		onScene(t, sim.Config{Seed: 85}, func(t *testing.T, s *scene) {
			s.stop()
			release := func() {}
			s.prepare = func() {
				switch hangs {
				case "store from the start":
					release = s.store.hang()
				case "uploads":
					s.env.Uploads = func(descriptor.Address) Uploader { return deafUploader{} }
				}
			}
			s.start()
			ctx, cancel := context.WithCancel(t.Context())
			other := NewService(s.configOf(79), s.env)
			ended := make(chan struct{})
			go func() { defer close(ended); other.Run(ctx) }()
			if hangs == "store" {
				s.settle(time.Minute)
				release = s.store.hang()
				cfg := s.configOf(79)
				cfg.Room.Points = 2
				other.Reconfigure(cfg)
			}
			s.settle(time.Second) // within the time that a store has
			began := time.Now()
			cancel()
			s.settle(time.Millisecond)
			if other.Status(); time.Since(began) > time.Second {
				t.Errorf("%s: the status of a service at its end took %s", hangs, time.Since(began))
			}
			<-ended
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("%s: the end took %s", hangs, took)
			}
			if other.Reconfigure(s.configOf(79)); time.Since(began) > 10*time.Second {
				t.Errorf("%s: a configuration after the end was waited for", hangs)
			}
			release()
			s.settle(time.Minute)
		})
	}
}

// deafUploader never uploads.
type deafUploader struct{}

func (deafUploader) Upload(hsdir.Upload)       {}
func (deafUploader) Cancel(descriptor.Address) {}
