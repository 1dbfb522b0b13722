package hsdir

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
)

// uploadScene is a queue in virtual time, and collects what it reports.
type uploadScene struct {
	tor   *fakeTor
	q     *UploadQueue
	cfg   UploadConfig
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

// onQueue runs test in virtual time. The queue begins with the first upload, and is
// closed at the end.
func onQueue(t *testing.T, test func(t *testing.T, s *uploadScene)) {
	t.Helper()
	s := &uploadScene{tor: &fakeTor{otherwise: accepts}, addr: newTestService(t, 1).identity.Address()}
	for i := range 8 {
		s.slots = append(s.slots, Slot{HSDir: [20]byte{byte(i + 1)}, Replica: 1 + i%2, Reserve: i >= 6})
	}
	s.cfg = UploadConfig{Poster: s.tor, Random: func() float64 { return 0 }}
	synctest.Test(t, func(t *testing.T) {
		test(t, s)
		if s.q != nil {
			s.q.Close()
		}
		if s.tor.clash {
			t.Error("two uploads for one service were in flight at one HSDir")
		}
	})
}

// edition returns an Upload whose bodies are text and a number.
func (s *uploadScene) edition(text string, slots ...Slot) Upload {
	return Upload{
		Address: s.addr, Period: testPeriod, Slots: slots,
		Body: func(_ context.Context, slot Slot) ([]byte, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.encoded++
			return fmt.Appendf(nil, "%s %d %d", text, slot.HSDir[0], s.encoded), nil
		},
		Report: func(r UploadResult) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.reports = append(s.reports, r)
		},
	}
}

func (s *uploadScene) upload(u Upload) {
	if s.q == nil {
		s.q = NewUploadQueue(s.cfg)
	}
	s.q.Upload(u)
}

// reported returns the reports so far, and forgets them.
func (s *uploadScene) reported() []UploadResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.reports
	s.reports = nil
	return r
}

// wantConfirmed fails unless n slots were confirmed since the last look, and
// nothing else was reported.
func (s *uploadScene) wantConfirmed(t *testing.T, n int) {
	t.Helper()
	reports := s.reported()
	confirmed := 0
	for _, r := range reports {
		if r.Err == nil {
			confirmed++
		}
	}
	if confirmed != n || len(reports) != n {
		t.Errorf("%d of %d reports are of confirmed slots, want %d: %+v", confirmed, len(reports), n, reports)
	}
}

func (s *uploadScene) wantPending(t *testing.T, n int) {
	t.Helper()
	if got := s.q.Pending(); got != n {
		t.Errorf("%d slots pending, want %d", got, n)
	}
}

// A service that is alone on its tor uploads both of its descriptors at once, to
// each slot bytes of its own.
func TestUpload(t *testing.T) {
	onQueue(t, func(t *testing.T, s *uploadScene) {
		s.tor.setAll(slowly(time.Second, accepts))
		var others []Slot
		for i := range 8 {
			others = append(others, Slot{HSDir: [20]byte{byte(101 + i)}, Replica: 1 + i%2})
		}
		second := s.edition("second", others...)
		second.Period = testPeriod.Next()
		s.upload(s.edition("first", s.slots...))
		s.upload(second)
		synctest.Wait()
		if s.tor.atMost() != 16 {
			t.Errorf("%d uploads in flight at once, want 16", s.tor.atMost())
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for _, r := range s.reported() {
			want := UploadResult{Slot: r.Slot, Attempts: 1, Took: time.Second}
			if r != want || !slices.Contains(slices.Concat(s.slots, others), r.Slot) {
				t.Errorf("report %+v, want %+v", r, want)
			}
		}
		bodies := map[string]bool{}
		for _, c := range s.tor.seen() {
			bodies[c.body] = true
			if c.address != s.addr.Label() || len(c.hsdir) != 40 {
				t.Errorf("posted for %q to %q", c.address, c.hsdir)
			}
		}
		time.Sleep(time.Hour)
		if n := len(s.tor.seen()); len(bodies) != 16 || n != 16 {
			t.Errorf("%d different bodies in %d uploads, want 16 in 16", len(bodies), n)
		}
		s.wantPending(t, 0)
	})
}

// TestUploadOrder gives one place alone, so that uploads go one by one.
func TestUploadOrder(t *testing.T) {
	onQueue(t, func(t *testing.T, s *uploadScene) {
		s.cfg.InFlight = 1
		s.tor.setAll(slowly(time.Second, accepts))
		first := s.edition("first", Slot{HSDir: [20]byte{1}})
		s.upload(first) // takes the place
		number := byte(10)
		for _, urgency := range []Urgency{UrgencyRefresh, UrgencyRotation, UrgencyPointsDead, UrgencyNew, UrgencyNoLivePoint} {
			for n := range byte(2) { // two addresses each
				u := s.edition("d", Slot{HSDir: [20]byte{number + 2}, Reserve: true}, Slot{HSDir: [20]byte{number}}, Slot{HSDir: [20]byte{number + 1}})
				u.Urgency, u.Address = urgency, newTestService(t, 100+number+n).identity.Address()
				s.upload(u)
				number += 3
			}
		}
		time.Sleep(time.Minute)
		var got []byte
		for _, r := range s.reported() {
			got = append(got, r.Slot.HSDir[0])
		}
		want := []byte{1}
		for n := number - 6; n >= 10; n -= 6 { // of each urgency, the six numbers from n on
			want = append(want, n, n+1, n+3, n+4, n+2, n+5)
		}
		if !slices.Equal(got, want) {
			t.Errorf("uploaded to\n%v, want\n%v", got, want)
		}
		if s.tor.atMost() != 1 {
			t.Errorf("%d in flight, want 1", s.tor.atMost())
		}
	})
}

// A renewal does not wait for ever for uploads that can wait, but for new addresses it does.
func TestUploadRenewalWaits(t *testing.T) {
	for _, more := range []struct {
		urgency Urgency
		reserve bool          // the renewal's slot
		want    time.Duration // until the renewal; 0: not in the test's time
	}{
		{UrgencyPointsDead, false, renewalPatience}, {UrgencyRotation, false, renewalPatience}, {UrgencyNew, false, 0},
		{UrgencyPointsDead, true, reservePatience},
	} {
		onQueue(t, func(t *testing.T, s *uploadScene) {
			s.cfg.InFlight = 1
			s.tor.setAll(slowly(time.Second, accepts))
			var took time.Duration
			for n := range 2400 {
				u := s.edition("d", Slot{HSDir: [20]byte{1}})
				u.Address[0], u.Address[1], u.Urgency = byte(n), byte(n>>8), more.urgency
				s.upload(u)
				if n == 0 {
					began := time.Now()
					renewal := s.edition("d", Slot{HSDir: [20]byte{2}, Reserve: more.reserve})
					renewal.Urgency = UrgencyRefresh
					renewal.Report = func(UploadResult) { took = time.Since(began) }
					s.upload(renewal)
				}
				time.Sleep(time.Second / 2)
			}
			if took < more.want || took > more.want+2*time.Second || more.want == 0 && took != 0 {
				t.Errorf("uploaded after %s beside uploads of urgency %d, want %s", took, more.urgency, more.want)
			}
		})
	}
}

// One attempt that is not answered does not have a renewal wait for all others. Where an
// HSDir never answers it does.
func TestUploadRenewalAgain(t *testing.T) {
	for silences, want := range map[int32]bool{1: true, 2: false} {
		onQueue(t, func(t *testing.T, s *uploadScene) {
			s.cfg.InFlight = 1
			s.tor.setAll(slowly(time.Second, accepts))
			var asked atomic.Int32
			var confirmed atomic.Bool
			s.tor.set([20]byte{2}, func(context.Context, []byte) ([]byte, error) {
				time.Sleep(time.Second)
				if asked.Add(1) <= silences {
					return nil, errSilence
				}
				return nil, nil
			})
			for n := range 1800 {
				u := s.edition("d", Slot{HSDir: [20]byte{1}})
				u.Address[0], u.Address[1], u.Urgency = byte(n), byte(n>>8), UrgencyPointsDead
				s.upload(u)
				if n == 0 {
					renewal := s.edition("d", Slot{HSDir: [20]byte{2}})
					renewal.Urgency = UrgencyRefresh
					renewal.Report = func(r UploadResult) { confirmed.Store(r.Err == nil) }
					s.upload(renewal)
				}
				time.Sleep(time.Second / 2)
			}
			if confirmed.Load() != want {
				t.Errorf("confirmed: %t, want %t", confirmed.Load(), want)
			}
		})
	}
}

// Retries come after first attempts of the same kind.
func TestUploadRetriesAfterFirst(t *testing.T) {
	onQueue(t, func(t *testing.T, s *uploadScene) {
		s.cfg.InFlight, s.cfg.RetryMin = 1, time.Second
		s.tor.set(s.slots[0].HSDir, slowly(time.Second, fails(errSilence)))
		s.tor.set(s.slots[1].HSDir, slowly(4*time.Second, accepts))
		s.upload(s.edition("d", s.slots[:4]...))
		time.Sleep(time.Minute)
		var got []byte
		for _, r := range s.reported()[:5] {
			got = append(got, r.Slot.HSDir[0])
		}
		if want := []byte{1, 2, 3, 4, 1}; !slices.Equal(got, want) {
			t.Errorf("uploaded to %v, want %v", got, want)
		}
	})
}

// The launches are spaced out as configured, after a burst.
func TestUploadPace(t *testing.T) {
	onQueue(t, func(t *testing.T, s *uploadScene) {
		s.cfg.InFlight, s.cfg.PerSecond, s.cfg.Burst = 100, 2, 3
		began := time.Now()
		s.upload(s.edition("d", s.slots...))
		time.Sleep(time.Minute)
		var got []time.Duration
		for _, c := range s.tor.seen() {
			got = append(got, c.at.Sub(began).Round(10*time.Millisecond))
		}
		const half = 500 * time.Millisecond
		if want := []time.Duration{0, 0, 0, half, 2 * half, 3 * half, 4 * half, 5 * half}; !slices.Equal(got, want) {
			t.Errorf("launched at %v, want %v", got, want)
		}
	})
}

// A raise of the rate is of use at once, and a cut too: uploads that wait for their turn
// are launched by it.
func TestUploadSetRate(t *testing.T) {
	onQueue(t, func(t *testing.T, s *uploadScene) {
		s.cfg.PerSecond, s.cfg.Burst = 0.01, 1
		began := time.Now()
		s.upload(s.edition("d", s.slots[:6]...))
		time.Sleep(50 * time.Second) // half of a token is there
		s.q.SetRate(0.1)
		time.Sleep(16 * time.Second)
		s.q.SetRate(0.01)
		time.Sleep(time.Hour)
		var got []time.Duration
		for _, c := range s.tor.seen() {
			got = append(got, c.at.Sub(began).Round(time.Second))
		}
		// At 66 seconds nine tenths of the fourth's token are missing, which take 90 seconds.
		want := []time.Duration{0, 55 * time.Second, 65 * time.Second, 156 * time.Second, 256 * time.Second, 356 * time.Second}
		if !slices.Equal(got, want) {
			t.Errorf("launched at %v, want %v", got, want)
		}
		s.wantConfirmed(t, 6)
	})
}

// wantPace fails if more uploads were launched in some time than the rate and the burst
// allow.
func (s *uploadScene) wantPace(t *testing.T) {
	t.Helper()
	tokens, last := float64(s.cfg.Burst), time.Time{}
	for n, c := range s.tor.seen() {
		if n > 0 {
			tokens = min(float64(s.cfg.Burst), tokens+c.at.Sub(last).Seconds()*s.cfg.PerSecond)
		}
		if tokens, last = tokens-1, c.at; tokens < -1e-3 {
			t.Fatalf("upload %d of %d is ahead of %v a second and %d at once", n+1, len(s.tor.seen()), s.cfg.PerSecond, s.cfg.Burst)
		}
	}
}

// Whatever their urgency and however they end, uploads keep to the rate.
func TestUploadRate(t *testing.T) {
	onQueue(t, func(t *testing.T, s *uploadScene) {
		s.cfg.PerSecond, s.cfg.Burst = 10, 100
		s.tor.set(s.slots[1].HSDir, fails(errSilence))
		s.tor.set(s.slots[2].HSDir, slowly(7*time.Second, accepts))
		for n := range 300 {
			u := s.edition("d", s.slots...)
			u.Address[0], u.Address[1], u.Urgency, u.Report = byte(n), byte(n>>8), Urgency(n%5), nil
			s.upload(u)
			time.Sleep(time.Duration(n%7) * 100 * time.Millisecond)
			if n == 200 {
				time.Sleep(10 * time.Minute)
			}
		}
		time.Sleep(10 * time.Minute)
		s.wantPace(t)
		if calls := s.tor.seen(); len(calls) < 2400 {
			t.Errorf("only %d uploads", len(calls))
		}
	})
}

// TestUploadRetries has one HSDir of each failing kind among good ones.
func TestUploadRetries(t *testing.T) {
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
			onQueue(t, func(t *testing.T, s *uploadScene) {
				s.tor.set(s.slots[0].HSDir, test.b)
				s.upload(s.edition("d", s.slots...))
				time.Sleep(test.took)
				synctest.Wait()
				for _, r := range s.reported() {
					if r.Slot == s.slots[0] != (r.Err != nil) || r.Err != nil && (r.RetryIn != 2*time.Second || r.Attempts != 1) {
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
						t.Errorf("attempt %d was not encoded again", i)
					}
					want = min(2*want, 5*time.Minute)
				}
				if len(calls) < 12 {
					t.Fatalf("%d attempts in an hour", len(calls))
				}
				s.wantPending(t, 1)
				// It comes back, and confirms.
				s.tor.set(s.slots[0].HSDir, accepts)
				time.Sleep(10 * time.Minute)
				reports := s.reported()
				if last := reports[len(reports)-1]; last.Err != nil || last.Slot != s.slots[0] || last.Attempts <= len(calls) {
					t.Errorf("last report %+v after %d attempts", last, len(calls))
				}
				s.wantPending(t, 0)
			})
		})
	}
}

func TestUploadRejected(t *testing.T) {
	onQueue(t, func(t *testing.T, s *uploadScene) {
		s.tor.set(s.slots[0].HSDir, refuses)
		s.upload(s.edition("d", s.slots[0]))
		time.Sleep(24 * time.Hour)
		reports := s.reported()
		if len(reports) != 1 || !reports[0].Rejected || reports[0].Err == nil || reports[0].RetryIn != 0 {
			t.Fatalf("reports %+v", reports)
		}
		s.wantPending(t, 0)
		// The owner raises the revision counter, and that is another edition.
		s.tor.set(s.slots[0].HSDir, accepts)
		s.upload(s.edition("higher", s.slots[0]))
		synctest.Wait()
		s.wantConfirmed(t, 1)
	})
}

// What Body refuses is the owner's to decide about: it is not retried, and not
// reported if Body says that nobody needs it.
func TestUploadWithoutBody(t *testing.T) {
	onQueue(t, func(t *testing.T, s *uploadScene) {
		broken := reasonError(uploadRejected) // whatever the error says, no HSDir refused
		u := s.edition("d", s.slots...)
		body := u.Body
		u.Body = func(ctx context.Context, slot Slot) ([]byte, error) {
			switch slot {
			case s.slots[1]:
				return nil, broken
			case s.slots[2]:
				return nil, fmt.Errorf("slot %d: %w", slot.Replica, ErrSuperseded)
			}
			return body(ctx, slot)
		}
		s.upload(u)
		time.Sleep(time.Hour)
		reports := s.reported()
		if len(reports) != 7 || len(s.tor.seen()) != 6 {
			t.Errorf("%d reports of %d uploads, want 7 of 6", len(reports), len(s.tor.seen()))
		}
		for _, r := range reports {
			if bad := r.Slot == s.slots[1]; r.Unencoded != bad || errors.Is(r.Err, broken) != bad || r.Rejected || r.RetryIn != 0 {
				t.Errorf("report %+v", r)
			}
		}
		s.wantPending(t, 0)
	})
}

// While nothing may be uploaded, nothing is, and no HSDir is blamed for it; soon after, all
// is, by Bodies that are called again. An upload that is cancelled meanwhile is gone.
func TestUploadLater(t *testing.T) {
	onQueue(t, func(t *testing.T, s *uploadScene) {
		var awake atomic.Bool
		later := func(text string) Upload {
			u := s.edition(text, s.slots...)
			body := u.Body
			u.Body = func(ctx context.Context, slot Slot) ([]byte, error) {
				raw, err := body(ctx, slot)
				if !awake.Load() {
					return nil, fmt.Errorf("asleep: %w", ErrLater)
				}
				return raw, err
			}
			return u
		}
		s.upload(later("cancelled"))
		time.Sleep(61 * time.Second)
		s.q.Cancel(s.addr)
		s.wantPending(t, 0)
		s.upload(later("d"))
		time.Sleep(61 * time.Second)
		if got := s.q.Load(); len(s.tor.seen()) != 0 || got.Pending != 8 || got.InFlight != 0 || got.UploadCounts != (UploadCounts{}) {
			t.Errorf("%d uploads while asleep, %+v", len(s.tor.seen()), got)
		}
		s.wantConfirmed(t, 0)
		awake.Store(true)
		time.Sleep(3 * time.Second)
		reports := s.reported()
		for _, r := range reports {
			if r.Err != nil || r.Attempts != 1 {
				t.Errorf("%d attempts, %v", r.Attempts, r.Err)
			}
		}
		if len(reports) != 8 {
			t.Errorf("%d reports", len(reports))
		}
		s.wantPending(t, 0)
		for _, u := range s.tor.seen() {
			if !strings.HasPrefix(u.body, "d ") {
				t.Errorf("uploaded %q", u.body)
			}
		}
	})
}

// A Body that hangs is given up, and a slow one leaves the upload all of its time.
func TestUploadSlowBody(t *testing.T) {
	onQueue(t, func(t *testing.T, s *uploadScene) {
		s.tor.setAll(slowly(50*time.Second, accepts))
		u := s.edition("d", s.slots[:2]...)
		body := u.Body
		u.Body = func(ctx context.Context, slot Slot) ([]byte, error) {
			if slot == s.slots[0] {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			time.Sleep(50 * time.Second)
			return body(ctx, slot)
		}
		s.upload(u)
		time.Sleep(time.Hour)
		reports := s.reported()
		if len(reports) != 2 || !reports[0].Unencoded || !errors.Is(reports[0].Err, context.DeadlineExceeded) || reports[0].Took != time.Minute ||
			reports[1].Err != nil || reports[1].Took != 100*time.Second {
			t.Errorf("reports %+v", reports)
		}
	})
}

func TestUploadRetryNow(t *testing.T) {
	onQueue(t, func(t *testing.T, s *uploadScene) {
		s.tor.setAll(fails(errSilence))
		s.upload(s.edition("d", s.slots...))
		time.Sleep(time.Hour)
		s.tor.setAll(accepts)
		s.reported()
		s.q.RetryNow()
		synctest.Wait()
		s.wantConfirmed(t, 8)
		s.wantPending(t, 0)
	})
}

// TestUploadDoesNotHoldUpOthers has more HSDirs that never answer than there are
// places, and uploads for another service after their first failures.
func TestUploadDoesNotHoldUpOthers(t *testing.T) {
	onQueue(t, func(t *testing.T, s *uploadScene) {
		s.cfg.InFlight, s.cfg.RetryMax = 4, 10*time.Second
		var dead []Slot
		for i := range 20 {
			dead = append(dead, Slot{HSDir: [20]byte{0xdd, byte(i)}, Replica: 1})
			s.tor.set(dead[i].HSDir, silent)
		}
		s.upload(s.edition("dead", dead...))             // as urgent as can be
		time.Sleep(6*time.Minute + 500*time.Millisecond) // while no retry ends
		s.reported()
		other := s.edition("live", s.slots...)
		other.Address, other.Urgency = newTestService(t, 9).identity.Address(), UrgencyRefresh
		s.upload(other)
		synctest.Wait()
		s.wantConfirmed(t, 8)
		if s.tor.atMost() > 4 {
			t.Errorf("%d in flight, want 4 at most", s.tor.atMost())
		}
	})
}

// Both descriptors of a service go to one HSDir: tor's events could not tell the
// uploads apart if they were in flight together.
func TestUploadOneRoute(t *testing.T) {
	onQueue(t, func(t *testing.T, s *uploadScene) {
		s.tor.setAll(slowly(time.Second, accepts))
		second := s.edition("second", s.slots...)
		second.Period = testPeriod.Next()
		s.upload(s.edition("first", s.slots...))
		s.upload(second)
		time.Sleep(time.Second)
		synctest.Wait()
		s.wantConfirmed(t, 8)
		time.Sleep(time.Second)
		synctest.Wait()
		s.wantConfirmed(t, 8)
	})
}

func TestUploadClose(t *testing.T) {
	onQueue(t, func(t *testing.T, s *uploadScene) {
		s.tor.setAll(silent)
		s.cfg.InFlight = 4
		s.upload(s.edition("d", s.slots...))
		synctest.Wait()
		began := time.Now()
		s.q.Close()
		s.upload(s.edition("late", s.slots...))
		s.q.RetryNow()
		s.q.Cancel(s.addr)
		time.Sleep(time.Hour)
		if n := len(s.tor.seen()); time.Since(began) != time.Hour || n != 4 {
			t.Errorf("closed after %v and %d uploads", time.Since(began)-time.Hour, n)
		}
		s.wantConfirmed(t, 0)
		s.wantPending(t, 0)
	})
}

// Uploads that wait have no goroutine each, whether for their turn or for a retry.
func TestUploadGoroutines(t *testing.T) {
	onQueue(t, func(t *testing.T, s *uploadScene) {
		s.tor.setAll(fails(errSilence))
		before := runtime.NumGoroutine()
		for n := range 1000 {
			u := s.edition("d", s.slots...)
			u.Address[0], u.Address[1], u.Report = byte(n), byte(n>>8), nil
			s.upload(u)
		}
		for range 4 {
			synctest.Wait()
			if n := runtime.NumGoroutine() - before; n > 16 {
				t.Fatalf("%d goroutines for %d pending uploads", n, s.q.Pending())
			}
			time.Sleep(time.Minute)
		}
		s.wantPending(t, 8000)
	})
}

// The load of a queue is what it has to do, and what became of what it has tried.
func TestUploadLoad(t *testing.T) {
	onQueue(t, func(t *testing.T, s *uploadScene) {
		s.tor.set(s.slots[0].HSDir, slowly(time.Hour, accepts))
		s.tor.set(s.slots[1].HSDir, fails(errSilence))
		s.tor.set(s.slots[2].HSDir, refuses)
		s.upload(s.edition("a", s.slots[:6]...))
		synctest.Wait()
		if got, want := s.q.Load(), (UploadLoad{2, 1, 1, UploadCounts{Confirmed: 3, Rejected: 1, Failed: 1}}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		s.tor.set(s.slots[0].HSDir, accepts)
		s.tor.set(s.slots[1].HSDir, accepts)
		time.Sleep(time.Hour)
		if got := s.q.Load(); got.Pending != 0 || got.InFlight != 0 || got.Waiting != 0 || got.Confirmed != 5 {
			t.Errorf("an hour later: %+v", got)
		}
	})
}
