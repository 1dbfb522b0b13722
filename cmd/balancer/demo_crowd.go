package main

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/status"
	"onionbalancer/testnet"
	"onionbalancer/testnet/lab"
)

// Beyond fewInstances, or with a limit, the HSDirs of a descriptor need not hold the
// same, and a visitor who keeps one of them meets some of the instances only. So the
// demonstration has new visitors then, each of whom fetches the descriptor.
const (
	fewInstances = 6 // whose points, three each, fit into any descriptor
	ownTors      = 8 // instances up to this have a tor each; of more, several share one
	sharedTors   = 6
	crowdTors    = 6 // of visitors

	// crowdRelays are enough that hardly any instance finds all of its relays taken in
	// descriptors of twenty points, none of which share one.
	crowdRelays = 37

	// crowdInterval leaves five minutes between two times when all introduction points change.
	crowdInterval = 30 * time.Second

	// leastChance is how improbable a result has to be for it not to be chance.
	leastChance = 1e-4
)

// crowdChecks leave 30 instances and their network time for visitors.
const crowdChecks = `
[check]
kind = "http"
interval = "10s"
fast_interval = "1s"
timeout = "5s"
rate = 10
`

// crowd reports whether visitors are a crowd.
func (o *demoOptions) crowd() bool { return o.lab.Instances > fewInstances || o.limit > 0 }

// setCrowd prepares the lab for a crowd, but for what flags say.
func (o *demoOptions) setCrowd(given func(flag string) bool) {
	o.lab.Crowd = crowdTors
	if o.lab.Instances > ownTors {
		o.lab.PerTor = (o.lab.Instances + sharedTors - 1) / sharedTors
	}
	if points := cmp.Or(o.limit, descriptor.MaxIntroductionPoints); points > demoRelays/2 && o.lab.Instances > ownTors && !given("relays") {
		o.lab.Network.Relays = crowdRelays
	}
	if !given("voting-interval") {
		o.lab.Network.VotingInterval = crowdInterval
	}
	// The circuits of hundreds of visitors, kept for ten minutes, would take all of tor's time.
	o.lab.Network.ClientOptions = []string{"MaxCircuitDirtiness 10"}
}

// crowdCount is a count of visitors, and of what was expected of each.
type crowdCount struct {
	*lab.Tally
	mu     sync.Mutex
	sum    map[string]float64 // of the shares when visitors came, by instance
	number int
}

// add counts a visitor who came when these were the shares.
func (c *crowdCount) add(shares map[string]float64, name string, took time.Duration, err error) {
	c.mu.Lock()
	c.number++
	for name, share := range shares {
		c.sum[name] += share
	}
	c.mu.Unlock()
	c.Tally.Add(name, took, err)
}

// shares is what could be expected, on average.
func (c *crowdCount) shares() map[string]float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	mean := make(map[string]float64)
	for name, sum := range c.sum {
		mean[name] = sum / float64(max(1, c.number))
	}
	return mean
}

// send sends visitors, and counts them beside the shares of the time when each came.
func (d *demo) send(ctx context.Context, what string, count int, visit func(context.Context, string) (string, time.Duration, error)) (*tallyResult, error) {
	c := &crowdCount{sum: map[string]float64{}, Tally: &lab.Tally{Told: func(t *lab.Tally) {
		answers := t.Answers()
		d.line.tell(fmt.Sprintf("%d of %d %s: %d instances have answered, failed %d", len(t.Times())+len(t.Failures()), count, what, len(answers), len(t.Failures())))
	}}}
	err := lab.Send(ctx, count, crowdTors, func() {
		shares, err := d.shares(ctx)
		if err != nil {
			c.add(nil, "", 0, err)
			return
		}
		name, took, err := visit(ctx, d.lab.front)
		c.add(shares, name, took, err)
	})
	r := newTallyResult(d.lab.Names(), c.Tally)
	r.Expected = c.shares()
	chance := lab.Chance(r.Answers, r.Expected)
	r.Chance = &chance
	return r, err
}

// shares asks the balancer for the share of the visitors that each instance can expect.
func (d *demo) shares(ctx context.Context) (map[string]float64, error) {
	snapshot, err := status.Query(ctx, filepath.Join(d.lab.Dir, "state", status.SocketName))
	if err != nil {
		return nil, fmt.Errorf("asking the balancer for the shares: %w", err)
	}
	shares := make(map[string]float64)
	for _, s := range snapshot.Services {
		for _, i := range s.Instances {
			shares[i.Name] = i.Share
		}
	}
	return shares, nil
}

// crowdAll waits until every instance has a share, or as many as there is room for: those
// that the balancer hears of after its first descriptor it adds a few minutes later.
func (d *demo) crowdAll(ctx context.Context, _ *lab.Process) error {
	want := len(d.lab.Instances)
	if d.options.limit > 0 {
		want = min(want, askedSlots*d.options.limit)
	}
	limited, cancel := context.WithTimeoutCause(ctx, 6*time.Minute, fmt.Errorf("not %d instances were published within six minutes", want))
	defer cancel()
	began, have := time.Now(), 0
	_, err := lab.Await(limited, filepath.Join(d.lab.Dir, "state", status.SocketName), func(s status.Service) bool {
		have = 0
		for _, i := range s.Instances {
			if i.Share > 0 {
				have++
			}
		}
		d.line.tell(fmt.Sprintf("%3.0f s until %d of %d instances are published", time.Since(began).Seconds(), have, want))
		return have >= want && lab.Confirmed(s)
	})
	if err != nil && ctx.Err() == nil {
		d.result.claim(false, "the descriptors name all instances that there is room for", "%d, not %d: %v", have, want, err)
		return nil
	}
	return err
}

// askedSlots is how many HSDirs clients ask.
const askedSlots = 6

// crowdSpread counts whom new visitors come to. There are so many of them that an instance
// with the least share is missed with less than leastChance.
func (d *demo) crowdSpread(ctx context.Context, _ *lab.Process) error {
	shares, err := d.shares(ctx)
	if err != nil {
		return err
	}
	r, err := d.send(ctx, "new visitors", max(d.options.fetches, enough(shares)), d.lab.NewVisit)
	d.result.Spread = r
	if err != nil {
		return err
	}
	d.claimCrowd(r)
	return nil
}

// enough is how many visitors it takes for none of these to be missed by chance.
func enough(shares map[string]float64) int {
	const most = 3000
	least := 1.0
	for _, share := range shares {
		if share > 0 {
			least = min(least, share)
		}
	}
	// Each is missed with a probability of (1 - share)^n < e^(-share*n).
	return min(most, int(math.Ceil(math.Log(10*float64(len(shares))/leastChance)/least)))
}

// claimCrowd says whether visitors were served, by all instances, as planned.
func (d *demo) claimCrowd(r *tallyResult) {
	d.result.claim(len(r.Failures) == 0, "every new visitor is served", "%d of %d; the slowest answer took %.1f s", r.answered(), r.Visitors, r.Slowest)
	var missed, waiting []string
	visited, expected := 0, 0
	least, most := 1.0, 0.0
	for _, name := range r.names {
		share := r.Expected[name]
		if share == 0 {
			waiting = append(waiting, name)
			continue
		}
		expected++
		least, most = min(least, share), max(most, share)
		if r.Answers[name] == 0 {
			missed = append(missed, name)
		} else {
			visited++
		}
	}
	detail := fmt.Sprintf("%d of %d", visited, expected)
	if len(missed) > 0 {
		detail += ", not " + strings.Join(missed, ", ")
	}
	if len(waiting) > 0 {
		detail += fmt.Sprintf("; %d more wait for a later refresh, as there is no room for all at a time: %s", len(waiting), strings.Join(waiting, ", "))
	}
	d.result.claim(len(missed) == 0, "every published instance is visited", "%s", detail)
	d.result.claim(*r.Chance >= leastChance, "the instances share the visitors as planned",
		"%.1f to %.1f %% each; chance alone is as uneven as this with a probability of %.3g", 100*least, 100*most, *r.Chance)
	d.line.say("%s", strings.TrimRight(r.table(), "\n"))
}

// crowdKill kills one tor with all of its instances. Those who hold a descriptor come at
// once, and new visitors when the balancer has taken the instances out.
func (d *demo) crowdKill(ctx context.Context, _ *lab.Process) error {
	victim := d.lab.Instances[0]
	dead := map[string]bool{}
	var names []string
	for _, s := range victim.Together() {
		dead[s.Name()] = true
		names = append(names, s.Name())
	}
	d.result.Killed = strings.Join(names, ", ")
	d.line.say("Killing the tor of %s: kill -9 %d", d.result.Killed, victim.PID())
	victim.Kill()
	began := time.Now()
	held, err := d.send(ctx, "visitors who hold a descriptor", max(10, d.options.fetches/2), d.lab.HeldVisit)
	held.Expected, held.Chance = nil, nil // they choose among what they hold
	d.result.AfterKill = held
	if err != nil {
		return err
	}
	d.claimLoss(held, dead, "a killed tor costs no visitor who holds a descriptor")

	limited, cancel := context.WithTimeoutCause(ctx, 3*time.Minute, fmt.Errorf("%s was still published after three minutes", d.result.Killed))
	defer cancel()
	_, err = lab.Await(limited, filepath.Join(d.lab.Dir, "state", status.SocketName), func(s status.Service) bool {
		d.line.tell(fmt.Sprintf("%3.0f s until the balancer has taken out %s", time.Since(began).Seconds(), d.result.Killed))
		return !slices.ContainsFunc(s.Instances, func(i status.Instance) bool { return dead[i.Name] && i.Published > 0 }) && lab.Confirmed(s)
	})
	if err != nil && ctx.Err() == nil {
		d.result.claim(false, "dead instances are taken out", "%v", err)
		return nil
	}
	if err != nil {
		return err
	}
	d.result.TakenOut = time.Since(began).Seconds()
	d.result.claim(true, "dead instances are taken out", "after %.1f s at most", d.result.TakenOut)
	fresh, err := d.send(ctx, "new visitors without the dead", max(10, d.options.fetches/2), d.lab.NewVisit)
	d.result.AfterLoss = fresh
	if err != nil {
		return err
	}
	d.claimLoss(fresh, dead, "a killed tor costs no new visitor")
	d.result.claim(*fresh.Chance >= leastChance, "the others share the visitors as planned",
		"chance alone is as uneven as this with a probability of %.3g", *fresh.Chance)
	return nil
}

// claimLoss says whether visitors were served by those that live.
func (d *demo) claimLoss(r *tallyResult, dead map[string]bool, what string) {
	byDead, others := 0, map[string]bool{}
	for name, count := range r.Answers {
		switch {
		case dead[name]:
			byDead += count
		case count > 0:
			others[name] = true
		}
	}
	d.result.claim(len(r.Failures) == 0 && byDead == 0, what,
		"%d of %d served, by %d instances; half of the answers took %.1f s at most, the slowest %.1f s",
		r.answered(), r.Visitors, len(others), r.Median, r.Slowest)
}

// tors says which instances live together.
func tors(services []*testnet.Service) string {
	seen, count := map[int]bool{}, 0
	for _, s := range services {
		if pid := s.PID(); !seen[pid] {
			seen[pid] = true
			count++
		}
	}
	return fmt.Sprintf("%d instances in %d tors", len(services), count)
}
