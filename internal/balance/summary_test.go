package balance

import (
	"testing"
	"time"

	"onionbalancer/internal/health"
	"onionbalancer/internal/state"
	"onionbalancer/internal/status"
	"onionbalancer/testnet/sim"
)

// The summary tells what is the service's own: not that an instance is gone, which is
// told once for all services that have it.
func TestSummary(t *testing.T) {
	onScene(t, sim.Config{Seed: 61, Relays: 60}, func(t *testing.T, s *scene) {
		if got := s.service.Summary(); got.State != status.StateStarting || !got.Made.IsZero() {
			t.Errorf("before anything is published: %+v", got)
		}
		s.settle(5 * time.Minute)
		began := time.Now()
		s.want("at first", status.StateOK)
		got := s.service.Summary()
		if got.State != status.StateOK || len(got.Warnings) != 0 || got.Missing != 0 || got.Custody.CertifiedUntil.Before(began) {
			t.Errorf("published: %+v", got)
		}
		if age := began.Sub(got.Made); age < 0 || age > 10*time.Minute {
			t.Errorf("it was made %s ago", age)
		}
		s.instances[0].SetOnline(false)
		s.settle(4 * time.Hour)
		s.want("with a dead instance", status.StateDegraded)
		if got := s.service.Summary(); got.State != status.StateOK {
			t.Errorf("with a dead instance: %+v", got)
		}
		if age := time.Since(s.service.Summary().Made); age > 3*time.Hour {
			t.Errorf("the last version was made %s ago", age)
		}
		s.custodian.fail(errTokenGone)
		s.settle(30 * time.Hour)
		if got := s.service.Summary(); got.State == status.StateOK || len(got.Warnings) == 0 {
			t.Errorf("nobody certifies: %+v", got)
		}
	})
}

// A hosted service that goes on from what an earlier process published is served by that.
func TestSummaryAfterRestart(t *testing.T) {
	onScene(t, sim.Config{Seed: 63, Relays: 60}, func(t *testing.T, s *scene) {
		s.stop()
		s.custody = func(c *Config) { c.Hosted = true }
		s.start()
		s.settle(30 * time.Minute)
		before := s.service.Summary()
		s.restart()
		s.settle(5 * time.Minute)
		got := s.service.Summary()
		if got.State != status.StateOK || s.service.Status().State != status.StateOK || got.Made.Unix() != before.Made.Unix() {
			t.Errorf("after a restart: %+v, before: %+v", got, before)
		}
	})
}

// Draining tells of one instance what the status tells of all.
func TestDraining(t *testing.T) {
	onScene(t, sim.Config{Seed: 62, Relays: 60}, func(t *testing.T, s *scene) {
		s.settle(5 * time.Minute)
		address := s.instances[1].Address()
		if d := s.service.Draining(address); d != nil {
			t.Errorf("nobody drains it: %+v", d)
		}
		if _, err := s.env.Backends.SetWord(t.Context(), address, func(w *state.Word) { w.Admin = health.Drain }); err != nil {
			t.Fatal(err)
		}
		s.settle(5 * time.Minute)
		got, want := s.service.Draining(address), s.service.Status().Instances[1].Drain
		if got == nil || want == nil || *got != *want || got.Left.IsZero() || got.SafeAt.IsZero() {
			t.Errorf("drained: %+v, want %+v", got, want)
		}
		if d := s.service.Draining(s.custodian.Address()); d != nil {
			t.Errorf("of no instance: %+v", d)
		}
	})
}
