package backend

import (
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/backoff"
	"onionbalancer/internal/health"
	"onionbalancer/internal/times"
)

// Subscription is a service's use of its instances.
type Subscription struct {
	set     *Set
	service descriptor.Address
	wake    func()
	waiting atomic.Bool // whether the last View had a fetch worth waiting for

	// The Set's mutex protects what follows.
	instances []Instance
	every     time.Duration
}

// Subscribe begins to watch instances for a service. wake is called, by any
// goroutine, when one of them or the consensus changed; it must not block nor use the Set. every is
// how often an instance is fetched while it answers; 0 leaves that to the Set.
func (s *Set) Subscribe(service descriptor.Address, instances []Instance, every time.Duration, wake func()) *Subscription {
	sub := &Subscription{set: s, service: service, wake: wake}
	s.mu.Lock()
	s.subscriptions[sub] = true
	s.mu.Unlock()
	sub.Update(instances, every)
	return sub
}

// Update changes the instances. The state of those that stay is kept.
func (sub *Subscription) Update(instances []Instance, every time.Duration) {
	s := sub.set
	now := s.cfg.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.subscriptions[sub] {
		return
	}
	before := sub.instances
	sub.instances, sub.every = s.shared(instances), every
	added := false
	for n := range sub.instances {
		i := &sub.instances[n]
		w := s.watches[i.Address]
		if w == nil {
			w = s.watch(now, *i)
			added = true
		}
		used := w.users[sub]
		if used != nil {
			s.reuse(w, *used, *i)
		} else {
			s.use(w, *i, nil)
		}
		if i.Client == nil && (used == nil || used.Client == nil) {
			w.users[sub] = i
			continue // the client keys stay, and there may be thousands of users
		}
		keys := w.clientKeys()
		w.users[sub] = i
		if !slices.EqualFunc(keys, w.clientKeys(), (*descriptor.ClientKey).Equal) {
			s.rekey(now, *i, w)
		}
	}
	if added {
		s.dawn = now
	}
	for _, i := range before {
		if !slices.ContainsFunc(instances, func(stays Instance) bool { return stays.Address == i.Address }) {
			s.drop(sub, i.Address)
		}
	}
	for _, i := range sub.instances {
		if w := s.watches[i.Address]; !w.asking { // this subscription may want it more often than the others do
			w.update(func(b *Backend) { b.Due = times.Earlier(b.Due, now.Add(backoff.Jitter(s.every(sub)))) })
		}
	}
	s.wake()
}

// shared returns the instances as another subscription has them, if there is one that
// has the same: thousands may. Else it returns a copy. The caller holds s.mu.
func (s *Set) shared(instances []Instance) []Instance {
	if len(instances) > 0 && s.watches[instances[0].Address] != nil {
		for sub := range s.watches[instances[0].Address].users {
			if slices.Equal(sub.instances, instances) {
				return sub.instances
			}
		}
	}
	return slices.Clone(instances)
}

// Close ends the subscription.
func (sub *Subscription) Close() {
	s := sub.set
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.subscriptions, sub)
	for _, i := range sub.instances {
		s.drop(sub, i.Address)
	}
	sub.instances = nil
}

// Services returns how many services there are.
func (s *Set) Services() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.subscriptions)
}

// View returns the current state of the instances.
func (sub *Subscription) View() View {
	s := sub.set
	now := s.cfg.Now()
	c, _ := s.cfg.Consensus.Consensus()
	s.mu.Lock()
	if s.enter(now, c) {
		s.wake() // the subscriber heard of the new consensus first
	}
	v := View{Backends: make([]*Backend, len(sub.instances)), Health: make([]health.State, len(sub.instances)), Jumps: s.jumps}
	for n, i := range sub.instances {
		w := s.watches[i.Address]
		v.Backends[n], v.Health[n] = w.now, w.health(i.Spec)
		v.Urgent += w.now.Urgent
	}
	s.mu.Unlock()
	v.StoreErr = errors.Join(s.saver.trouble(), s.words.trouble())
	sub.waiting.Store(now.Before(v.Wait(now)))
	return v
}

// watch begins to watch an instance, from its stored state. The caller holds
// s.mu.
func (s *Set) watch(now time.Time, i Instance) *watch {
	w := &watch{
		now: &Backend{Address: i.Address, Due: now, Word: s.words.of(i.Address), Load: s.loads[i.Address]}, users: map[*Subscription]*Instance{}, checks: map[health.Spec]*checked{},
		changes: newChanges(), retry: backoff.Backoff{Policy: backoff.Policy{Min: firstRetry, Max: fetchShortest}},
	}
	s.watches[i.Address] = w
	s.restore(now, i, w)
	return w
}

// clientKeys are the client keys of an instance that subscribers have, each once: what
// one of them may read is published for all that name the instance.
func (w *watch) clientKeys() (keys []*descriptor.ClientKey) {
	var users []*Subscription
	for sub, i := range w.users {
		if i.Client != nil {
			users = append(users, sub)
		}
	}
	slices.SortFunc(users, func(a, b *Subscription) int { return slices.Compare(a.service[:], b.service[:]) })
	for _, sub := range users {
		if k := w.users[sub].Client; !slices.ContainsFunc(keys, k.Equal) {
			keys = append(keys, k)
		}
	}
	return keys
}

// rekey has an instance fetched at once, since its client keys changed. The one of i
// may be what opens its stored descriptor.
func (s *Set) rekey(now time.Time, i Instance, w *watch) {
	w.wrongKeys = 0
	w.retry.Reset()
	if w.now.Descriptor == nil && i.Client != nil {
		s.restore(now, i, w)
	}
	if !w.asking {
		w.update(func(b *Backend) { b.Due = now })
	}
}

// firstRetry is how soon the fetch of an instance that was not found is retried; the delay
// doubles up to the usual interval.
const firstRetry = 5 * time.Second

// drop ends the use of an instance. The caller holds s.mu.
func (s *Set) drop(sub *Subscription, a descriptor.Address) {
	w := s.watches[a]
	if w == nil {
		return
	}
	if used := w.users[sub]; used != nil {
		s.unuse(w, *used)
	}
	delete(w.users, sub)
	if len(w.users) > 0 {
		return
	}
	delete(s.watches, a)
	s.claims.forget(a)
	for other, o := range s.watches {
		s.contest(other, o)
	}
}
