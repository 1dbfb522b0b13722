package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/config"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/hosting"
	"onionbalancer/internal/state"
	"onionbalancer/internal/strictmodes"
	"onionbalancer/keystore"
)

// customers runs the services of the shards' customers, as the registry has them, and is
// what the API serves (api.Host). A customer who is active is published; one who is not is
// withdrawn, and has no service any more when that is confirmed.
type customers struct {
	d        *Daemon
	registry *hosting.Registry
	feed     *feed
	woken    chan struct{} // holds a token when awaited has more

	// Protected by Daemon.mu:
	shards  map[string]*shard
	leftOut map[descriptor.Address]error  // why there is no service
	awaited map[descriptor.Address]string // whose last change HSDirs are to confirm, and the request that made it
	unheard string                        // why not all that other managers did was taken over; empty if it was
}

// shard is a shard of the configuration in force.
type shard struct {
	cfg    config.Shard
	all    balance.Config     // of all customers, but for their keys and visits
	visits balance.Visits     // of the sample
	sample descriptor.Address // the customer whose public address is visited; zero: none
}

// buildShard opens the files of a [[shard]] beside its customers' keys, if no one but root
// and user can change them.
func buildShard(s config.Shard, user strictmodes.User) (*shard, error) {
	if err := checkShard(user, s); err != nil {
		return nil, err
	}
	all, err := buildBalancing(s.Balancing)
	if err != nil {
		return nil, err
	}
	out := &shard{cfg: s, all: all, visits: all.Visits}
	out.all.Visits, out.all.Hosted, out.all.Shard = balance.Visits{}, true, s.Name
	return out, nil
}

// buildShards opens all shards of the file. The error joins the errors of those that are
// left out.
func buildShards(cfg *config.Config) (map[string]*shard, error) {
	shards := make(map[string]*shard, len(cfg.Shards))
	var errs []error
	for _, s := range cfg.Shards {
		built, err := buildShard(s, strictmodes.Current())
		if err != nil {
			errs = append(errs, fmt.Errorf("shard %q: %w", s.Name, err))
			continue
		}
		built.all.Reclaim = cfg.Cluster.Standby.Role == config.RoleActive
		shards[s.Name] = built
	}
	return shards, errors.Join(errs...)
}

// openCustomers opens the registry.
func openCustomers(d *Daemon) (*customers, error) {
	registry, err := hosting.Open(d.shared, d.log)
	if err != nil {
		return nil, err
	}
	d.shared.Subscribe(state.CustomerPrefix, registry.Note)
	if d.cfg.Cluster.ShareKeys {
		registry.ShareKeys()
		d.shared.Subscribe(hosting.KeyPrefix, registry.NoteKeys)
	}
	return &customers{
		d: d, registry: registry, feed: newFeed(time.Now()), woken: make(chan struct{}, 1),
		leftOut: map[descriptor.Address]error{}, awaited: map[descriptor.Address]string{},
	}, nil
}

// configure has the registry take over the directories of shards.
func (h *customers) configure(ctx context.Context, shards map[string]*shard) error {
	dirs := make(map[string]string, len(shards))
	for name, s := range shards {
		dirs[name] = s.cfg.Customers
	}
	return h.registry.Configure(ctx, dirs)
}

// runs reports whether a customer has a service.
func runs(c hosting.Customer) bool { return c.State == hosting.Active || c.Confirmed.IsZero() }

// update starts, changes and stops the services of customers, as the registry has them
// and the shards in force want them.
func (h *customers) update(ctx context.Context, list []hosting.Customer) {
	defer h.d.shards.stale.Store(true)
	for len(list) > 0 {
		opened := h.open(ctx, list)
		var again []hosting.Customer
		h.d.mu.Lock()
		for n, c := range list {
			if now, _ := h.registry.Of(c.Address); now == c {
				h.applyLocked(c, opened[n])
				continue
			} else if now.Address == c.Address {
				again = append(again, now)
			} else {
				h.stopLocked(c.Address)
			}
			opened[n].close(h.d)
		}
		h.d.mu.Unlock()
		list = again
	}
}

// opening are the keys of a customer, if they had to be opened.
type opening struct {
	ref string
	openedKeys
}

func (o opening) close(d *Daemon) {
	if o.keys.Custodian == nil {
		return
	}
	if err := o.keys.Close(); err != nil {
		d.log.Warn("closing the keys", "error", err)
	}
}

// open opens the keys of those customers who are to have a service and have none with
// these keys.
func (h *customers) open(ctx context.Context, list []hosting.Customer) []opening {
	all := make([]opening, len(list))
	tokens := map[string]string{}
	has := make(map[descriptor.Address]string, len(list))
	h.d.mu.Lock()
	for name, s := range h.shards {
		tokens[name] = s.cfg.Token
	}
	for _, c := range list {
		if r := h.d.services[c.Address]; r != nil {
			has[c.Address] = r.ref
		}
	}
	stateDir := h.d.cfg.StateDir
	h.d.mu.Unlock()
	var refs []string
	var places []int
	for n, c := range list {
		token, known := tokens[c.Shard]
		if !known || !runs(c) {
			continue
		}
		ref, err := h.registry.Reference(c.Address, token)
		all[n] = opening{ref, openedKeys{err: err}}
		if err == nil && has[c.Address] != ref {
			refs, places = append(refs, ref), append(places, n)
		}
	}
	for n, o := range h.openRefs(ctx, refs, stateDir) {
		all[places[n]].openedKeys = o
	}
	return all
}

func (h *customers) openRefs(ctx context.Context, refs []string, stateDir string) []openedKeys {
	if len(refs) != 1 {
		return openMany(ctx, refs, stateDir, h.d.log)
	}
	var o keystore.Opened // the log has no line for each
	o.Custodian, o.Err = keystore.Open(refs[0])
	keys, err := completed(o, refs[0], stateDir, strictmodes.Current())
	return []openedKeys{{keys, err}}
}

// errServed is why a customer is left out whose address is that of a service.
var errServed = errors.New("its address is that of a [[service]]; an address is served by one or the other")

// applyLocked makes the service of a customer what it should be. It owns the keys.
func (h *customers) applyLocked(c hosting.Customer, o opening) {
	a, s, r := c.Address, h.shards[c.Shard], h.d.services[c.Address]
	delete(h.leftOut, a)
	switch {
	case h.d.stopping:
		o.close(h.d)
		return
	case r != nil && r.shard == "":
		delete(h.awaited, a)
		h.leftOut[a] = errServed
		o.close(h.d)
		return
	case s == nil || !runs(c):
		h.stopLocked(a)
		o.close(h.d)
		return
	case o.err != nil:
		h.leftOut[a] = o.err
	case o.keys.Custodian != nil && o.keys.Custodian.Address() != a:
		h.leftOut[a] = fmt.Errorf("the key in %q is that of %s", o.ref, o.keys.Custodian.Address().Short())
		o.close(h.d)
		o.keys = credential.Keys{}
	}
	if r == nil && o.keys.Custodian == nil {
		delete(h.awaited, a)
		return // it is left out
	}
	cfg := s.all
	cfg.Withdrawn = c.State != hosting.Active
	if cfg.Withdrawn {
		h.unsampleLocked(a, nil)
	} else {
		h.unsampleLocked(a, s)
		if (s.sample == a || s.sample == descriptor.Address{}) {
			s.sample, cfg.Visits = a, s.visits
		}
	}
	if cfg.Keys = o.keys; o.keys.Custodian == nil {
		cfg.Keys = r.cfg.Keys
	}
	switch {
	case r == nil:
		r = h.d.runLocked(a, cfg)
	case r.of == s && r.cfg.Withdrawn == cfg.Withdrawn && o.keys.Custodian == nil:
	default:
		r.Reconfigure(cfg)
	}
	r.shard, r.of = s.cfg.Name, s
	h.d.events.Assign(a, s.cfg.Name)
	if o.keys.Custodian != nil {
		r.ref = o.ref
	}
	if c.Confirmed.IsZero() {
		h.awaitLocked(a, h.awaited[a])
	} else {
		delete(h.awaited, a)
	}
}

// stopLocked ends the service of a customer, if it has one.
func (h *customers) stopLocked(a descriptor.Address) {
	delete(h.awaited, a)
	delete(h.leftOut, a)
	if r := h.d.services[a]; r != nil && r.shard != "" {
		h.d.events.Assign(a, "")
		h.d.removeLocked(a)
	}
	h.unsampleLocked(a, nil)
}

// unsampleLocked has another customer visited in the place of one, of all shards but one.
func (h *customers) unsampleLocked(a descriptor.Address, but *shard) {
	for _, s := range h.shards {
		if s == but || s.sample != a {
			continue
		}
		s.sample = descriptor.Address{}
		for other, r := range h.d.services {
			if r.of == s && other != a && !r.cfg.Withdrawn {
				s.sample, r.cfg.Visits = other, s.visits
				r.Reconfigure(r.cfg)
				break
			}
		}
	}
}

// awaitLocked has the change of a customer that a request made told when HSDirs
// confirmed it.
func (h *customers) awaitLocked(a descriptor.Address, request string) {
	h.awaited[a] = request
	wake(h.woken)
}

// prune stops the services of customers who are forgotten.
func (h *customers) prune() {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	for a, r := range h.d.services {
		if _, known := h.registry.Of(a); r.of != nil && !known {
			h.stopLocked(a)
		}
	}
}

// of returns the shards of the customers who are not removed, by address, as far as
// cfg has them.
func (h *customers) of(cfg *config.Config) map[descriptor.Address]string {
	out := map[descriptor.Address]string{}
	list, _ := h.registry.List(hosting.Query{})
	for _, c := range list {
		if slices.ContainsFunc(cfg.Shards, func(s config.Shard) bool { return s.Name == c.Shard }) {
			out[c.Address] = c.Shard
		}
	}
	return out
}

// replaceLocked takes over the shards of a configuration, whose customers update brings
// into line then. It reports whether they are the same as before.
func (h *customers) replaceLocked(shards map[string]*shard) (same bool) {
	same = true
	old := h.shards
	h.shards = shards
	if old == nil { // at the start
		return true
	}
	for name, was := range old {
		if shards[name] == nil {
			same = false
			h.d.log.Info("shard removed; the last descriptors of its customers expire at the HSDirs in about three hours", "shard", name)
			h.leaveLocked(was)
		}
	}
	for name, s := range shards {
		was := old[name]
		if was == nil {
			same = false
			h.d.log.Info("shard added", "shard", name, "instances", instanceNames(s.all.Instances))
			continue
		}
		s.sample = was.sample
		a, b := was.all, s.all
		a.Visits, b.Visits = was.visits, s.visits
		list := changes(a, b)
		for _, key := range []struct{ name, was, is string }{{"customers", was.cfg.Customers, s.cfg.Customers}, {"token", was.cfg.Token, s.cfg.Token}} {
			if key.was != key.is {
				list = append(list, key.name, "changed")
			}
		}
		if len(list) > 0 {
			same = false
			h.d.log.Info("shard changed", append([]any{"shard", name}, list...)...)
		}
	}
	return same
}

// leaveLocked stops the services of a shard that is not in the configuration any more.
func (h *customers) leaveLocked(s *shard) {
	for a, r := range h.d.services {
		if r.of == s {
			h.stopLocked(a)
		}
	}
}
