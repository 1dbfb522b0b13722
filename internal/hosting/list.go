package hosting

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"onionbalancer/descriptor"
	"onionbalancer/internal/printable"
)

// Query says which customers to list.
type Query struct {
	Shard string
	State State  // empty: all but the removed
	Name  string // beginning of the name
	After string // label of the last one of the page before
	Limit int    // at most so many; 0: all
}

// Customer returns a customer, by name or address: of several who had a name, the last.
func (r *Registry) Customer(customer string) (Customer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, err := r.whose(customer)
	if err == nil && e.version == 0 {
		err = fmt.Errorf("%q: %w", customer, ErrUnknown)
	}
	if err != nil {
		return Customer{}, err
	}
	return e.Customer, nil
}

// List lists customers in the order of their addresses, and says whether there are more.
func (r *Registry) List(q Query) (page []Customer, more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	from, found := r.search(q.After)
	if found {
		from++
	}
	for _, e := range r.sorted[from:] {
		switch {
		case e.version == 0, q.Shard != "" && e.Shard != q.Shard, !strings.HasPrefix(e.Name, q.Name):
		case q.State == "" && e.State == Removed, q.State != "" && e.State != q.State:
		case q.Limit > 0 && len(page) == q.Limit:
			return page, true
		default:
			page = append(page, e.Customer)
		}
	}
	return page, false
}

// All lists all customers in the order of their addresses, the removed ones included that
// replicas still know.
func (r *Registry) All() []Customer {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Customer, 0, len(r.sorted))
	for _, e := range r.sorted {
		if e.version != 0 {
			all = append(all, e.Customer)
		}
	}
	return all
}

// Shards returns the counts of the shards, in the order of their names.
func (r *Registry) Shards() (list []Shard) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(r.shards)) {
		list = append(list, r.shards[name].now())
	}
	return list
}

// Reference returns what keystore.Open takes for a customer's key. token is that of the shard;
// empty if it has none.
func (r *Registry) Reference(a descriptor.Address, token string) (string, error) {
	r.mu.Lock()
	e := r.find(a)
	if e == nil {
		r.mu.Unlock()
		return "", ErrUnknown
	}
	s, place := r.shards[e.Shard], e.place()
	r.mu.Unlock()
	if s == nil || s.dir == nil {
		return "", fmt.Errorf("%q: %w, or its directory cannot be used", e.Shard, ErrNoShard)
	}
	return s.dir.Reference(place, token)
}

// place returns where the key of a customer is, below the directory of the shard.
func (e *entry) place() string {
	switch {
	case e.State == Removed && e.keyed:
		return filepath.Join(removedDir, e.label)
	case e.State == Removed || e.keyed:
		return e.Name
	}
	return filepath.Join(sparesDir, e.label)
}

// Fewer spares than fewSpares are warned of.
const fewSpares = 5

// Warnings says what an operator should do about the shards.
func (r *Registry) Warnings() (list []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(r.shards)) {
		s := r.shards[name].now()
		say := func(format string, args ...any) {
			list = append(list, fmt.Sprintf("shard %q: ", name)+fmt.Sprintf(format, args...))
		}
		for _, err := range r.shards[name].trouble {
			say("%v", err)
		}
		if n := s.Lines(); n > ShardMost {
			say("its replicas answer for %d addresses, and each makes every introduction slower: put new customers into another shard, of %d", n, ShardSize)
		}
		switch {
		case s.Spares >= fewSpares:
		case s.Spares == 0 && s.Pending > 0:
			say("it has no spare key for a new customer; %s will be there once the replicas were restarted with their new ob_config (balancer shard installed %s)", printable.Count(s.Pending, "spare"), name)
		case s.Spares == 0:
			say("it has no spare key for a new customer: balancer shard refill %s", name)
		default:
			say("it has only %s for new customers: balancer shard refill %s", printable.Count(s.Spares, "spare key"), name)
		}
	}
	return list
}
