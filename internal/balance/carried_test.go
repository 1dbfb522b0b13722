package balance

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"onionbalancer/internal/state"
	"onionbalancer/internal/status"
	"onionbalancer/testnet/sim"
)

// The revision floors that an earlier version left in its own files are gone above,
// and the files are kept.
func TestCarriedOver(t *testing.T) {
	onScene(t, sim.Config{Seed: 63}, func(t *testing.T, s *scene) {
		s.settle(time.Minute)
		before := s.service.Status()
		s.stop()
		if err := os.Remove(filepath.Join(s.dir, state.File)); err != nil {
			t.Fatal(err)
		}
		type floor struct {
			Period   uint64 `json:"period"`
			Minutes  uint64 `json:"period_length_minutes"`
			Revision uint64 `json:"revision_counter"`
		}
		file := struct {
			Version int     `json:"version"`
			Service string  `json:"service"`
			Entries []floor `json:"entries"`
		}{Version: 1, Service: s.custodian.Address().String()}
		const ahead = 3_000_000 // more than the clock comes to meanwhile
		for _, d := range before.Descriptors {
			file.Entries = append(file.Entries, floor{d.Period, d.Minutes, d.Revision + ahead})
		}
		raw, err := json.Marshal(file)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join("services", s.custodian.Address().Label(), "revision-floors.json")
		if err := os.MkdirAll(filepath.Join(s.dir, filepath.Dir(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		s.start()
		s.settle(time.Minute)
		after := s.want("after the upgrade", status.StateOK)
		for n, d := range after.Descriptors {
			if floor := before.Descriptors[n].Revision + ahead; d.Revision <= floor || d.Confirmed != len(d.Slots) {
				t.Errorf("the %s descriptor has counter %d, want more than %d; %d slots confirmed", d.Which, d.Revision, floor, d.Confirmed)
			}
		}
		kept := filepath.Join(s.dir, "services.imported", s.custodian.Address().Label(), "revision-floors.json")
		if _, err := os.Stat(kept); err != nil {
			t.Error(err)
		}
	})
}
