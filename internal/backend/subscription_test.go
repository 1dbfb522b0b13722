package backend

import (
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/event"
	"onionbalancer/internal/state/statetest"
)

// A subscriber that wants an instance fetched more often than the others has it fetched sooner.
// One that wants it less often changes nothing.
func TestSubscribeSooner(t *testing.T) {
	now := testNow
	s := New(Config{Consensus: noNetwork{}, Store: statetest.Open(t, t.TempDir()), Record: func(event.Event) {}, Now: func() time.Time { return now }})
	web := descriptor.Address{1}
	subscribe := func(n byte, every time.Duration) (due time.Duration) {
		s.Subscribe(descriptor.Address{9, n}, []Instance{{Name: "web1", Address: web}}, every, func() {})
		return s.watches[web].now.Due.Sub(now)
	}
	subscribe(1, time.Hour)
	s.watches[web].update(func(b *Backend) { b.Due = now.Add(time.Hour) }) // as after a fetch
	if due := subscribe(2, time.Minute); due < 50*time.Second || due > 70*time.Second {
		t.Errorf("every minute: due in %s", due)
	}
	before := s.watches[web].now.Due
	now = now.Add(time.Second)
	if subscribe(3, 2*time.Hour); !s.watches[web].now.Due.Equal(before) {
		t.Errorf("every two hours: due at %s, and was at %s", s.watches[web].now.Due, before)
	}
}
