package balance

import (
	"errors"
	"testing"
	"time"

	"onionbalancer/hsdir"
	"onionbalancer/internal/event"
)

// TestLeftRefuses: an HSDir that left the ring and refuses an upload costs no other edition,
// which all HSDirs would get.
func TestLeftRefuses(t *testing.T) {
	for _, left := range []bool{false, true} {
		s := State{}
		v := wideView(20, testMember("a", 1, 2, 3))
		s.carryOut(v)
		v.Now = testNow.Add(time.Second)
		v.Targets[0].Slots[3].HSDir = [20]byte{99}
		s.carryOut(v)
		e := s.Editions[testPeriod]
		at := e.slots[3].Slot
		if left {
			at = e.slots[8].Slot
		}
		service := &Service{state: s}
		service.env = Env{Now: func() time.Time { return testNow }, Record: func(event.Event) {}}
		service.confirm(testNow, e, hsdir.UploadResult{Slot: at, Rejected: true, Err: errors.New("refused")})
		v.Now = testNow.Add(10 * time.Second)
		if p := makePlan(v, s); (p.Targets[0].Reason == ReasonRejected) == left || at.Left != left {
			t.Errorf("refused by %+v: made for %q", at, p.Targets[0].Reason)
		}
	}
}
