package balance

import (
	"testing"
	"time"

	"onionbalancer/internal/status"
	"onionbalancer/testnet/sim"
)

// withdraw reconfigures the service of a scene.
func (s *scene) withdraw(yes bool) {
	s.custody = func(cfg *Config) { cfg.Withdrawn = yes }
	s.service.Reconfigure(s.config())
}

// gone fails unless new clients find nobody.
func (s *scene) gone(when string) {
	s.t.Helper()
	if !s.service.Withdrawn() {
		s.t.Errorf("%s: something is left at HSDirs: %+v", when, s.service.Status().Descriptors)
	}
	for range 8 {
		if r := s.client().Request(); r.Err == nil {
			s.t.Fatalf("%s: a client reached an instance", when)
		}
	}
}

func TestWithdrawn(t *testing.T) {
	onScene(t, sim.Config{Seed: 3, Relays: 40}, func(t *testing.T, s *scene) {
		s.settle(time.Minute)
		s.reach("at first", 4)
		if s.service.Withdrawn() {
			t.Error("it is withdrawn before it was asked to be")
		}
		s.withdraw(true)
		s.settle(30 * time.Second)
		s.gone("withdrawn")
		if got := s.service.Status(); got.State != status.StateOK || len(got.Warnings) > 0 {
			t.Errorf("withdrawn: the state is %s, with warnings %q", got.State, got.Warnings)
		}
		posts := s.net.Tor().Counts().Posts
		s.restart()
		s.settle(30 * time.Second)
		s.gone("after a restart")
		s.settle(26 * time.Hour) // both rotations
		s.gone("a day later")
		if more := s.net.Tor().Counts().Posts - posts; more > 0 {
			t.Errorf("%d uploads of a service that was withdrawn already", more)
		}
		s.withdraw(false)
		s.settle(30 * time.Second)
		s.reach("resumed", 8)
		// The process ends before it is withdrawn.
		s.stop()
		s.custody = func(cfg *Config) { cfg.Withdrawn = true }
		s.start()
		s.settle(30 * time.Second)
		s.gone("after a start as withdrawn")
		s.withdraw(false)
		s.settle(30 * time.Second)
		s.reach("resumed again", 8)
		if got := s.service.Status(); got.Descriptors[0].Points < 7 || got.Descriptors[1].Points < 7 {
			t.Errorf("resumed: %+v", got.Descriptors)
		}
	})
}

// An HSDir that does not answer is waited for until it has dropped what it may have.
func TestWithdrawnWithoutAnswer(t *testing.T) {
	onScene(t, sim.Config{Seed: 3, Relays: 40}, func(t *testing.T, s *scene) {
		s.settle(time.Minute)
		at := time.Now()
		silent := s.service.Status().Descriptors[0].Slots[0].HSDir
		s.net.Relay(silent).SetFaults(sim.Faults{Silent: true})
		s.withdraw(true)
		s.settle(keptFor - 2*time.Minute)
		if s.service.Withdrawn() {
			t.Errorf("withdrawn %s after the last upload, though HSDir %s may have a descriptor", time.Since(at), silent)
		}
		s.settle(2 * time.Minute)
		s.gone("three hours later")
	})
}
