package balance

import (
	"fmt"
	"testing"
	"time"

	"onionbalancer/internal/credential"
	"onionbalancer/internal/status"
	"onionbalancer/testnet/sim"
)

// reloaded is the configuration with new keys of its own, as a reload opens them.
func (s *scene) reloaded(reference string) (Config, *memoryCustodian, *tokenKeys) {
	cfg := s.config()
	custodian, keys := &memoryCustodian{key: s.custodian.key}, &tokenKeys{}
	cfg.Keys = credential.Keys{Custodian: custodian, Signing: keys, Reference: reference, Form: reference}
	return cfg, custodian, keys
}

// A reload that changes nothing certifies nothing. The keys it opened take over
// when something is due; those of before are closed when nothing needs them.
func TestReloadOfTheSame(t *testing.T) {
	t.Parallel()
	onScene(t, sim.Config{Seed: 40, Params: fewSlots}, func(t *testing.T, s *scene) {
		s.startAt(22 * time.Hour)
		old := s.withToken(0)
		s.settle(time.Minute)
		posts := s.net.Tor().Counts().Posts
		cfg, custodian, keys := s.reloaded("")
		s.service.Reconfigure(cfg)
		s.settle(time.Minute)
		asked, _ := custodian.counts()
		if n := s.net.Tor().Counts().Posts - posts; n != 0 || asked != 0 {
			t.Errorf("%d uploads, %d certificates asked for", n, asked)
		}
		if _, _, closed := old.counts(); closed != 0 {
			t.Error("signing keys in use were closed")
		}
		cfg.FetchEvery = time.Hour
		s.service.Reconfigure(cfg)
		s.settle(31 * time.Hour)
		s.want("after two rotations", status.StateOK)
		// For the two periods that begin to be published after midnight.
		if asked, _ := custodian.counts(); asked != 2 {
			t.Errorf("%d certificates asked for over two rotations, want 2", asked)
		}
		_, _, closedOld := old.counts()
		_, _, closedNew := keys.counts()
		_, closedFirst := s.custodian.counts()
		// Twice more for the custodian: startAt and withToken began with a stop.
		if closedOld != 1 || closedNew != 0 || closedFirst != 3 {
			t.Errorf("closed %d times, %d, and the new keys %d times", closedOld, closedFirst, closedNew)
		}
	})
}

// A reload with other keys certifies again at once. While they fail, those of
// before go on working, and a warning says so.
func TestReloadOfOtherKeys(t *testing.T) {
	onScene(t, sim.Config{Seed: 41}, func(t *testing.T, s *scene) {
		old := s.withToken(0)
		s.settle(time.Minute)
		cfg, custodian, keys := s.reloaded("another token")
		keys.fail(gone{})
		s.service.Reconfigure(cfg)
		s.settle(time.Minute)
		got := s.want("while the new keys fail", status.StateDegraded)
		if !warned(got, gone{}.Error()) || !warned(got, "the one certified before is used until") {
			t.Errorf("warnings: %q", got.Warnings)
		}
		if got.Custody.Form != "" {
			t.Errorf("the status names %q, which has certified nothing yet", got.Custody.Form)
		}
		s.instances[0].ReplacePoints()
		s.settle(10 * time.Minute)
		got = s.want("while the new keys fail", status.StateDegraded)
		if confirmed(got) != 16 || got.Descriptors[0].Reason != string(ReasonChanged) {
			t.Errorf("what changes is not published: %+v", got.Descriptors)
		}
		s.reach("while the new keys fail", 20)
		keys.fail(nil)
		s.until("the new keys are used", time.Minute, func() bool {
			got = s.service.Status()
			return confirmed(got) == 16 && got.Descriptors[0].Reason == string(ReasonKey)
		})
		got = s.want("when they work", status.StateOK)
		if got.Custody.Form != "another token" {
			t.Errorf("with the new keys: %+v, of %q", got.Descriptors, got.Custody.Form)
		}
		asked, _ := custodian.counts()
		_, signs, closed := keys.counts()
		if asked != 2 || signs < 16 || closed != 0 {
			t.Errorf("%d certificates, %d signatures, closed %d times", asked, signs, closed)
		}
		if _, _, closed := old.counts(); closed != 1 {
			t.Errorf("the keys of before were closed %d times", closed)
		}
		s.reach("with the new keys", 20)
		s.stop()
		_, closedCustodian := custodian.counts()
		if _, _, closed := keys.counts(); closed != 1 || closedCustodian != 1 {
			t.Errorf("at the end: closed %d and %d times", closed, closedCustodian)
		}
		s.start() // for the scene to stop
	})
}

// Of several configurations handed over at a time the last one wins, and the
// keys of all others are closed.
func TestReloadsInARow(t *testing.T) {
	onScene(t, sim.Config{Seed: 42}, func(t *testing.T, s *scene) {
		s.settle(time.Minute)
		var all []*tokenKeys
		for n := range 3 { // by other names: keys of the same would go on with each other's certificates
			cfg, _, keys := s.reloaded(fmt.Sprintf("token %d", n+1))
			s.service.Reconfigure(cfg)
			all = append(all, keys)
		}
		s.settle(time.Minute)
		s.want("after three reloads", status.StateOK)
		s.stop()
		cfg, _, late := s.reloaded("too late")
		s.service.Reconfigure(cfg)
		s.settle(time.Second)
		for n, keys := range append(all, late) {
			// The first two may have been taken over before the next one came.
			made, _, closed := keys.counts()
			if closed != 1 || n == 2 && made != 2 || n == 3 && made != 0 {
				t.Errorf("reload %d: %d keys made, closed %d times", n+1, made, closed)
			}
		}
		s.start() // for the scene to stop
	})
}

// A custodian that hangs as it is replaced does not keep the new one from work.
func TestReloadWhileHung(t *testing.T) {
	onScene(t, sim.Config{Seed: 43}, func(t *testing.T, s *scene) {
		s.stop()
		old := &tokenKeys{}
		release := old.hang()
		s.signing = old
		s.start()
		s.settle(30 * time.Second)
		got := s.want("with a custodian that hangs", status.StateStarting)
		if !warned(got, "has not answered yet") {
			t.Errorf("warnings: %q", got.Warnings)
		}
		cfg, _, _ := s.reloaded("another token")
		s.service.Reconfigure(cfg)
		s.confirms("with another", 16)
		s.want("with another", status.StateOK)
		release()
	})
}
