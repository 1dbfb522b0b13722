package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/hosting"
	"onionbalancer/internal/hosting/api"
	"onionbalancer/internal/status"
	"onionbalancer/testnet/lab"
)

// hostingResult is about shared hosting. Times are in seconds.
type hostingResult struct {
	Customers    int      `json:"customers"`
	Lines        int      `json:"lines"`                   // in the ob_config of a replica
	Introduction float64  `json:"introduction_cpu_ms"`     // of a replica's tor, for one visit
	Crossed      []string `json:"crossed"`                 // visitors who met another customer, or a replica of another shard
	Confirmed    float64  `json:"added_confirmed_seconds"` // of an added customer, from the answer on
	FirstVisit   float64  `json:"added_visited_seconds"`   // likewise
	Withdrawn    float64  `json:"withdrawn_seconds"`       // of a suspended one
	Resumed      float64  `json:"resumed_visited_seconds"`
	Moved        float64  `json:"moved_seconds"` // from when one of the balancer's tors was killed until the other has all addresses
}

// patience is for what takes seconds unless the machine is very busy.
const patience = 3 * time.Minute

// limited is ctx with an end that says what did not come.
func limited(ctx context.Context, what string) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, patience, fmt.Errorf("%s: not within %v", what, patience))
}

// awaitStatus asks the balancer for its status until it is as wanted.
func (h *hostingDemo) awaitStatus(ctx context.Context, what string, wanted func(status.Snapshot) bool) error {
	ctx, cancel := limited(ctx, what)
	defer cancel()
	for {
		s, err := status.Query(ctx, h.socket)
		if err == nil && wanted(s) {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// published waits until HSDirs have confirmed the descriptors of all customers.
func (h *hostingDemo) published(ctx context.Context, b *lab.Process) error {
	total := len(h.customers())
	err := h.awaitStatus(ctx, "the customers are published", func(s status.Snapshot) bool {
		well, left := 0, 0
		for _, shard := range s.Shards {
			well += shard.Customers.OK
			left += shard.Unconfirmed
		}
		h.line.tell(fmt.Sprintf("%3.0f s, %d of %d customers are well, %d uploads left", time.Since(b.Started).Seconds(), well, total, left))
		return well == total && left == 0
	})
	if err != nil {
		return err
	}
	h.result.Published, h.result.Hosting.Customers, h.result.Hosting.Lines = time.Since(b.Started).Seconds(), total, h.lines()
	h.line.say("All %d customers are published %.1f s after the balancer was started.", total, h.result.Published)
	return nil
}

// visit sends a visitor to each customer, and counts which replicas answered beside the
// shares that they had of the customer's visitors. Whoever is answered for another customer,
// or by a replica of another shard, has crossed.
func (h *hostingDemo) visit(ctx context.Context) (*tallyResult, error) {
	customers := h.customers()
	count := &crowdCount{sum: map[string]float64{}, Tally: &lab.Tally{Told: func(t *lab.Tally) {
		h.line.tell(fmt.Sprintf("visits: %d of %d, failed %d", len(t.Times()), len(customers), len(t.Failures())))
	}}}
	next := make(chan hosted, len(customers))
	for _, c := range customers {
		next <- c
	}
	err := lab.Send(ctx, len(customers), hostedTors, func() {
		c := <-next
		shares, err := h.customerShares(ctx, c.address)
		if err != nil {
			count.add(nil, "", 0, err)
			return
		}
		page, took, err := h.HeldVisit(ctx, c.address)
		host, replica, _ := strings.Cut(page, " ")
		if err == nil && (host != c.address || !slices.Contains(c.shard.replicas, replica)) {
			h.crossed(c.address + " met " + page)
		}
		count.add(shares, replica, took, err)
	})
	r := newTallyResult(h.Names(), count.Tally)
	r.Expected = count.shares()
	return r, err
}

// customerShares asks the balancer for the share of a customer's visitors that each replica
// can expect. Those of two customers may differ, when replicas have points on one relay.
func (h *hostingDemo) customerShares(ctx context.Context, address string) (map[string]float64, error) {
	c, err := status.QueryCustomer(ctx, h.socket, address)
	if err == nil && c.Service == nil {
		err = errors.New("it is not published")
	}
	if err != nil {
		return nil, fmt.Errorf("asking the balancer for the shares of %s: %w", address, err)
	}
	shares := make(map[string]float64)
	for _, i := range c.Service.Instances {
		shares[i.Name] = i.Share
	}
	return shares, nil
}

func (h *hostingDemo) crossed(what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.result.Hosting.Crossed = append(h.result.Hosting.Crossed, what)
}

// allVisited kills one of the balancer's tors, and has every customer visited while
// nothing but what is published is left of its work.
func (h *hostingDemo) allVisited(ctx context.Context, _ *lab.Process) error {
	killed := hostedManagers[len(hostedManagers)-1]
	h.line.say("Killing one of the balancer's two tors, and visiting everybody.")
	h.Net.Client(killed).Kill()
	began, before := time.Now(), h.processorTime()
	r, err := h.visit(ctx)
	h.result.Spread = r
	if err != nil {
		return err
	}
	h.line.say("%s", strings.TrimRight(r.table(), "\n"))
	h.result.Hosting.Introduction = (h.processorTime() - before).Seconds() * 1000 / float64(max(1, r.answered()))
	h.result.claim(len(r.Failures) == 0, "every customer is visited", "%d of %d; the slowest answer took %.1f s; a visit took %.1f ms of a replica's processor time",
		r.answered(), r.Visitors, r.Slowest, h.result.Hosting.Introduction)
	h.result.claim(len(h.result.Hosting.Crossed) == 0, "each visitor gets the page of the customer visited",
		"%d got another%s", len(h.result.Hosting.Crossed), strings.Join(append([]string{""}, h.result.Hosting.Crossed...), "; "))
	chance := lab.Chance(r.Answers, r.Expected)
	r.Chance = &chance
	h.result.claim(chance >= leastChance, "the replicas share the visitors as planned",
		"chance alone is as uneven as this with a probability of %.3g", chance)
	err = h.awaitStatus(ctx, "the addresses of a dead tor move", func(s status.Snapshot) bool {
		h.line.tell(fmt.Sprintf("%3.0f s until its addresses are with the other tor", time.Since(began).Seconds()))
		return len(s.Tors) == len(hostedManagers) && !s.Tors[len(hostedManagers)-1].Serving
	})
	h.result.Hosting.Moved = time.Since(began).Seconds()
	return err
}

// processorTime is what the tors of all replicas have used.
func (h *hostingDemo) processorTime() (total time.Duration) {
	for _, group := range h.servers {
		used, err := lab.ProcessorTime(group[0].PID())
		if err == nil { // else it is dead
			total += used
		}
	}
	return total
}

// added has the API add a customer, who is visited as soon as the confirmation is there. The tors
// that run are the same afterwards.
func (h *hostingDemo) added(ctx context.Context, _ *lab.Process) error {
	last, err := h.lastEvent(ctx)
	if err != nil {
		return err
	}
	before := h.Net.PIDs()
	shard := h.shards[0]
	d, fresh, err := h.api.Add(ctx, "latecomer", shard.name, "demo-1")
	if err != nil {
		return err
	}
	answered, address := time.Now(), d.Address.String()
	shard.router.Serve(address)
	h.newcomer = hosted{address, shard}
	h.line.say("The API has added a customer: %s", address)
	ctx, cancel := limited(ctx, "the added customer is visited")
	defer cancel()
	told, err := h.event(ctx, last, "added", address)
	if err == nil {
		_, err = h.event(ctx, told.ID, "confirmed", address)
	}
	if err != nil {
		return err
	}
	h.result.Hosting.Confirmed = time.Since(answered).Seconds()
	page, err := h.FirstVisit(ctx, address)
	if err != nil {
		return err
	}
	h.result.Hosting.FirstVisit = time.Since(answered).Seconds()
	shard.customers = append(shard.customers, address)
	h.line.say("It is published after %.1f s, and the first visitor is answered after %.1f s.", h.result.Hosting.Confirmed, h.result.Hosting.FirstVisit)
	h.result.claim(fresh && strings.HasPrefix(page, address+" "+shard.name), "a customer is added", "confirmed after %.1f s, first visited after %.1f s, by %s",
		h.result.Hosting.Confirmed, h.result.Hosting.FirstVisit, page)
	h.result.claim(slices.Equal(before, h.Net.PIDs()), "no tor was restarted for that", "%d run", len(before))
	again, fresh, err := h.api.Add(ctx, "latecomer", shard.name, "demo-1")
	if err != nil {
		return err
	}
	h.result.claim(!fresh && again.Address == d.Address, "the same request again adds nobody", "answered with %s", again.Address)
	return nil
}

// suspended suspends that customer and resumes it.
func (h *hostingDemo) suspended(ctx context.Context, _ *lab.Process) error {
	ctx, cancel := limited(ctx, "a customer is suspended and resumed")
	defer cancel()
	c := h.newcomer
	last, err := h.lastEvent(ctx)
	if err != nil {
		return err
	}
	if _, err := h.api.Change(ctx, c.address, api.Change{To: hosting.Suspended}); err != nil {
		return err
	}
	began := time.Now()
	if _, err := h.event(ctx, last, "withdrawn", c.address); err != nil {
		return err
	}
	h.result.Hosting.Withdrawn = time.Since(began).Seconds()
	points, err := h.pointsAtHSDirs(ctx, c.address)
	if err != nil {
		return err
	}
	h.line.say("Suspended, it is withdrawn after %.1f s.", h.result.Hosting.Withdrawn)
	h.result.claim(points == 0, "a suspended customer is withdrawn", "after %.1f s; %d introduction points in what HSDirs have", h.result.Hosting.Withdrawn, points)
	page, _, visitErr := h.NewVisit(ctx, c.address)
	h.result.claim(visitErr != nil, "no new visitor reaches it", "%s", outcome(page, visitErr))
	c.shard.router.Refuse(c.address)
	page, _, visitErr = h.Visit(ctx, c.address) // by the tor that was there before
	h.result.claim(visitErr != nil, "who holds its descriptor is refused", "%s", outcome(page, visitErr))

	if last, err = h.lastEvent(ctx); err != nil {
		return err
	}
	if _, err := h.api.Change(ctx, c.address, api.Change{To: hosting.Active}); err != nil {
		return err
	}
	began = time.Now()
	c.shard.router.Serve(c.address)
	if _, err := h.event(ctx, last, "confirmed", c.address); err != nil {
		return err
	}
	page, _, err = h.NewVisit(ctx, c.address)
	h.result.Hosting.Resumed = time.Since(began).Seconds()
	h.line.say("Resumed, it is back after %.1f s.", h.result.Hosting.Resumed)
	h.result.claim(err == nil && strings.HasPrefix(page, c.address), "resumed, it is reached again", "after %.1f s: %s", h.result.Hosting.Resumed, outcome(page, err))
	return nil
}

// outcome says in short what came of a visit.
func outcome(page string, err error) string {
	if err == nil {
		return "answered " + page
	}
	for cause := err; cause != nil; cause = errors.Unwrap(cause) {
		err = cause
	}
	return err.Error()
}

// pointsAtHSDirs counts the introduction points in the descriptors of an address that
// clients can get.
func (h *hostingDemo) pointsAtHSDirs(ctx context.Context, address string) (points int, err error) {
	a, err := descriptor.ParseAddress(address)
	if err != nil {
		return 0, err
	}
	// No visitor's tor: they keep what they fetch.
	reader, err := h.NewReader(ctx, lab.Manager)
	if err != nil {
		return 0, err
	}
	defer reader.Close()
	list, err := reader.HSDirs(a)
	if err != nil {
		return 0, err
	}
	for _, hsdir := range list {
		d, err := reader.Ask(ctx, a, hsdir)
		if err != nil {
			return 0, err
		}
		points += len(d.IntroductionPoints)
	}
	return points, nil
}

// replicaKilled kills a server with a replica of every shard, and visits everybody at once.
func (h *hostingDemo) replicaKilled(ctx context.Context, _ *lab.Process) error {
	victims := h.servers[0]
	var names []string
	for _, s := range victims {
		names = append(names, s.Name())
	}
	h.result.Killed = strings.Join(names, ", ")
	h.line.say("Killing the tor of %s: kill -9 %d", h.result.Killed, victims[0].PID())
	victims[0].Kill()
	r, err := h.visit(ctx)
	r.Expected = nil // the balancer may not know yet
	h.result.AfterKill = r
	if err != nil {
		return err
	}
	h.line.say("%s", strings.TrimRight(r.chart(), "\n"))
	dead := 0
	for _, name := range names {
		dead += r.Answers[name]
	}
	h.result.claim(len(r.Failures) == 0 && dead == 0 && len(h.result.Hosting.Crossed) == 0, "a killed replica costs no customer",
		"%d of %d visited; half of the answers took %.1f s at most, the slowest %.1f s", r.answered(), r.Visitors, r.Median, r.Slowest)
	return nil
}
