package hsdir

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
)

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
