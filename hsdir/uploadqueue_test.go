package hsdir

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
)

// publishScene collects what a Publisher reports.
type publishScene struct {
	tor   *fakeTor
	p     *Publisher
	cfg   PublishConfig
	slots []Slot
	addr  descriptor.Address

	mu      sync.Mutex
	reports []UploadResult
	encoded int
}

var errSilence = errors.New("no answer")

func accepts(context.Context, []byte) ([]byte, error) { return nil, nil }

var (
	testPeriod = descriptor.Period{Number: 20777, Length: 24 * time.Hour}
	refuses    = fails(reasonError(uploadRejected))
)

// inScene runs test in virtual time with a Publisher that is closed at its end.
func inScene(t *testing.T, test func(t *testing.T, s *publishScene)) {
	t.Helper()
	s := &publishScene{tor: &fakeTor{otherwise: accepts}, addr: newTestService(t, 1).identity.Address()}
	for i := range 8 {
		s.slots = append(s.slots, Slot{HSDir: [20]byte{byte(i + 1)}, Replica: 1 + i%2, Reserve: i >= 6})
	}
	s.cfg = PublishConfig{Poster: s.tor, Random: func() float64 { return 0 }}
	synctest.Test(t, func(t *testing.T) {
		test(t, s)
		if s.p != nil {
			s.p.Close()
		}
		if s.tor.clash {
			t.Error("two uploads for one service were under way at one HSDir")
		}
	})
}

func (s *publishScene) publication(text string, slots ...Slot) Publication {
	return Publication{
		Address: s.addr, Period: testPeriod, Slots: slots,
		Encode: func(context.Context) ([]byte, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.encoded++
			return fmt.Appendf(nil, "%s %d", text, s.encoded), nil
		},
		Report: func(r UploadResult) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.reports = append(s.reports, r)
		},
	}
}

func (s *publishScene) publish(pub Publication) {
	if s.p == nil {
		s.p = NewPublisher(s.cfg)
	}
	s.p.Publish(pub)
}

// reported returns the reports so far, and forgets them.
func (s *publishScene) reported() []UploadResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.reports
	s.reports = nil
	return r
}

func TestPublishConfirms(t *testing.T) {
	inScene(t, func(t *testing.T, s *publishScene) {
		s.publish(s.publication("d", s.slots...))
		synctest.Wait()
		reports := s.reported()
		if len(reports) != 8 || s.p.Outstanding() != 0 {
			t.Fatalf("%d reports, %d outstanding", len(reports), s.p.Outstanding())
		}
		bodies := map[string]bool{}
		for _, c := range s.tor.seen() {
			bodies[c.body] = true
			if c.address != s.addr.Label() || len(c.hsdir) != 40 {
				t.Errorf("posted for %q to %q", c.address, c.hsdir)
			}
		}
		for _, r := range reports {
			if r.Err != nil || r.Rejected || r.Retry != 0 || !slices.Contains(s.slots, r.Slot) {
				t.Errorf("report %+v", r)
			}
		}
		if len(bodies) != 8 {
			t.Errorf("%d different bodies in 8 uploads", len(bodies))
		}
		time.Sleep(time.Hour)
		if n := len(s.tor.seen()); n != 8 {
			t.Errorf("%d uploads, want 8", n)
		}
	})
}

// TestPublishOrder gives one place alone, so that uploads go one by one.
func TestPublishOrder(t *testing.T) {
	inScene(t, func(t *testing.T, s *publishScene) {
		s.cfg.InFlight = 1
		s.tor.setAll(slowly(time.Second, accepts))
		shuffled := slices.Clone(s.slots)
		slices.Reverse(shuffled)
		s.publish(s.publication("d", shuffled...))
		time.Sleep(20 * time.Second)
		var got []int
		for _, r := range s.reported() {
			got = append(got, int(r.Slot.HSDir[0]))
		}
		if want := []int{6, 5, 4, 3, 2, 1, 8, 7}; !slices.Equal(got, want) {
			t.Errorf("filled in the order %v, want %v", got, want)
		}
		if s.tor.most != 1 {
			t.Errorf("%d in flight, want 1", s.tor.most)
		}
	})
}

// TestPublishRetries has one HSDir of each failing kind among good ones.
func TestPublishRetries(t *testing.T) {
	for _, test := range []struct {
		name string
		b    behaviour
		took time.Duration // of one upload
	}{
		{"never answers", silent, time.Minute},
		{"fails at once", fails(errSilence), 0},
		{"unexpected", fails(reasonError("UNEXPECTED")), 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			inScene(t, func(t *testing.T, s *publishScene) {
				s.tor.set(s.slots[0].HSDir, test.b)
				s.publish(s.publication("d", s.slots...))
				synctest.Wait()
				for _, r := range s.reported() {
					if r.Slot == s.slots[0] != (r.Err != nil) {
						t.Errorf("report %+v", r)
					}
				}
				hsdir := upperHex(s.slots[0].HSDir[:])
				time.Sleep(time.Hour)
				var calls []call
				for _, c := range s.tor.seen() {
					if c.hsdir == hsdir {
						calls = append(calls, c)
					}
				}
				want := 2 * time.Second
				for i := 1; i < len(calls); i++ {
					if got := calls[i].at.Sub(calls[i-1].at) - test.took; got != want {
						t.Fatalf("wait %d was %v, want %v", i, got, want)
					}
					if calls[i].body == calls[i-1].body {
						t.Errorf("upload %d was not encoded anew", i)
					}
					want = min(2*want, 5*time.Minute)
				}
				if len(calls) < 12 || s.p.Outstanding() != 1 {
					t.Fatalf("%d uploads in an hour, %d outstanding", len(calls), s.p.Outstanding())
				}
				// It comes back, and the slot is filled at last.
				s.tor.set(s.slots[0].HSDir, accepts)
				time.Sleep(10 * time.Minute)
				reports := s.reported()
				if last := reports[len(reports)-1]; last.Err != nil || last.Slot != s.slots[0] || s.p.Outstanding() != 0 {
					t.Errorf("last report %+v, %d outstanding", last, s.p.Outstanding())
				}
			})
		})
	}
}

func TestPublishJitter(t *testing.T) {
	p := NewPublisher(PublishConfig{Random: func() float64 { return 0.999999 }})
	defer p.Close()
	for failures, base := range map[int]time.Duration{1: 2 * time.Second, 3: 8 * time.Second, 9: 5 * time.Minute, 1 << 30: 5 * time.Minute} {
		if got := p.backoff(failures, 5*time.Minute); got < base/2 || got > base/2+time.Second {
			t.Errorf("wait after %d failures is %v, want about %v", failures, got, base/2)
		}
	}
}

func TestPublishRejected(t *testing.T) {
	inScene(t, func(t *testing.T, s *publishScene) {
		s.tor.set(s.slots[0].HSDir, refuses)
		s.publish(s.publication("d", s.slots[0]))
		time.Sleep(24 * time.Hour)
		reports := s.reported()
		if len(reports) != 1 || !reports[0].Rejected || reports[0].Err == nil || reports[0].Retry != 0 || s.p.Outstanding() != 0 {
			t.Fatalf("reports %+v, %d outstanding", reports, s.p.Outstanding())
		}
		// The owner raises the revision counter, and that is a new publication.
		s.tor.set(s.slots[0].HSDir, accepts)
		s.publish(s.publication("higher", s.slots[0]))
		synctest.Wait()
		if reports := s.reported(); len(reports) != 1 || reports[0].Err != nil {
			t.Errorf("reports %+v", reports)
		}
	})
}

func TestPublishEncodeFails(t *testing.T) {
	inScene(t, func(t *testing.T, s *publishScene) {
		broken := errors.New("the token is gone")
		pub := s.publication("d", s.slots[0])
		encode, failures := pub.Encode, 3
		pub.Encode = func(ctx context.Context) ([]byte, error) {
			if failures--; failures >= 0 {
				return nil, broken
			}
			return encode(ctx)
		}
		s.publish(pub)
		time.Sleep(time.Hour)
		reports := s.reported()
		if len(reports) != 4 || !errors.Is(reports[2].Err, broken) || reports[2].Failures != 3 || reports[3].Err != nil {
			t.Errorf("reports %+v", reports)
		}
	})
}

// TestPublishSupersedes publishes anew while one slot is being tried again,
// one is under way and one is not in the ring any more.
func TestPublishSupersedes(t *testing.T) {
	inScene(t, func(t *testing.T, s *publishScene) {
		retried, underway, gone, fresh := s.slots[0], s.slots[1], s.slots[2], s.slots[3]
		s.tor.set(retried.HSDir, fails(errSilence))
		s.tor.set(gone.HSDir, fails(errSilence))
		s.tor.set(underway.HSDir, slowly(30*time.Second, accepts))
		s.publish(s.publication("old", retried, underway, gone))
		time.Sleep(time.Second)
		if n := len(s.reported()); n != 2 {
			t.Fatalf("%d reports, want those of two failures", n)
		}
		s.tor.set(retried.HSDir, accepts)
		s.publish(s.publication("new", retried, underway, fresh))
		synctest.Wait()
		// At once, without the rest of the wait; but not beside the upload that
		// is under way.
		if reports := s.reported(); len(reports) != 2 {
			t.Errorf("reports %+v, want two slots filled", reports)
		}
		time.Sleep(time.Hour)
		if reports := s.reported(); len(reports) != 1 || reports[0].Slot != underway || reports[0].Err != nil {
			t.Errorf("reports %+v, want the slot that was under way", reports)
		}
		counts := map[string]int{}
		for _, c := range s.tor.seen() {
			counts[c.body[:3]+c.hsdir[:2]]++
		}
		want := map[string]int{"old01": 1, "old02": 1, "old03": 1, "new01": 1, "new02": 1, "new04": 1}
		if fmt.Sprint(counts) != fmt.Sprint(want) || s.p.Outstanding() != 0 {
			t.Errorf("uploads %v, want %v; %d outstanding", counts, want, s.p.Outstanding())
		}
	})
}

func TestPublishAdds(t *testing.T) {
	inScene(t, func(t *testing.T, s *publishScene) {
		s.tor.setAll(fails(errSilence))
		s.publish(s.publication("one", s.slots[0], s.slots[1]))
		synctest.Wait()
		pub := s.publication("two", s.slots[1], s.slots[2])
		pub.Adds = true
		s.publish(pub)
		synctest.Wait()
		if s.p.Outstanding() != 3 {
			t.Errorf("%d outstanding, want 3", s.p.Outstanding())
		}
		s.tor.setAll(accepts)
		time.Sleep(time.Minute)
		last := map[string]string{}
		for _, c := range s.tor.seen() {
			last[c.hsdir[:2]] = c.body[:3]
		}
		if fmt.Sprint(last) != "map[01:one 02:two 03:two]" || s.p.Outstanding() != 0 {
			t.Errorf("HSDirs hold %v, %d outstanding", last, s.p.Outstanding())
		}
	})
}

func TestPublishRetainAndWithdraw(t *testing.T) {
	inScene(t, func(t *testing.T, s *publishScene) {
		s.tor.setAll(fails(errSilence))
		next := s.publication("d", s.slots[0], s.slots[1])
		next.Period = testPeriod.Next()
		s.publish(s.publication("d", s.slots...))
		s.publish(next)
		other := s.publication("d", s.slots[0])
		other.Address = newTestService(t, 9).identity.Address()
		s.publish(other)
		synctest.Wait()
		if n := s.p.Outstanding(); n != 11 {
			t.Fatalf("%d outstanding, want 11", n)
		}
		s.p.Retain(s.addr, func(p descriptor.Period, slot Slot) bool {
			return p == next.Period && slot == s.slots[0] || slot == s.slots[5]
		})
		if n := s.p.Outstanding(); n != 3 {
			t.Errorf("%d outstanding, want 3", n)
		}
		s.p.Withdraw(s.addr)
		s.reported()
		s.tor.setAll(accepts)
		time.Sleep(time.Hour)
		if reports := s.reported(); len(reports) != 1 || s.p.Outstanding() != 0 {
			t.Errorf("reports %+v, want the other service's one slot", reports)
		}
	})
}

func TestPublishHurry(t *testing.T) {
	inScene(t, func(t *testing.T, s *publishScene) {
		s.tor.setAll(fails(errSilence))
		s.publish(s.publication("d", s.slots...))
		time.Sleep(time.Hour)
		s.tor.setAll(accepts)
		s.reported()
		s.p.Hurry()
		synctest.Wait()
		if n := len(s.reported()); n != 8 || s.p.Outstanding() != 0 {
			t.Errorf("%d slots filled at once, want 8; %d outstanding", n, s.p.Outstanding())
		}
	})
}

// TestPublishDoesNotHoldUpOthers has more HSDirs that never answer than there
// are places, and publishes for another service after their first failures.
func TestPublishDoesNotHoldUpOthers(t *testing.T) {
	inScene(t, func(t *testing.T, s *publishScene) {
		s.cfg.InFlight, s.cfg.BackoffMax = 4, 10*time.Second
		var dead []Slot
		for i := range 20 {
			dead = append(dead, Slot{HSDir: [20]byte{0xdd, byte(i)}, Replica: 1})
			s.tor.set(dead[i].HSDir, silent)
		}
		s.publish(s.publication("dead", dead...))
		time.Sleep(6 * time.Minute)
		s.reported()
		other := s.publication("live", s.slots...)
		other.Address = newTestService(t, 9).identity.Address()
		s.publish(other)
		synctest.Wait()
		live := 0
		for _, r := range s.reported() {
			if r.Err == nil {
				live++
			}
		}
		if live != 8 || s.tor.most > 4 {
			t.Errorf("%d slots filled beside the dead, want 8; %d in flight", live, s.tor.most)
		}
	})
}

// TestPublishFirstAndSecond has both descriptors of a service go to one HSDir:
// tor's events could not tell the uploads apart if they ran at a time.
func TestPublishFirstAndSecond(t *testing.T) {
	inScene(t, func(t *testing.T, s *publishScene) {
		s.tor.setAll(slowly(time.Second, accepts))
		second := s.publication("second", s.slots...)
		second.Period = testPeriod.Next()
		s.publish(s.publication("first", s.slots...))
		s.publish(second)
		time.Sleep(time.Minute)
		if n := len(s.reported()); n != 16 {
			t.Errorf("%d slots filled, want 16", n)
		}
	})
}

func TestPublishClose(t *testing.T) {
	inScene(t, func(t *testing.T, s *publishScene) {
		s.tor.setAll(silent)
		s.publish(s.publication("d", s.slots...))
		synctest.Wait()
		began := time.Now()
		s.p.Close()
		s.publish(s.publication("late", s.slots...))
		synctest.Wait()
		if time.Since(began) != 0 || len(s.reported()) != 0 || s.p.Outstanding() != 0 || len(s.tor.seen()) != 8 {
			t.Errorf("closed after %v with %d outstanding, %d uploads", time.Since(began), s.p.Outstanding(), len(s.tor.seen()))
		}
	})
}

// TestReportMayPublish has an owner that answers a rejection from within the
// report.
func TestReportMayPublish(t *testing.T) {
	inScene(t, func(t *testing.T, s *publishScene) {
		s.tor.set(s.slots[0].HSDir, refuses)
		pub := s.publication("low", s.slots[0])
		pub.Report = func(r UploadResult) {
			if r.Rejected {
				s.tor.set(s.slots[0].HSDir, accepts)
				s.p.Publish(s.publication("high", s.slots[0]))
			}
		}
		s.publish(pub)
		synctest.Wait()
		if reports := s.reported(); len(reports) != 1 || reports[0].Err != nil {
			t.Errorf("reports %+v", reports)
		}
	})
}

var errNoToken = errors.New("the token is gone")

// slow makes pub as one whose signatures take time; hung never makes anything.
func slow(pub Publication, takes time.Duration) Publication {
	encode := pub.Encode
	pub.Slow = true
	pub.Encode = func(ctx context.Context) ([]byte, error) {
		select {
		case <-time.After(takes):
			return encode(ctx)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return pub
}

func hung(pub Publication) Publication { return slow(pub, 1000*time.Hour) }

// Signatures of 30 ms are made one by one, while the uploads run side by side;
// every upload has bytes of its own, also one that is tried again.
func TestSlowSigner(t *testing.T) {
	inScene(t, func(t *testing.T, s *publishScene) {
		s.tor.setAll(slowly(time.Second, accepts))
		s.tor.set(s.slots[2].HSDir, fails(errSilence))
		s.publish(slow(s.publication("d", s.slots...), 30*time.Millisecond))
		time.Sleep(8*30*time.Millisecond + time.Second)
		synctest.Wait()
		filled, most := 0, s.tor.atMost()
		for _, r := range s.reported() {
			if r.Err == nil {
				filled++
			}
		}
		if filled != 7 || most < 6 {
			t.Errorf("%d slots filled, %d uploads at a time; want 7, and nearly all at a time", filled, most)
		}
		time.Sleep(10*time.Minute + time.Second)
		synctest.Wait()
		bodies := map[string]bool{}
		for _, c := range s.tor.seen() {
			bodies[c.body] = true
		}
		if n := len(s.tor.seen()); len(bodies) != n || n < 9 {
			t.Errorf("%d different bodies in %d uploads", len(bodies), n)
		}
	})
}

// More services with a signer that hangs than there are places hold up nothing
// but themselves, and Close.
func TestHungSigners(t *testing.T) {
	inScene(t, func(t *testing.T, s *publishScene) {
		s.cfg.InFlight = 2
		for n := range byte(5) {
			pub := hung(s.publication("hung", s.slots...))
			pub.Address = newTestService(t, 10+n).identity.Address()
			s.publish(pub)
		}
		time.Sleep(5 * time.Minute)
		failed := 0
		for _, r := range s.reported() {
			if !r.Unmade || !errors.Is(r.Err, context.DeadlineExceeded) {
				t.Errorf("report %+v", r)
			}
			failed++
		}
		if failed < 10 {
			t.Errorf("%d reports of 5 services that cannot sign", failed)
		}
		began := time.Now()
		s.publish(s.publication("live", s.slots...))
		synctest.Wait()
		if n := len(s.reported()); n != 8 || time.Since(began) > 0 {
			t.Errorf("%d slots filled beside the hung after %v, want 8 at once", n, time.Since(began))
		}
		s.p.Close()
		if waited := time.Since(began); waited > 0 {
			t.Errorf("closing took %v", waited)
		}
	})
}

// A signer that fails is asked again for the whole address and not for every
// slot, at the latest after half a minute; when it is back, all slots are filled.
func TestSignerReturns(t *testing.T) {
	inScene(t, func(t *testing.T, s *publishScene) {
		var gone atomic.Bool
		var tries atomic.Int32
		gone.Store(true)
		pub := s.publication("d", s.slots...)
		encode := pub.Encode
		pub.Slow = true
		pub.Encode = func(ctx context.Context) ([]byte, error) {
			tries.Add(1)
			if gone.Load() {
				return nil, errNoToken
			}
			return encode(ctx)
		}
		s.publish(pub)
		time.Sleep(time.Hour)
		synctest.Wait()
		reports, asked := s.reported(), int(tries.Load())
		if last := reports[len(reports)-1]; !last.Unmade || last.Failures != asked || last.Retry > 30*time.Second || !errors.Is(last.Err, errNoToken) {
			t.Errorf("after %d tries: %+v", asked, last)
		}
		if asked < 100 || asked > 130 || len(s.tor.seen()) > 0 {
			t.Errorf("asked %d times in an hour, %d uploads", asked, len(s.tor.seen()))
		}
		gone.Store(false)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if n := len(s.reported()); n != 8 || s.p.Outstanding() != 0 {
			t.Errorf("%d slots filled when it is back, want 8", n)
		}
	})
}

// What is published anew, with another key, waits neither for the old key's
// answer nor for its next try.
func TestSlowSuperseded(t *testing.T) {
	for what, old := range map[string]func(Publication) Publication{
		"hung": hung,
		"gone": func(pub Publication) Publication {
			pub.Slow, pub.Encode = true, func(context.Context) ([]byte, error) { return nil, errNoToken }
			return pub
		},
	} {
		inScene(t, func(t *testing.T, s *publishScene) {
			s.publish(old(s.publication("old", s.slots...)))
			time.Sleep(45 * time.Second)
			began := time.Now()
			s.reported()
			s.publish(slow(s.publication("new", s.slots...), time.Millisecond))
			time.Sleep(8 * time.Millisecond)
			synctest.Wait()
			if n := len(s.reported()); n != 8 {
				t.Errorf("%s: %d slots filled after %v, want 8", what, n, time.Since(began))
			}
			s.p.Withdraw(s.addr)
			s.publish(old(s.publication("late", s.slots...)))
			s.p.Withdraw(s.addr)
			time.Sleep(time.Hour)
			for _, r := range s.reported() {
				if !errors.Is(r.Err, errNoToken) {
					t.Errorf("%s: a report after everything was withdrawn: %+v", what, r)
				}
			}
		})
	}
}
