package hsdir

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// TestUploadSupersedes uploads another edition while one slot waits for its retry,
// one is in flight and one is not in the ring any more.
func TestUploadSupersedes(t *testing.T) {
	onQueue(t, func(t *testing.T, s *uploadScene) {
		retried, flying, gone, added := s.slots[0], s.slots[1], s.slots[2], s.slots[3]
		s.tor.set(retried.HSDir, fails(errSilence))
		s.tor.set(gone.HSDir, fails(errSilence))
		s.tor.set(flying.HSDir, slowly(30*time.Second, accepts))
		s.upload(s.edition("old", retried, flying, gone))
		time.Sleep(time.Second)
		if n := len(s.reported()); n != 2 {
			t.Fatalf("%d reports, want those of two failures", n)
		}
		s.tor.set(retried.HSDir, accepts)
		s.upload(s.edition("new", retried, flying, added))
		synctest.Wait()
		// At once, without the rest of the wait; but not beside the upload in flight.
		s.wantConfirmed(t, 2)
		time.Sleep(time.Hour)
		if reports := s.reported(); len(reports) != 1 || reports[0].Slot != flying || reports[0].Err != nil || reports[0].Took != 30*time.Second {
			t.Errorf("reports %+v, want that of the new edition for the slot in flight", reports)
		}
		counts := map[string]int{}
		for _, c := range s.tor.seen() {
			counts[c.body[:3]+c.hsdir[:2]]++
		}
		want := map[string]int{"old01": 1, "old02": 1, "old03": 1, "new01": 1, "new02": 1, "new04": 1}
		if fmt.Sprint(counts) != fmt.Sprint(want) {
			t.Errorf("uploads %v, want %v", counts, want)
		}
		s.wantPending(t, 0)
	})
}

// The backoff of an HSDir that never answers goes on in the next edition, which is
// tried at once.
func TestUploadBackoffCarriesOver(t *testing.T) {
	onQueue(t, func(t *testing.T, s *uploadScene) {
		s.tor.set(s.slots[0].HSDir, fails(errSilence))
		s.upload(s.edition("old", s.slots[:2]...))
		time.Sleep(time.Minute) // attempts at 0, 2, 6, 14 and 30 s
		s.reported()
		s.upload(s.edition("new", s.slots[:2]...))
		synctest.Wait()
		for _, r := range s.reported() {
			want := UploadResult{Slot: s.slots[1], Attempts: 1}
			if r.Slot == s.slots[0] {
				want = UploadResult{Slot: s.slots[0], Err: errSilence, Attempts: 6, RetryIn: 64 * time.Second}
			}
			if r != want {
				t.Errorf("report %+v, want %+v", r, want)
			}
		}
	})
}

// An edition that is replaced while its bytes are made is not uploaded, and does
// not keep the next one waiting.
func TestUploadSupersedesBody(t *testing.T) {
	onQueue(t, func(t *testing.T, s *uploadScene) {
		u := s.edition("old", s.slots...)
		body := u.Body
		u.Body = func(ctx context.Context, slot Slot) ([]byte, error) {
			<-ctx.Done() // and gives it all the same
			return body(context.Background(), slot)
		}
		s.upload(u)
		time.Sleep(time.Second)
		s.upload(s.edition("new", s.slots...))
		synctest.Wait()
		s.wantConfirmed(t, 8)
		for _, c := range s.tor.seen() {
			if c.body[:3] != "new" {
				t.Errorf("uploaded %q", c.body)
			}
		}
	})
}

func TestUploadCancel(t *testing.T) {
	onQueue(t, func(t *testing.T, s *uploadScene) {
		s.cfg.InFlight = 2
		s.tor.setAll(fails(errSilence))
		next := s.edition("d", s.slots[0], s.slots[1])
		next.Period = testPeriod.Next()
		s.upload(s.edition("d", s.slots...))
		s.upload(next)
		other := s.edition("other", s.slots[0])
		other.Address = newTestService(t, 9).identity.Address()
		s.upload(other)
		synctest.Wait()
		s.wantPending(t, 11)
		s.q.CancelPeriod(s.addr, testPeriod)
		s.wantPending(t, 3)
		s.q.CancelPeriod(s.addr, testPeriod)
		s.q.Cancel(s.addr)
		s.wantPending(t, 1)
		s.q.Cancel(s.addr)
		s.reported()
		s.tor.setAll(accepts)
		time.Sleep(time.Hour)
		s.wantConfirmed(t, 1) // of the other service
		s.wantPending(t, 0)
		// An edition without slots cancels, too.
		s.tor.setAll(fails(errSilence))
		s.tor.set(s.slots[2].HSDir, silent)
		s.tor.set(s.slots[3].HSDir, silent)
		s.upload(s.edition("d", s.slots...))
		time.Sleep(time.Second) // two wait for a retry, two are in flight, four wait for their turn
		s.upload(s.edition("d"))
		s.wantPending(t, 0)
		synctest.Wait()
		s.reported()
		encoded := s.encoded
		time.Sleep(time.Hour)
		s.wantConfirmed(t, 0)
		if s.encoded != encoded {
			t.Errorf("%d bodies made after the end", s.encoded-encoded)
		}
	})
}

// An owner may answer a rejection from within the report.
func TestReportMayUpload(t *testing.T) {
	onQueue(t, func(t *testing.T, s *uploadScene) {
		s.tor.set(s.slots[0].HSDir, refuses)
		u := s.edition("low", s.slots[0])
		u.Report = func(r UploadResult) {
			if r.Rejected {
				s.tor.set(s.slots[0].HSDir, accepts)
				s.q.Upload(s.edition("high", s.slots[0]))
			}
		}
		s.upload(u)
		synctest.Wait()
		s.wantConfirmed(t, 1)
	})
}

// What waits for a route goes on in the order in which it came.
func TestUploadOrderOnRoute(t *testing.T) {
	onQueue(t, func(t *testing.T, s *uploadScene) {
		s.cfg.InFlight = 2
		s.tor.setAll(slowly(time.Second, accepts))
		s.tor.set(s.slots[0].HSDir, slowly(2500*time.Millisecond, accepts))
		for n := range 3 {
			u := s.edition(fmt.Sprint("period", n), s.slots[0])
			u.Period.Number += uint64(n)
			s.upload(u)
		}
		others := s.edition("others", s.slots[1:6]...)
		others.Period.Number += 3
		s.upload(others)
		time.Sleep(time.Minute)
		var got []string
		for _, c := range s.tor.seen() {
			if c.hsdir[:2] == "01" {
				got = append(got, c.body[:7])
			}
		}
		last := s.tor.seen()[7]
		if fmt.Sprint(got) != "[period0 period1 period2]" || last.body[:7] != "period2" {
			t.Errorf("uploaded %v, at last %q", got, last.body)
		}
	})
}

// TestUploadRandomly does what comes to mind in any order, and looks at the end
// whether each slot has the last edition, and whether anything is left over.
func TestUploadRandomly(t *testing.T) {
	for seed := range uint64(200) {
		onQueue(t, func(t *testing.T, s *uploadScene) {
			random := rand.New(rand.NewPCG(seed, 7))
			s.cfg = UploadConfig{Poster: s.tor, InFlight: 1 + random.IntN(20), PerSecond: 1 + 100*random.Float64(), Burst: 1 + random.IntN(20)}
			behaviours := []behaviour{accepts, fails(errSilence), silent, slowly(3*time.Second, accepts), slowly(time.Second, fails(errSilence))}
			type key struct {
				address byte
				period  uint64
			}
			last := map[key]Upload{}
			text := map[key]string{}
			for edition := range 100 {
				u := s.edition(fmt.Sprintf("%03d", edition), s.slots[random.IntN(7):]...)
				k := key{byte(random.IntN(3)), uint64(random.IntN(2))}
				u.Address[0], u.Period.Number = k.address, k.period
				u.Urgency = Urgency(random.IntN(7) - 1)
				switch random.IntN(10) {
				case 0:
					s.tor.set(s.slots[random.IntN(8)].HSDir, behaviours[random.IntN(len(behaviours))])
				case 1:
					if s.q != nil {
						s.q.RetryNow()
					}
				case 2:
					if s.q != nil {
						s.q.Cancel(u.Address)
						delete(last, key{k.address, 0})
						delete(last, key{k.address, 1})
					}
				default:
					s.upload(u)
					last[k], text[k] = u, fmt.Sprintf("%03d", edition)
				}
				time.Sleep(time.Duration(random.IntN(5000)) * time.Millisecond)
			}
			for _, slot := range s.slots {
				s.tor.set(slot.HSDir, accepts)
			}
			time.Sleep(time.Hour)
			s.wantPending(t, 0)
			posted := map[string]bool{}
			for _, c := range s.tor.seen() {
				posted[c.address+c.hsdir+c.body[:3]] = true
			}
			for k, u := range last {
				for _, slot := range u.Slots {
					if !posted[u.Address.Label()+upperHex(slot.HSDir[:])+text[k]] {
						t.Errorf("seed %d: edition %s was never uploaded to %x", seed, text[k], slot.HSDir)
					}
				}
			}
			s.wantPace(t)
			q := s.q
			if len(q.editions)+len(q.inFlight)+len(q.waiting)+q.retrying > 0 || q.ready != [urgencies][2][attempts]taskList{} {
				t.Errorf("seed %d: left over: %d editions, %d in flight, %d waiting, %d retrying, ready %v",
					seed, len(q.editions), len(q.inFlight), len(q.waiting), q.retrying, q.ready)
			}
		})
	}
}
