package daemon

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/backoff"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/health"
	"onionbalancer/internal/probe"
	"onionbalancer/selection"
)

// Probes publishes the probe addresses of instances, each by a service of its own of
// which status and history say nothing, and visits them.
type Probes struct {
	ctx     context.Context
	env     balance.Env
	store   probe.Store
	visitor balance.Visitor                                 // nil: nothing is visited
	checked func(instance descriptor.Address) health.Result // of its own address; nil: never
	changed func(instance descriptor.Address)               // is called when it may have to be used otherwise
	wait    sync.WaitGroup

	mu      sync.Mutex // protects the fields below, and what is in list
	list    map[descriptor.Address]*probed
	leaving map[descriptor.Address]*probed // removed, and not at their end yet, perhaps
}

// probed is an instance with a probe address.
type probed struct {
	instance balance.Instance
	every    time.Duration // between fetches of the instance
	visits   balance.Visits
	cancel   context.CancelFunc
	done     chan struct{}

	key     *probe.Key // nil until it is read
	service *balance.Service
	err     error // why there is no key
	path    health.Path
}

// newProbes returns Probes whose services run until ctx ends. env is that of the
// operator's services.
func newProbes(ctx context.Context, env balance.Env, store probe.Store, changed func(instance descriptor.Address)) *Probes {
	visitor, checked := env.Visitor, env.Checked
	env.Visitor, env.Checked, env.Probe = nil, nil, nil // a probe address has no public one
	return &Probes{ctx: ctx, env: env, store: store, visitor: visitor, checked: checked, changed: changed, list: map[descriptor.Address]*probed{}, leaving: map[descriptor.Address]*probed{}}
}

// Update starts and stops probe addresses: those of the instances of the services that
// are to have one. Services that share an instance share its probe address.
func (p *Probes) Update(services []balance.Config) {
	type wish struct {
		instance balance.Instance
		every    time.Duration
		visits   balance.Visits
	}
	wanted := make(map[descriptor.Address]wish)
	for _, s := range services {
		for _, i := range s.Instances {
			if !i.Probe {
				continue
			}
			w, again := wanted[i.Address]
			if !again {
				w = wish{i, s.FetchEvery, s.Visits}
			}
			if w.instance.Client == nil {
				w.instance.Client = i.Client
			}
			w.every = min(w.every, s.FetchEvery) // 0 leaves it to the set, as most services do
			wanted[i.Address] = w
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.leaving, func(_ descriptor.Address, r *probed) bool { return r.ended() })
	for address, r := range p.list {
		if _, stays := wanted[address]; !stays {
			r.cancel()
			delete(p.list, address)
			p.leaving[address] = r
		}
	}
	for address, w := range wanted {
		r := p.list[address]
		added := r == nil
		if added {
			r = &probed{done: make(chan struct{}), path: health.Path{Probe: true}}
			p.list[address] = r
		}
		w.instance.Weight, w.instance.Probe = 1, false
		r.instance, r.every, r.visits, r.path.Fall = w.instance, w.every, w.visits, w.visits.Spec.Fall
		switch {
		case added:
			p.start(r, p.leaving[address])
			delete(p.leaving, address)
		case r.service != nil:
			r.service.Reconfigure(r.config())
		}
	}
}

// ended reports whether the service has ended.
func (r *probed) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// config is the configuration of the service. The caller holds p.mu.
func (r *probed) config() balance.Config {
	return balance.Config{
		Keys:       credential.Keys{Custodian: r.key, Signing: credential.Memory{}, Reference: "probe"},
		Strategy:   selection.Spread{},
		Room:       selection.Room{Points: descriptor.MaxIntroductionPoints, PerInstance: descriptor.MaxIntroductionPoints},
		Instances:  []balance.Instance{r.instance},
		FetchEvery: r.every,
		Clients:    []descriptor.AuthorizedClient{r.key.Client().Client()},
		Quiet:      true,
	}
}

// start runs the service of a probe address, after a stopping one of the same has ended.
func (p *Probes) start(r, before *probed) {
	ctx, cancel := context.WithCancel(p.ctx)
	r.cancel = cancel
	p.wait.Go(func() {
		defer close(r.done)
		if before != nil {
			<-before.done
		}
		service := p.open(ctx, r)
		if service == nil {
			return
		}
		var visits sync.WaitGroup
		visits.Go(func() { p.visitAll(ctx, r) })
		service.Run(ctx)
		visits.Wait()
	})
}

// The delay after a failure to read or store a key, and its maximum.
const (
	probeRetry    = 5 * time.Second
	probeRetryMax = 5 * time.Minute
)

// open opens the key of a probe address, and tries again until it can: without a stored key
// the operator would be told another line after each start.
func (p *Probes) open(ctx context.Context, r *probed) *balance.Service {
	retry := backoff.Backoff{Policy: backoff.Policy{Min: probeRetry, Max: probeRetryMax}}
	p.mu.Lock()
	address := r.instance.Address
	p.mu.Unlock()
	for {
		key, err := probe.Open(p.store, address)
		if ctx.Err() != nil {
			return nil
		}
		p.mu.Lock()
		if r.err = err; err == nil {
			r.key = key
			r.service = balance.NewService(r.config(), p.env)
		}
		p.mu.Unlock()
		if err == nil {
			return r.service
		}
		if !backoff.Sleep(ctx, retry.Next()) {
			return nil
		}
	}
}

// How soon a probe address is visited that was not published before, and how many are
// visited in what time, on average.
const (
	probeFirst = time.Minute
	probeRate  = time.Second
)

// visitAll visits a probe address until ctx ends.
func (p *Probes) visitAll(ctx context.Context, r *probed) {
	for pause := time.Duration(0); backoff.Sleep(ctx, backoff.Jitter(pause)); {
		p.mu.Lock()
		visits, spec := r.visits, r.visits.Spec
		published := r.service.Published()
		spec.Address = r.key.Address()
		pause = max(visits.Every, time.Duration(len(p.list))*probeRate)
		p.mu.Unlock()
		if p.visitor == nil || visits.Every == 0 || !published {
			pause = probeFirst
			continue
		}
		result := p.visitor.Visit(ctx, spec, r.key.Client())
		if ctx.Err() == nil && p.visited(r, result) {
			pause = min(pause, spec.FastInterval)
		}
	}
}

// Moved tells all services that another tor may upload for them.
func (p *Probes) Moved() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.list {
		if r.service != nil {
			r.service.Moved()
		}
	}
}

// Stop ends all services, and waits for them.
func (p *Probes) Stop() {
	p.Update(nil)
	p.wait.Wait()
}

// Of returns the probe address of an instance with the key of its one client, and
// whether it is published; the zero Address if the instance has none.
func (p *Probes) Of(instance descriptor.Address) (address descriptor.Address, key *descriptor.ClientKey, published bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.list[instance]
	if r == nil || r.key == nil {
		return descriptor.Address{}, nil, false
	}
	return r.key.Address(), r.key.Client(), r.service.Published()
}

// visited takes the result of a visit, and reports whether the next one is to come
// soon.
func (p *Probes) visited(r *probed, result health.Result) (suspected bool) {
	if result.Stage == health.NoTor {
		return false
	}
	p.mu.Lock()
	before := p.judge(r)
	var keys [][32]byte
	for _, c := range r.service.Plan().Chosen {
		keys = append(keys, c.Point.AuthKey)
	}
	r.path.Offers(keys)
	points := result.Points
	if len(points) == 0 { // which they were is not known
		points = []health.PointResult{{Acknowledged: result.Stage >= health.Introduced, Answered: result.Stage >= health.Answered}}
	}
	for _, at := range points {
		r.path.Visited(result.Ended, at, len(keys))
	}
	after := p.judge(r)
	suspected = r.path.Suspected()
	instance := r.instance.Address
	p.mu.Unlock()
	if before != after {
		p.changed(instance)
	}
	return suspected
}

// judge judges the path to an instance, with what is known of its own address. The caller
// holds p.mu.
func (p *Probes) judge(r *probed) (verdict [3]bool) {
	if p.checked != nil {
		r.path.Checked(p.checked(r.instance.Address))
	}
	return [3]bool{r.path.Broken(), r.path.Unproven(), r.path.Suspected()}
}

// path returns what is known of the probe address of an instance.
func (p *Probes) path(instance descriptor.Address) balance.ProbePath {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.list[instance]
	if r == nil || r.key == nil {
		return balance.ProbePath{}
	}
	p.judge(r)
	return balance.ProbePath{Address: r.key.Address(), Published: r.service.Published(), Path: r.path}
}

// warnings lists the probe addresses that could not be made.
func (p *Probes) warnings() (list []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.list {
		if r.err != nil {
			list = append(list, fmt.Sprintf("instance %s has no probe address: %v", r.instance.Name, r.err))
		}
	}
	slices.SortFunc(list, strings.Compare)
	return list
}

// updateProbesLocked starts and stops probe addresses as the services and shards now ask for.
func (d *Daemon) updateProbesLocked() {
	var services []balance.Config
	for _, address := range slices.SortedFunc(maps.Keys(d.services), func(a, b descriptor.Address) int { return slices.Compare(a[:], b[:]) }) {
		if r := d.services[address]; r.shard == "" {
			services = append(services, r.cfg)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.customers.shards)) {
		s := d.customers.shards[name]
		cfg := s.all
		cfg.Visits = s.visits
		services = append(services, cfg)
	}
	d.probes.Update(services)
}

// visitSpec says how a service's public address is visited: as one of its instances is
// checked, except that an agent's port is not for visitors, and that clients are patient.
func visitSpec(instances []health.Spec) health.Spec {
	for _, s := range instances {
		s.Patient = true
		if s.Kind != health.None && s.Kind != health.Agent && s.Address == (descriptor.Address{}) {
			return s
		}
	}
	for _, s := range instances {
		if s.Kind != health.None {
			s.Patient = true
			s.Kind, s.Port, s.AnyPort, s.Address = health.TCP, visitPort, true, descriptor.Address{}
			return s
		}
	}
	return health.Spec{}
}

const visitPort = 80
