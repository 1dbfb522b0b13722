package hsdir

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
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
