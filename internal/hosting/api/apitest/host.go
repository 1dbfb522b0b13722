// Package apitest has an api.Host in memory, for tests of what speaks the API.
package apitest

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/hosting"
	"onionbalancer/internal/hosting/api"
)

// Host keeps customers in memory. Each is confirmed at once.
type Host struct {
	Err  error // of all that can fail
	Kept int   // how many events are kept; 0: all

	mu        sync.Mutex
	shards    map[string]*hosting.Shard
	customers []*customer          // by label
	names     map[string]*customer // who has a name, or had it last
	requests  map[string]*customer
	made      uint64 // addresses
	events    []api.Event
	last      uint64 // of the events
	more      chan struct{}
}

type customer struct {
	hosting.Customer
	label string
}

// New returns a host of shards, with as many spares each.
func New(spares int, shards ...string) *Host {
	h := &Host{shards: make(map[string]*hosting.Shard), names: make(map[string]*customer), requests: make(map[string]*customer), more: make(chan struct{})}
	for _, name := range shards {
		h.shards[name] = &hosting.Shard{Name: name, Spares: spares}
	}
	return h
}

// Add implements api.Host.
func (h *Host) Add(_ context.Context, name, shard, request string) (api.Detail, bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.Err != nil {
		return api.Detail{}, false, h.Err
	}
	if c := h.requests[request]; c != nil {
		if name != "" && name != c.Name {
			return api.Detail{}, false, fmt.Errorf("adding a customer: %w", hosting.ErrConflict)
		}
		return h.detail(c), false, nil
	}
	if c := h.names[name]; c != nil && c.State != hosting.Removed {
		if shard != "" && shard != c.Shard {
			return api.Detail{}, false, fmt.Errorf("%q: %w", name, hosting.ErrTaken)
		}
		return h.detail(c), false, nil
	}
	if strings.ContainsAny(name, "/ ") || len(name) > 128 {
		return api.Detail{}, false, fmt.Errorf("%q: %w", name, hosting.ErrName)
	}
	s := h.roomiest(shard)
	switch {
	case s == nil:
		return api.Detail{}, false, fmt.Errorf("%q: %w", shard, hosting.ErrNoShard)
	case s.Spares == 0:
		return api.Detail{}, false, fmt.Errorf("%q: %w", s.Name, hosting.ErrNoSpare)
	}
	h.made++
	c := &customer{Customer: hosting.Customer{Name: name, Address: Address(h.made), Shard: s.Name, State: hosting.Active, Added: now(), Since: now(), Request: request}}
	if c.label = c.Address.Label(); name == "" {
		c.Name = c.label
	}
	s.Spares--
	s.Active++
	n, _ := h.search(c.label)
	h.customers = slices.Insert(h.customers, n, c)
	h.names[c.Name] = c
	if request != "" {
		h.requests[request] = c
	}
	h.note(c, "added")
	h.note(c, "confirmed")
	return h.detail(c), true, nil
}

func (h *Host) roomiest(name string) (best *hosting.Shard) {
	if name != "" {
		return h.shards[name]
	}
	for _, n := range slices.Sorted(maps.Keys(h.shards)) {
		if s := h.shards[n]; best == nil || s.Spares > best.Spares {
			best = s
		}
	}
	return best
}

// Address returns the n-th of an endless row of addresses, whose keys nobody keeps.
func Address(n uint64) descriptor.Address {
	var seed [ed25519.SeedSize]byte
	binary.BigEndian.PutUint64(seed[:], n)
	return descriptor.Address(ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey))
}

// Change implements api.Host. All replicas know all addresses.
func (h *Host) Change(_ context.Context, whom string, change api.Change) (api.Detail, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c, err := h.find(whom)
	if err != nil {
		return api.Detail{}, err
	}
	from := h.shards[c.Shard]
	switch {
	case c.State == hosting.Removed && change.To != hosting.Removed:
		return api.Detail{}, fmt.Errorf("%q: %w", whom, hosting.ErrRemoved)
	case change.Shard != "":
		to := h.shards[change.Shard]
		if to == nil {
			return api.Detail{}, fmt.Errorf("%q: %w", change.Shard, hosting.ErrNoShard)
		}
		if to != from {
			*count(from, c.State)--
			*count(to, c.State)++
			c.Shard, c.Since = to.Name, now()
			h.note(c, "moved")
		}
	case c.State != change.To:
		*count(from, c.State)--
		*count(from, change.To)++
		c.State, c.Since = change.To, now()
		h.note(c, map[hosting.State]string{hosting.Active: "resumed", hosting.Suspended: "suspended", hosting.Removed: "removed"}[c.State])
	}
	return h.detail(c), nil
}

func count(s *hosting.Shard, state hosting.State) *int {
	switch state {
	case hosting.Suspended:
		return &s.Suspended
	case hosting.Removed:
		return &s.Removed
	}
	return &s.Active
}

// find returns a customer by name or address.
func (h *Host) find(customer string) (*customer, error) {
	if h.Err != nil {
		return nil, h.Err
	}
	if n, is := h.search(strings.TrimSuffix(customer, ".onion")); is {
		return h.customers[n], nil
	}
	if c := h.names[customer]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("%q: %w", customer, hosting.ErrUnknown)
}

func (h *Host) search(label string) (int, bool) {
	return slices.BinarySearchFunc(h.customers, label, func(c *customer, label string) int { return strings.Compare(c.label, label) })
}

func (h *Host) detail(c *customer) api.Detail {
	d := api.Detail{Customer: c.Customer, Slots: 16, Stored: 16, Answered: true}
	d.Confirmed = c.Since
	if c.State == hosting.Active {
		d.Points = 6
	} else {
		d.Forgotten = c.Since.Add(27 * time.Hour)
		d.Notes = []string{"the replicas answer for it until they are restarted without it"}
	}
	return d
}

// Customer implements api.Host.
func (h *Host) Customer(customer string) (api.Detail, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c, err := h.find(customer)
	if err != nil {
		return api.Detail{}, err
	}
	return h.detail(c), nil
}

// List implements api.Host.
func (h *Host) List(q api.Query) (page api.Page, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.Err != nil {
		return page, h.Err
	}
	if q.Shard != "" && h.shards[q.Shard] == nil {
		return page, fmt.Errorf("%q: %w", q.Shard, hosting.ErrNoShard)
	}
	for _, c := range h.customers {
		if c.label <= q.After || q.Shard != "" && c.Shard != q.Shard || !strings.HasPrefix(c.Name, q.Name) ||
			q.State != c.State && (q.State != "" || c.State == hosting.Removed) {
			continue
		}
		if len(page.Customers) == q.Limit {
			page.Next = page.Customers[q.Limit-1].Address.Label()
			break
		}
		page.Customers = append(page.Customers, c.Customer)
	}
	return page, nil
}

// Shards implements api.Host.
func (h *Host) Shards() (list []hosting.Shard) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(h.shards)) {
		list = append(list, *h.shards[name])
	}
	return list
}

// Installed implements api.Host.
func (h *Host) Installed(_ context.Context, shard string) (hosting.Shard, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.shards[shard]
	if h.Err != nil {
		return hosting.Shard{}, h.Err
	}
	if s == nil {
		return hosting.Shard{}, fmt.Errorf("%q: %w", shard, hosting.ErrNoShard)
	}
	s.Spares, s.Pending = s.Spares+s.Pending, 0
	return *s, nil
}

// Events implements api.Host.
func (h *Host) Events(after uint64) (events []api.Event, lost bool, more <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if after > h.last {
		return h.events, true, h.more // of another store
	}
	for _, e := range h.events {
		if e.ID > after {
			events = append(events, e)
		}
	}
	return events, uint64(len(events)) != h.last-after, h.more
}

func (h *Host) note(c *customer, kind string) {
	h.last++
	h.events = append(h.events, api.Event{ID: h.last, At: now(), Kind: kind, Shard: c.Shard, Customer: c.Name, Address: c.Address.String(), Request: c.Request, Text: "the customer was " + kind})
	if h.Kept > 0 && len(h.events) > h.Kept {
		h.events = slices.Clone(h.events[1:])
	}
	close(h.more)
	h.more = make(chan struct{})
}

func now() time.Time { return time.Now().UTC() }
