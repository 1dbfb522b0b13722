package daemon

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/config"
	"onionbalancer/internal/event"
	"onionbalancer/internal/health"
	"onionbalancer/internal/hosting"
	"onionbalancer/internal/status"
)

// shardsKept is for how long what was found about the shards is told again: it takes some
// milliseconds for each thousand customers.
const shardsKept = time.Second

// shardsCache has the last answer about the shards.
type shardsCache struct {
	stale atomic.Bool // something was changed since

	mu   sync.Mutex // held while they are asked
	at   time.Time
	list []status.Shard
}

// shardStatuses describes all shards, in the order of the configuration.
func (d *Daemon) shardStatuses() []status.Shard {
	d.shards.mu.Lock()
	defer d.shards.mu.Unlock()
	if now := time.Now(); d.shards.stale.Swap(false) || now.Sub(d.shards.at) >= shardsKept || now.Before(d.shards.at) {
		d.shards.list = nil
		for _, s := range d.hosts() {
			d.shards.list = append(d.shards.list, s.describe())
		}
		d.shards.at = time.Now()
	}
	return slices.Clone(d.shards.list)
}

// host is a shard with the services of its customers, as they are at one moment.
type host struct {
	d        *Daemon
	cfg      config.Shard
	out      bool       // it could not be opened
	services []*running // that run here
	left     []need     // customers without a service, and why
	counts   hosting.Shard
	warnings []string

	elsewhere []*running // services that do not run here, as other managers may publish them
}

// hosts returns all shards, in the order of the configuration.
func (d *Daemon) hosts() []*host {
	d.mu.Lock()
	defer d.mu.Unlock()
	registry := d.customers.registry
	var list []*host
	byName := map[string]*host{}
	for _, s := range d.cfg.Shards {
		h := &host{d: d, cfg: s, out: d.customers.shards[s.Name] == nil, warnings: registry.Warnings(s.Name)}
		list = append(list, h)
		byName[s.Name] = h
	}
	for _, s := range registry.Shards() {
		if h := byName[s.Name]; h != nil {
			h.counts = s
		}
	}
	for _, r := range d.services {
		h := byName[r.shard]
		switch {
		case h == nil:
		case r.cancel == nil:
			h.elsewhere = append(h.elsewhere, r)
		default:
			h.services = append(h.services, r)
		}
	}
	for address, err := range d.customers.leftOut {
		c, _ := registry.Of(address)
		if h := byName[c.Shard]; h != nil {
			state := status.StateDegraded // it cannot be withdrawn
			if c.State == hosting.Active {
				state = status.StateFailed
			}
			h.left = append(h.left, need{address, state, err.Error()})
		}
	}
	return list
}

// describe describes the shard.
func (h *host) describe() status.Shard {
	now := time.Now()
	out := status.Shard{
		Name: h.cfg.Name, Strategy: h.cfg.Strategy, Profile: h.cfg.Profile,
		Spares: h.counts.Spares, Pending: h.counts.Pending, Lines: h.counts.Lines(),
		Custody: status.SharedCustody{Forms: map[string]int{}},
	}
	out.Customers = status.Customers{Active: h.counts.Active, Suspended: h.counts.Suspended, Removed: h.counts.Removed}
	var example *running // the one whose instances are shown
	best := -1
	var needy []need
	for _, r := range h.services {
		s := r.Summary()
		if s.Withdrawn {
			out.Customers.Withdrawing++
			continue
		}
		count(&out, s)
		if text := attention(now, s); text != "" {
			needy = append(needy, need{r.Address(), s.State, text})
		}
		if custodyOf(&out.Custody, s.Custody) {
			out.Custody.Customer = h.d.customerName(r.Address())
		}
		if rank := worth(s); rank > best || rank == best && before(r, example) {
			example, best = r, rank
		}
	}
	needy = append(needy, h.countElsewhere(&out)...)
	h.countOwners(&out)
	for _, n := range h.left {
		if needy = append(needy, n); n.state == status.StateFailed {
			out.Customers.Failed++
		}
	}
	out.Needy, out.Attention = len(needy), h.d.neediest(needy)
	lesser := h.describeInstances(&out, example)
	out.Warnings = append(out.Warnings, h.warnings...)
	if out.State = sum(out, lesser); h.out {
		out.State = status.StateFailed
	}
	return out
}

// count adds an active customer to the numbers.
func count(out *status.Shard, s balance.Summary) {
	switch c := &out.Customers; s.State {
	case status.StateOK:
		c.OK++
	case status.StateDegraded:
		c.Degraded++
	case status.StateFailed:
		c.Failed++
	default:
		c.Starting++
	}
	out.Unconfirmed += s.Missing
	if !s.Made.IsZero() && (out.Oldest.IsZero() || s.Made.Before(out.Oldest)) {
		out.Oldest = s.Made
	}
}

// custodyOf adds a customer's custody to the shard's, and reports whether its supply of
// certificates is the shortest so far.
func custodyOf(all *status.SharedCustody, c status.Custody) bool {
	all.Forms[c.Form]++
	if at := c.CertifiedUntil; !at.IsZero() && (all.CertifiedUntil.IsZero() || at.Before(all.CertifiedUntil)) {
		all.CertifiedUntil = at
	}
	if c.Ahead == nil || all.Ahead != nil && all.Remaining <= c.Remaining {
		return false
	}
	all.Ahead = c.Ahead
	return true
}

// worth says how good an example of the shard's services one is: what its status says of
// the instances should be true of the others.
func worth(s balance.Summary) int {
	switch s.State {
	case status.StateOK:
		return 3
	case status.StateDegraded:
		return 2
	case status.StateFailed:
		return 1
	}
	return 0
}

// before orders services by their addresses, for the same one to be taken each time.
func before(r, other *running) bool {
	a, b := r.Address(), other.Address()
	return bytes.Compare(a[:], b[:]) < 0
}

// How long a customer may be on the way to its first descriptor before somebody should look
// at it, and how old a descriptor may be that HSDirs drop after three hours.
const (
	lateAfter = 15 * time.Minute
	oldAfter  = 170 * time.Minute
)

// attention says why a customer needs attention; empty if it does not.
func attention(now time.Time, s balance.Summary) string {
	switch late, age := now.Sub(s.Started), now.Sub(s.Made); {
	case len(s.Warnings) > 0:
		return s.Warnings[0]
	case s.State == status.StateFailed:
		return "nothing is published"
	case s.State == status.StateStarting && !s.Started.IsZero() && late > lateAfter:
		return fmt.Sprintf("no HSDir has confirmed its descriptor for %s", late.Truncate(time.Minute))
	case !s.Made.IsZero() && age > oldAfter:
		return fmt.Sprintf("its descriptor was made %s ago: HSDirs drop it after three hours", age.Truncate(time.Minute))
	}
	return ""
}

// need is a customer that needs attention.
type need struct {
	address descriptor.Address
	state   status.State
	text    string
}

// mostAttention is how many of them a shard's status names.
const mostAttention = 5

// neediest names those that are worst off.
func (d *Daemon) neediest(all []need) (list []status.Attention) {
	order := []status.State{status.StateFailed, status.StateStarting, status.StateDegraded, status.StateOK}
	slices.SortFunc(all, func(a, b need) int {
		return cmp.Or(slices.Index(order, a.state)-slices.Index(order, b.state), bytes.Compare(a.address[:], b.address[:]))
	})
	for _, n := range all[:min(len(all), mostAttention)] {
		list = append(list, status.Attention{Customer: d.customerName(n.address), Address: n.address.String(), State: n.state, Text: n.text})
	}
	return list
}

// customerName returns the name of a customer, or the address of nobody's.
func (d *Daemon) customerName(a descriptor.Address) string {
	if c, known := d.customers.registry.Of(a); known {
		return c.Name
	}
	return a.String()
}

// describeInstances fills in the instances as a customer's service has them, and what all
// customers are warned of. It reports whether something is missing.
func (h *host) describeInstances(out *status.Shard, example *running) (lesser bool) {
	if example == nil && len(h.elsewhere) > 0 {
		example = slices.MinFunc(h.elsewhere, func(a, b *running) int { x, y := a.Address(), b.Address(); return bytes.Compare(x[:], y[:]) })
		example.Watch()
	}
	if example == nil {
		out.Instances = h.unused()
		return false
	}
	s := example.Status()
	out.Instances, out.NextFetch = s.Instances, s.NextFetch
	out.Warnings = example.Common()
	for n := range out.Instances {
		if i := &out.Instances[n]; i.Drain != nil {
			i.Drain = h.draining(i.Address)
		}
	}
	missing := func(i status.Instance) bool {
		return i.Drain == nil && i.Weight > 0 && (i.State != status.StateOK || fails(i))
	}
	return len(out.Warnings) > 0 || slices.ContainsFunc(out.Instances, missing)
}

// unused describes the instances while no service uses them.
func (h *host) unused() (list []status.Instance) {
	for _, i := range h.cfg.Instances {
		word := h.d.rooms.backends.Word(i.Address)
		line := status.Instance{
			Name: i.Name, Address: i.Address.String(), State: status.StateStarting,
			Admin: string(cmp.Or(word.Admin, health.Ready)), Weight: word.Weight.Of(i.Weight),
		}
		if line.Admin != string(health.Ready) || word.Weight.Zero() {
			line.Drain = &status.Drain{Safe: true}
		}
		list = append(list, line)
	}
	return list
}

// draining tells how far an instance is on its way out of all customers' descriptors, the
// withdrawn ones' included.
func (h *host) draining(instance string) *status.Drain {
	address, err := descriptor.ParseAddress(instance)
	if err != nil {
		return nil
	}
	all := &status.Drain{Safe: true}
	var left, safe []time.Time
	for _, r := range h.services {
		one := r.Draining(address)
		if one == nil {
			continue // it heard of the order later than the example
		}
		if one.Left.IsZero() {
			all.Customers++
		}
		all.Pending += one.Pending
		all.Stays = all.Stays || one.Stays
		all.Safe = all.Safe && one.Safe
		left, safe = append(left, one.Left), append(safe, one.SafeAt)
	}
	for _, r := range h.elsewhere {
		one := h.d.leftElsewhere(r.Address(), address)
		if one.Left.IsZero() {
			all.Customers++
		}
		all.Safe = all.Safe && one.Safe
		left, safe = append(left, one.Left), append(safe, one.SafeAt)
	}
	all.Left, all.SafeAt = lastOf(left), lastOf(safe)
	return all
}

// lastOf returns the last of some times; the zero time if one of them is not known.
func lastOf(times []time.Time) (last time.Time) {
	for _, t := range times {
		if t.IsZero() {
			return t
		}
		if t.After(last) {
			last = t
		}
	}
	return last
}

// sum returns the state of a shard; lesser says that instances are missing, or that all
// customers are warned of something.
func sum(s status.Shard, lesser bool) status.State {
	c := s.Customers
	switch {
	case c.Served()+c.Elsewhere == 0 && c.Failed > 0:
		return status.StateFailed
	case c.Served()+c.Elsewhere == 0 && c.Starting > 0:
		return status.StateStarting
	case c.Elsewhere > 0 && c.Elsewhere == c.Active && s.Needy == 0:
		return status.StateElsewhere
	case lesser, s.Needy > 0, c.Failed > 0:
		return status.StateDegraded
	}
	return status.StateOK
}

// CustomerStatus implements status.Operator.
func (d *Daemon) CustomerStatus(customer string) (status.Customer, error) {
	c, err := d.customers.registry.Customer(customer)
	if err != nil {
		return status.Customer{}, refuse(http.StatusNotFound, "%v", err)
	}
	out := status.Customer{Name: c.Name, Shard: c.Shard, Hosted: string(c.State), Since: c.Since, Address: c.Address.String()}
	d.mu.Lock()
	r, left := d.services[c.Address], d.customers.leftOut[c.Address]
	hosted := r != nil && r.shard != ""
	d.mu.Unlock()
	if left != nil {
		out.Error = left.Error()
	}
	if hosted {
		s := d.describe(r)
		out.Service = &s
	}
	return out, nil
}

// EachCustomer implements status.Operator.
func (d *Daemon) EachCustomer(do func(status.Published)) {
	for _, h := range d.hosts() {
		for _, r := range h.services {
			if s := r.Summary(); !s.Withdrawn {
				do(status.Published{Shard: h.cfg.Name, Name: d.customerName(r.Address()), State: s.State, Made: s.Made})
			}
		}
		for _, r := range h.elsewhere {
			if !r.Summary().Withdrawn {
				do(status.Published{Shard: h.cfg.Name, Name: d.customerName(r.Address()), State: status.StateElsewhere})
			}
		}
	}
}

// tellShardsEvery is how often the states of shards are looked at for the log.
const tellShardsEvery = time.Minute

// tellShards records what changes about shards as a whole until ctx ends.
func (d *Daemon) tellShards(ctx context.Context) {
	tick := time.NewTicker(tellShardsEvery)
	defer tick.Stop()
	last := map[string]status.Shard{}
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := map[string]status.Shard{}
		for _, s := range d.shardStatuses() {
			d.tellShard(last[s.Name], s)
			now[s.Name] = s
		}
		last = now
	}
}

// tellShard records how a shard changed.
func (d *Daemon) tellShard(was, is status.Shard) {
	about := event.Event{At: time.Now(), Kind: event.Shard, Attrs: []slog.Attr{slog.String("shard", is.Name)}}
	if is.State != was.State {
		e, c := about, is.Customers
		e.Text = "shard"
		e.Level = map[status.State]slog.Level{status.StateDegraded: slog.LevelWarn, status.StateFailed: slog.LevelError}[is.State]
		e.Attrs = append(e.Attrs, slog.Any("state", is.State), slog.Int("ok", c.OK), slog.Int("degraded", c.Degraded), slog.Int("starting", c.Starting), slog.Int("failed", c.Failed))
		d.events.Record(e)
	}
	for _, text := range is.Warnings {
		if !slices.Contains(was.Warnings, text) {
			e := about
			e.Text, e.Level = text, slog.LevelWarn
			d.events.Record(e)
		}
	}
}
