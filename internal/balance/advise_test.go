package balance

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"onionbalancer/internal/advice"
	"onionbalancer/internal/health"
	"onionbalancer/internal/status"
	"onionbalancer/testnet/sim"
)

// adviser is a program that says the same again and again.
type adviser struct {
	mu    sync.Mutex
	says  advice.Answer
	err   error
	asked []advice.Question
}

func (a *adviser) ask(ctx context.Context, program string, q advice.Question) (advice.Answer, error) {
	time.Sleep(time.Second)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, q)
	return a.says, a.err
}

func (a *adviser) say(weights map[string]float64, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.says, a.err = advice.Answer{Weights: weights}, err
}

// advised starts the service again with a program for a strategy.
func (s *scene) advised(a *adviser) {
	s.stop()
	s.prepare = func() { s.env.Advise = a.ask }
	s.custody = func(cfg *Config) { cfg.Program, cfg.Strategy = "/p", advice.Untold("/p") }
	s.start()
}

// shares writes the expected shares of the instances, in percent.
func shares(s status.Service) string {
	var list []string
	for _, i := range s.Instances {
		list = append(list, fmt.Sprint(math.Round(100*i.Share)))
	}
	return strings.Join(list, " ")
}

// TestAdvice: the first descriptor is by the program's advice, and a program that fails
// later is a warning, once, and changes nothing.
func TestAdvice(t *testing.T) {
	t.Parallel()
	onScene(t, sim.Config{Seed: 41, Relays: 60}, func(t *testing.T, s *scene) {
		a := new(adviser)
		a.say(map[string]float64{"web1": 2, "web2": 1, "web3": 1}, nil)
		s.advised(a)
		s.settle(2 * time.Minute)
		got := s.want("with a program", status.StateOK)
		if got.Strategy != "exec:/p" || shares(got) != "50 25 25" || got.Descriptors[0].Reason != string(ReasonNew) {
			t.Errorf("strategy %s, shares %s, first made for %q", got.Strategy, shares(got), got.Descriptors[0].Reason)
		}
		a.mu.Lock()
		q := a.asked[len(a.asked)-1]
		a.mu.Unlock()
		if len(q.Instances) != 3 || len(q.Instances[0].Points) != 3 || len(q.Slots) < 6 || q.Room.Points != 20 {
			t.Errorf("asked %+v", q)
		}
		a.say(nil, errors.New("no answer within 5s"))
		s.settle(2 * time.Minute)
		got = s.want("with one that fails", status.StateDegraded)
		if !warned(got, "the strategy's program: no answer within 5s") || shares(got) != "50 25 25" {
			t.Errorf("shares %s, warnings %q", shares(got), got.Warnings)
		}
		a.say(map[string]float64{"web1": 1, "web2": 1, "web3": 2}, nil)
		s.settle(3 * time.Hour) // a refresh evens shares out
		if got = s.want("with one that says something else", status.StateOK); shares(got) != "25 25 50" {
			t.Errorf("shares %s", shares(got))
		}
		a.say(map[string]float64{"web1": 0}, nil)
		s.settle(3 * time.Hour)
		if got = s.want("with one that leaves an instance out", status.StateOK); shares(got) != "0 50 50" || !strings.Contains(fmt.Sprint(got.Instances[0].Warnings), "gives it no clients") {
			t.Errorf("shares %s, %q", shares(got), got.Instances[0].Warnings)
		}
		s.custody = nil
		s.service.Reconfigure(s.config())
		s.settle(3 * time.Hour)
		if got = s.want("without a program", status.StateOK); shares(got) != "33 33 33" || got.Strategy != "spread" {
			t.Errorf("strategy %s, shares %s", got.Strategy, shares(got))
		}
		a.mu.Lock()
		n := len(a.asked)
		a.mu.Unlock()
		if s.settle(10 * time.Minute); len(a.asked) != n {
			t.Errorf("asked %d times more than %d", len(a.asked)-n, n)
		}
	})
}

// TestBadAdviceAtFirst: a program that has never answered costs seconds.
func TestBadAdviceAtFirst(t *testing.T) {
	onScene(t, sim.Config{Seed: 42, Relays: 60}, func(t *testing.T, s *scene) {
		a := new(adviser)
		a.say(nil, errors.New("exit status 1"))
		s.advised(a)
		s.settle(2 * time.Minute)
		if got := s.want("without an answer", status.StateDegraded); shares(got) != "33 33 33" || !warned(got, "exit status 1") {
			t.Errorf("shares %s, warnings %q", shares(got), got.Warnings)
		}
	})
}

// TestLoadTold: loads are shown and told on while they count.
func TestLoadTold(t *testing.T) {
	onScene(t, sim.Config{Seed: 43, Relays: 60}, func(t *testing.T, s *scene) {
		a := new(adviser)
		s.advised(a)
		s.settle(2 * time.Minute)
		set := func(value float64, long time.Duration) {
			s.env.Backends.SetLoad(s.instances[0].Address(), health.Load{Value: value, Until: s.now().Add(long)})
		}
		last := func() *float64 {
			a.mu.Lock()
			defer a.mu.Unlock()
			return a.asked[len(a.asked)-1].Instances[0].Load
		}
		set(1.5, 10*time.Minute)
		s.settle(10 * time.Second)
		if load := s.service.Status().Instances[0].Load; load == nil || load.Value != 1.5 || last() == nil || *last() != 1.5 {
			t.Errorf("told, it is %v, and the program hears %v", load, last())
		}
		if load := s.service.Status().Instances[1].Load; load != nil {
			t.Errorf("of another: %v", load)
		}
		s.settle(10 * time.Minute)
		if load := s.service.Status().Instances[0].Load; load != nil || last() != nil {
			t.Errorf("later it is %v, and the program hears %v", load, last())
		}
		set(1.5, time.Hour)
		s.settle(time.Minute)
		s.env.Backends.SetLoad(s.instances[0].Address(), health.Load{})
		s.settle(time.Minute)
		if load := s.service.Status().Instances[0].Load; load != nil || last() != nil {
			t.Errorf("taken back it is %v, and the program hears %v", load, last())
		}
	})
}
