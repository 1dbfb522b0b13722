package hosting

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/state"
)

// listing is what a shard's directory has.
type listing struct {
	customers                map[string]bool // by name
	spares, pending, removed map[descriptor.Address]bool
	strange                  []error
}

func (d *Dir) list() (l listing, err error) {
	names, strange, err := d.Customers()
	l.customers, l.strange = set(names), strange
	for _, part := range []struct {
		to   *map[descriptor.Address]bool
		list func() ([]descriptor.Address, error)
	}{{&l.spares, d.Spares}, {&l.pending, d.Pending}, {&l.removed, d.Removed}} {
		addresses, failed := part.list()
		*part.to, err = set(addresses), errors.Join(err, failed)
	}
	return l, err
}

func set[T comparable](list []T) map[T]bool {
	out := make(map[T]bool, len(list))
	for _, v := range list {
		out[v] = true
	}
	return out
}

// Configure takes over the shards of the configuration: the paths of their directories, by
// name. For each it makes up for what an end of the process or an error interrupted, gives key
// directories that no record knows a record (the operator brought these customers along), and
// forgets removed customers whose keys are gone. Warnings tell what is wrong with a directory;
// an error is the store's.
func (r *Registry) Configure(ctx context.Context, dirs map[string]string) error {
	r.configuring.Lock()
	defer r.configuring.Unlock()
	shards := make(map[string]*shard, len(dirs))
	for name, path := range dirs {
		s := &shard{Shard: Shard{Name: name}}
		open := OpenDir
		if r.sharing {
			open = MakeDir // its keys come from the other managers
		}
		dir, err := open(path)
		if err != nil {
			s.trouble = []error{err}
		} else {
			s.dir = dir
		}
		shards[name] = s
	}
	r.mu.Lock()
	for name, s := range shards {
		if was := r.shards[name]; was != nil && was.dir != nil && s.dir != nil && was.dir.path == s.dir.path {
			s.spares = was.spares // until they are listed, so that none is missed meanwhile
		}
	}
	r.shards = shards
	for _, e := range r.sorted {
		r.count(e, 1)
	}
	r.mu.Unlock()
	if r.shared != nil {
		r.adopted(r.shared.Joined()) // else Hear makes up for it
		if _, err := r.hearAll(ctx); err != nil {
			r.log.Warn("customers may be as they were", "error", err)
		}
	}
	if err := r.takeOver(ctx, slices.Sorted(maps.Keys(shards))); err != nil {
		return fmt.Errorf("taking over the customers of shards: %w", err)
	}
	return nil
}

// takeOver does what Configure says with the directories of some shards.
func (r *Registry) takeOver(ctx context.Context, names []string) error {
	// Interrupted changes first, of all shards: what is left then has no record where it is.
	strangers := make(map[string][]string)
	for _, name := range names {
		s := r.shard(name)
		if s.dir == nil {
			continue
		}
		l, err := s.dir.list()
		r.note(s, l.strange...)
		if err != nil {
			r.note(s, err)
			continue
		}
		strangers[name] = r.heal(s, l)
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(strangers)) {
		s := r.shard(name)
		if r.shared != nil && !r.shared.Joined() {
			errs = append(errs, r.refresh(ctx, s)) // they may be others' customers
			r.noteMissing(s)
			continue
		}
		errs = append(errs, r.adopt(ctx, s, strangers[name]), r.refresh(ctx, s))
		r.shareAll(ctx, name)
		r.noteMissing(s)
	}
	return errors.Join(errs...)
}

func (r *Registry) shard(name string) *shard {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.shards[name]
}

// note adds to what is wrong with a shard's directory.
func (r *Registry) note(s *shard, trouble ...error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.trouble = append(s.trouble, trouble...)
}

// Installed makes spares of a shard's pending keys, since its replicas know them now, and
// takes over customers that were brought along with them.
func (r *Registry) Installed(ctx context.Context, name string) (Shard, error) {
	r.configuring.Lock()
	defer r.configuring.Unlock()
	s := r.shard(name)
	switch {
	case s == nil:
		return Shard{}, fmt.Errorf("%q: %w", name, ErrNoShard)
	case s.dir == nil:
		return Shard{}, fmt.Errorf("%q: %w", name, errors.Join(s.trouble...))
	}
	_, _, err := s.dir.Install()
	r.mu.Lock()
	s.trouble = nil
	r.mu.Unlock()
	err = errors.Join(err, r.takeOver(ctx, []string{name}))
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("taking over the new keys of the shard %q: %w", name, err)
	}
	return s.now(), err
}

// Refresh counts the keys again in those directories that were changed, as other processes
// do.
func (r *Registry) Refresh(ctx context.Context) error {
	r.configuring.Lock()
	defer r.configuring.Unlock()
	var errs []error
	if r.shared != nil && r.shared.Joined() {
		errs = append(errs, r.ask(ctx))
		r.placeAll(ctx)
		r.hearLeft()
	}
	for _, counted := range r.Shards() {
		s := r.shard(counted.Name)
		if s.dir == nil {
			continue
		}
		// What changes within the clock's grain of this look shows in the next.
		changed := s.dir.changed()
		r.mu.Lock()
		apart := s.apart
		r.mu.Unlock()
		if changed.Equal(s.changed) && time.Since(changed) > time.Minute && !apart {
			continue
		}
		s.changed = changed
		errs = append(errs, r.refresh(ctx, s))
		r.shareAll(ctx, s.Name)
	}
	return errors.Join(errs...)
}

// changed returns when a key was last moved in the directory.
func (d *Dir) changed() (last time.Time) {
	for _, sub := range []string{".", sparesDir, pendingDir, removedDir} {
		if info, err := os.Stat(filepath.Join(d.path, sub)); err == nil && info.ModTime().After(last) {
			last = info.ModTime()
		}
	}
	return last
}

// heal finds the keys of a shard's customers, and takes the spares that were given to them. It
// returns the key directories that are no customer's of this shard, by the records.
func (r *Registry) heal(s *shard, l listing) (strangers []string) {
	here := maps.Clone(l.customers)
	var take []*entry
	r.mu.Lock()
	for _, e := range r.sorted {
		switch {
		case e.Shard != s.Name || e.busy != nil || e.version == 0:
			if e.Shard == s.Name {
				delete(here, e.Name) // whoever changes it looks after its key
			}
		case e.State == Removed:
			e.keyed = l.removed[e.Address]
		case here[e.Name]:
			e.keyed = true
			delete(here, e.Name)
		case l.spares[e.Address]:
			e.keyed = false
			e.busy = make(chan struct{})
			take = append(take, e)
		default:
			e.keyed = false
		}
	}
	r.mu.Unlock()
	for _, e := range take {
		if err := s.dir.Take(e.Address, e.Name); err != nil {
			r.note(s, err)
		} else {
			r.setKeyed(e, true)
			r.log.Info("finished an addition that was interrupted", "customer", e.Called(), "shard", s.Name)
		}
		r.release(e)
	}
	return slices.Sorted(maps.Keys(here))
}

// noteMissing notes which customers of a shard have no key.
func (r *Registry) noteMissing(s *shard) {
	var missing []string
	r.mu.Lock()
	for _, e := range r.sorted {
		if e.Shard == s.Name && e.State != Removed && e.version != 0 && e.busy == nil && !e.keyed {
			missing = append(missing, e.Called())
		}
	}
	r.mu.Unlock()
	if len(missing) > 0 {
		r.note(s, fmt.Errorf("no key is in %s for %s", s.dir.path, some(missing)))
	}
}

// some names the first of a list, and counts the others.
func some(names []string) string {
	const most = 5
	if more := len(names) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), more)
	}
	return strings.Join(names, ", ")
}

// atOnce is how many records are changed with one write.
const atOnce = 500

// adopt looks at key directories of a shard that are no customer's of it: most of them get a
// record.
func (r *Registry) adopt(ctx context.Context, s *shard, names []string) error {
	addresses, errs := s.dir.addresses(names)
	var fresh []*entry
	for n, name := range names {
		err := errs[n]
		if err == nil {
			var e *entry
			if e, err = r.stranger(s, name, addresses[n]); e != nil {
				fresh = append(fresh, e)
			}
		}
		if err != nil {
			r.note(s, fmt.Errorf("%s is left out: %w", name, err))
		}
	}
	defer func() {
		for _, e := range fresh {
			r.giveBack(e, false) // those that could not be stored
			r.release(e)
		}
	}()
	for batch := range slices.Chunk(fresh, atOnce) {
		if err := r.putNew(ctx, batch); err != nil {
			return err
		}
	}
	if len(fresh) > 0 {
		r.log.Info("customers whose keys were brought along", "shard", s.Name, "customers", len(fresh))
	}
	return nil
}

// stranger deals with the key directory called name of an address that is not that of
// a customer of the shard called so. It returns the acquired entry of a customer who is new
// and to be stored.
func (r *Registry) stranger(s *shard, name string, a descriptor.Address) (*entry, error) {
	r.mu.Lock()
	e, holder := r.find(a), r.names[name]
	if holder != nil && (holder.State == Removed || holder.Address == a) {
		holder = nil
	}
	if e == nil && holder == nil {
		defer r.mu.Unlock()
		if label := a.Label(); name != label {
			if err := checkName(name); err != nil {
				return nil, err
			}
		}
		e = &entry{label: a.Label(), keyed: true, busy: make(chan struct{}), Customer: Customer{Name: name, Address: a, Shard: s.Name, State: Active, Added: now()}}
		e.Since = e.Added
		r.index(e)
		return e, nil
	}
	if e == nil || e.busy != nil {
		r.mu.Unlock()
		if e != nil {
			return nil, nil // whoever changes it looks after its key
		}
		return nil, fmt.Errorf("%w by %s, of the shard %q: rename the directory", ErrTaken, holder.Address.Short(), holder.Shard)
	}
	e.busy = make(chan struct{})
	other := r.shards[e.Shard]
	r.mu.Unlock()
	defer r.release(e)
	switch {
	case e.State == Removed, e.keyed && other != nil && other != s && e.MovingTo != s.Name:
		// It was removed, or moved away.
		if _, err := s.dir.retire(name, a); err != nil {
			return nil, err
		}
		if e.Shard == s.Name {
			r.setKeyed(e, true)
		}
		return nil, nil
	case e.keyed && other != nil && other != s:
		return nil, nil // the replicas know it, and "customer move" moves it
	case e.keyed && other != nil: // else that shard has left the configuration, or is called otherwise now
		return nil, fmt.Errorf("its key is that of %q as well", e.Name)
	case holder != nil:
		return nil, fmt.Errorf("%w by %s, of the shard %q: rename the directory", ErrTaken, holder.Address.Short(), holder.Shard)
	}
	// The operator moved the directory, or renamed it or the shard.
	next := e.Customer
	next.Name, next.Shard, next.MovingTo = name, s.Name, ""
	if err := r.put(e, next); err != nil {
		return nil, err
	}
	r.setKeyed(e, true)
	return nil, nil
}

// putNew stores acquired entries that are new, with one write, if nobody else changes them.
func (r *Registry) putNew(ctx context.Context, list []*entry) error {
	if r.shared != nil {
		return r.putAll(list)
	}
	var changes []state.Change
	for _, e := range list {
		change, err := state.Put(state.CustomerKey(e.Address), 0, e.Customer)
		if err != nil {
			return err
		}
		changes = append(changes, change)
	}
	versions, err := r.store.Swap(ctx, changes...)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for n, e := range list {
		e.version = versions[n]
		r.count(e, 1)
	}
	return nil
}

// refresh lists a shard's directory anew, for the keys that are no customer's, and
// forgets the removed customers whose keys are gone: the replicas do not know them.
func (r *Registry) refresh(ctx context.Context, s *shard) error {
	if s.dir == nil {
		return nil
	}
	l, err := s.dir.list()
	if err != nil {
		return err
	}
	r.mu.Lock()
	s.Removed, s.Pending, s.spares = len(l.removed), len(l.pending), nil
	for a := range l.spares {
		if r.find(a) == nil {
			s.spares = append(s.spares, a)
		}
	}
	var gone []*entry
	for _, e := range r.sorted {
		if r.shared != nil && (!r.shared.Joined() || time.Since(e.Since) < keptRemoved) {
			continue
		}
		if e.Shard == s.Name && e.State == Removed && e.busy == nil && !l.removed[e.Address] && !(l.customers[e.Name] && r.names[e.Name] == e) {
			e.busy = make(chan struct{})
			gone = append(gone, e)
		}
	}
	r.mu.Unlock()
	return r.drop(ctx, gone)
}

// drop removes acquired entries and their records.
func (r *Registry) drop(ctx context.Context, list []*entry) error {
	size := atOnce
	if r.shared != nil {
		size = sharedAtOnce
	}
	var err error
	for batch := range slices.Chunk(list, size) {
		if err != nil { // the rest stays as it is
			for _, e := range batch {
				r.release(e)
			}
			continue
		}
		var changes []state.Change
		for _, e := range batch {
			changes = append(append(changes, state.Change{Key: state.CustomerKey(e.Address), Version: e.version}), r.letGo(e)...)
		}
		_, err = r.store.Swap(ctx, changes...)
		for _, e := range batch {
			if err == nil {
				r.mu.Lock()
				e.version = 0
				r.forget(e)
				r.mu.Unlock()
			}
			r.release(e)
		}
	}
	return err
}
