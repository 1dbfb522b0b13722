package balance

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/event"
	"onionbalancer/selection"
	"onionbalancer/testnet/sim"
)

// fickle is a custodian that does not answer until it is given up, and then
// fails in other words each time.
type fickle struct {
	*memoryCustodian
	tries atomic.Int32
}

func (f *fickle) Certify(ctx context.Context, _ descriptor.Period, _ ed25519.PublicKey, _ descriptor.Expiries) (descriptor.HourlyCertificates, error) {
	<-ctx.Done()
	return descriptor.HourlyCertificates{}, fmt.Errorf("the helper ended %d times in a row: %w", f.tries.Add(1), ctx.Err())
}

// A custodian that goes on failing in other words each time is in the log when
// it begins, and every ten minutes; the status has the last words.
func TestWarnsInARhythm(t *testing.T) {
	onScene(t, sim.Config{Seed: 36, Relays: 60}, func(t *testing.T, s *scene) {
		s.stop()
		log := records{mu: new(sync.Mutex), list: new([]string), of: []string{"certif"}}
		keys := &fickle{memoryCustodian: s.custodian}
		s.keeper, s.handler = keys, log
		s.start()
		s.settle(time.Hour)
		tries := keys.tries.Load()
		if got := s.service.Status(); tries < 40 || !warned(got, fmt.Sprintf("ended %d times", tries)) {
			t.Errorf("tried %d times in an hour; warnings %q", tries, got.Warnings)
		}
		log.mu.Lock()
		defer log.mu.Unlock()
		// Once that there is no answer yet, and for two periods at first and in
		// each of the ten minutes after.
		all := strings.Join(*log.list, "\n")
		if n := strings.Count(all, slog.LevelWarn.String()); n < 8 || n > 13 || strings.Count(all, "not answered yet") != 1 {
			t.Errorf("%d warnings for %d tries:\n%s", n, tries, all)
		}
	})
}

// That a descriptor is not renewed stands in the status also while fetches are in
// flight, and is told once.
func TestHeldDoesNotBlink(t *testing.T) {
	onScene(t, sim.Config{Seed: 37, Relays: 60}, func(t *testing.T, s *scene) {
		s.stop()
		log := records{mu: new(sync.Mutex), list: new([]string), of: []string{"the first descriptor is not renewed"}}
		s.handler = log
		s.start()
		s.settle(2 * time.Minute)
		for _, r := range s.net.Relays() {
			r.SetFaults(sim.Faults{Silent: true})
		}
		for deadline := time.Now().Add(2 * time.Hour); !warned(s.service.Status(), log.of[0]); s.settle(time.Second) {
			if time.Now().After(deadline) {
				t.Fatal("nothing is held")
			}
		}
		for range 600 {
			s.service.Moved() // it plans
			s.settle(time.Second)
			if !warned(s.service.Status(), log.of[0]) {
				t.Fatalf("the warning is gone at %s", time.Now().Format(time.TimeOnly))
			}
		}
		log.mu.Lock()
		defer log.mu.Unlock()
		if len(*log.list) != 1 {
			t.Errorf("told %q", *log.list)
		}
	})
}

// A share that falls is told, but not one that only makes room for other instances, nor
// any while instances take turns.
func TestShareFell(t *testing.T) {
	view := backend.View{Backends: make([]*backend.Backend, 4)}
	cfg := Config{Strategy: selection.Spread{}}
	for n, name := range []string{"a", "b", "c", "d"} {
		view.Backends[n] = &backend.Backend{}
		cfg.Instances = append(cfg.Instances, Instance{Name: name, Weight: 1})
	}
	for _, test := range []struct {
		name    string
		was, is map[string]float64
		turns   map[string]float64
		out     map[string]string
		told    int
	}{
		{"others come", map[string]float64{"a": 0.5, "b": 0.5}, map[string]float64{"a": 0.25, "b": 0.25, "c": 0.25, "d": 0.25}, nil, nil, 0},
		{"it loses places", map[string]float64{"a": 0.25, "b": 0.75}, map[string]float64{"a": 0.1, "b": 0.9}, nil, nil, 1},
		{"it loses all", map[string]float64{"a": 0.25, "b": 0.75}, map[string]float64{"b": 1}, nil, nil, 1},
		{"in turns", map[string]float64{"a": 0.25, "b": 0.75}, map[string]float64{"b": 1}, map[string]float64{"a": 0.3, "b": 0.7}, nil, 0},
		{"on purpose", map[string]float64{"a": 0.25, "b": 0.75}, map[string]float64{"b": 1}, nil, map[string]string{"a": "drain"}, 0},
	} {
		told := 0
		s := &Service{cfg: cfg, env: Env{Now: time.Now, Record: func(event.Event) { told++ }}}
		s.state.Shares = test.was
		s.plan = Plan{Shares: test.is, OverTurns: test.turns, Out: test.out}
		if s.noteShares(view); told != test.told {
			t.Errorf("%s: told %d times, want %d", test.name, told, test.told)
		}
	}
}
