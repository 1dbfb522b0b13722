package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"onionbalancer/bench/harness"
	"onionbalancer/internal/backoff"
	"onionbalancer/testnet"
)

// flap is how often a service was published while an application of it went down
// and up.
type flap struct {
	Seconds float64 `json:"seconds"`
	Flaps   int     `json:"flaps"` // how often it went down
	// Publications of balancer's services whose application flapped, and Quiet of one
	// whose did not: the network's own changes.
	Publications []int       `json:"publications"`
	Quiet        int         `json:"quiet_publications"`
	Said         []statement `json:"status_said"`
}

// flapEvery is how long an application is down, and then up, about.
const flapEvery = 10 * time.Second

// measureFlap has an application of each set but the last go down and up.
func (f *field) measureFlap(ctx context.Context, long time.Duration) (*flap, error) {
	if err := f.calm(ctx, "flap"); err != nil {
		return nil, err
	}
	began := time.Now()
	r := new(flap)
	said := listen(ctx, f)
	defer said.end()
	flapping, quiet := f.sets[:len(f.sets)-1], f.sets[len(f.sets)-1]
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, s := range flapping {
		wg.Go(func() {
			victim := s.instances[0]
			for time.Since(began) < long && ctx.Err() == nil {
				victim.StopBackend()
				mu.Lock()
				r.Flaps++
				mu.Unlock()
				backoff.Sleep(ctx, backoff.Jitter(flapEvery))
				if victim.StartBackend() != nil || !backoff.Sleep(ctx, backoff.Jitter(flapEvery)) {
					return
				}
			}
		})
	}
	for time.Since(began) < long && backoff.Sleep(ctx, time.Second) {
		harness.Progress("flap: %.0f of %.0f s", time.Since(began).Seconds(), long.Seconds())
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	r.Seconds = time.Since(began).Seconds()
	count := func(s *set) int { return f.watch.published(s.addresses[ours], began, time.Now()) }
	for _, s := range flapping {
		r.Publications = append(r.Publications, count(s))
	}
	r.Quiet = count(quiet)
	said.end()
	r.Said = said.lines
	return r, nil
}

// drain is what became of visitors of instances that the operator took out of service.
type drain struct {
	Clean    []*float64 `json:"clean_seconds"` // by set; null: not in time
	Visitors count      `json:"visitors"`
	// Drained is how many of the visitors that began after the HSDirs were clean, by a
	// client without an older descriptor, came to the instance all the same.
	Drained int `json:"drained"`
	Later   int `json:"later"` // visitors of that kind
}

// drainVisits is how many visitors there are.
const drainVisits = 300

// measureDrain drains an instance of each set.
func (f *field) measureDrain(ctx context.Context) (*drain, error) {
	t := &trial{field: f, fault: &fault{name: "drain", victims: 1}, victims: map[*set][]*testnet.Service{}, caused: map[*set]time.Time{}}
	for _, s := range f.sets {
		t.victims[s] = s.instances[:1]
	}
	if err := f.calm(ctx, "drain"); err != nil {
		return nil, err
	}
	if err := f.visitors.keeper.Forget(); err != nil {
		return nil, err
	}
	visits := f.visitors.start(ctx)
	defer visits.end()
	backoff.Sleep(ctx, warmUp)
	for _, s := range f.sets {
		t.caused[s] = time.Now()
		if err := f.word(ctx, "drain", t.victims[s][0].Name()); err != nil {
			return nil, err
		}
	}
	r := new(drain)
	for seen := 0; seen < drainVisits && backoff.Sleep(ctx, time.Second); {
		seen = 0
		for _, v := range visits.visits() {
			if v.program == ours && !v.began.Before(t.caused[v.set]) {
				seen++
			}
		}
		harness.Progress("drain: %d of %d visits", seen, drainVisits)
	}
	list := visits.end()
	for _, s := range f.sets {
		clean, ok := t.clean(ours, s, time.Now())
		if !ok {
			clean = time.Now()
			r.Clean = append(r.Clean, nil)
		} else {
			r.Clean = append(r.Clean, seconds(clean.Sub(t.caused[s])))
		}
		for _, v := range list {
			if v.program != ours || v.set != s || v.began.Before(t.caused[s]) {
				continue
			}
			r.Visitors.add(v)
			if v.kind == drops && v.began.After(clean) {
				r.Later++
				if v.err == nil && v.name == t.victims[s][0].Name() {
					r.Drained++
				}
			}
		}
	}
	return r, t.forgive(ctx)
}

// word tells balancer an operator's word about an instance.
func (f *field) word(ctx context.Context, word, instance string) error {
	cmd := exec.CommandContext(ctx, f.program, word, "--config", filepath.Join(f.dirs[ours], "balancer.toml"), instance)
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("balancer %s %s: %w\n%s", word, instance, err, said)
	}
	return nil
}
