package hosting

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"onionbalancer/descriptor"
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

// Of returns the customer with an address.
func (r *Registry) Of(a descriptor.Address) (c Customer, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.find(a)
	if e == nil || e.version == 0 {
		return Customer{}, false
	}
	return e.Customer, true
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
	case e.was != nil && e.was.shard == e.Shard:
		return e.was.sub
	case e.State == Removed && e.keyed:
		return filepath.Join(removedDir, e.label)
	case e.State == Removed || e.keyed:
		return e.Name
	}
	return filepath.Join(sparesDir, e.label)
}

// Warnings says what an operator should do about a shard.
func (r *Registry) Warnings(name string) (list []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	shard := r.shards[name]
	if shard == nil {
		return nil
	}
	for _, err := range shard.trouble {
		list = append(list, err.Error())
	}
	for _, t := range shard.now().Troubles() {
		list = append(list, t.Detail+": "+t.Fix)
	}
	return list
}
