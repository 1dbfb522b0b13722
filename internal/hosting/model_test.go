package hosting

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"onionbalancer/descriptor"
	"onionbalancer/internal/state/statetest"
)

// TestRegistryModel does anything in any order, opening the registry anew in between, and
// compares it with a model.
func TestRegistryModel(t *testing.T) {
	checks := flag.Lookup("rapid.checks")
	if before := checks.Value.String(); before == checks.DefValue { // each syncs directories
		defer func() { _ = checks.Value.Set(before) }()
		if err := checks.Value.Set("25"); err != nil {
			t.Fatal(err)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		m := newModel(t, rt)
		rt.Repeat(map[string]func(*rapid.T){
			"add":       m.add,
			"set":       m.set,
			"move":      m.move,
			"installed": m.installed,
			"refill":    m.refill,
			"erase":     m.erase,
			"reopen":    func(*rapid.T) { m.registry = m.open() },
			"configure": func(*rapid.T) { m.configure(m.registry) },
			"":          m.check,
		})
	})
}

// model is what a registry should have.
type model struct {
	t        *testing.T
	dirs     map[string]string
	store    Store
	registry *Registry
	keys     uint32 // made so far

	customers map[descriptor.Address]*Customer
	free      map[descriptor.Address]string   // the spares, with their shards
	pending   map[descriptor.Address]string   // no copies of a customer's key
	brought   map[descriptor.Address][]string // shards whose replicas are to know a customer's address
	known     map[descriptor.Address][]string // and those that do
	removed   map[string]map[descriptor.Address]bool
}

func newModel(t *testing.T, rt *rapid.T) *model {
	m := &model{
		t: t, dirs: map[string]string{}, store: statetest.Open(t, ""),
		customers: map[descriptor.Address]*Customer{}, free: map[descriptor.Address]string{}, pending: map[descriptor.Address]string{},
		brought: map[descriptor.Address][]string{}, known: map[descriptor.Address][]string{}, removed: map[string]map[descriptor.Address]bool{},
	}
	for _, name := range []string{"s1", "s2"} {
		m.dirs[name] = shardDir(t, name)
		m.removed[name] = map[descriptor.Address]bool{}
	}
	m.registry = m.open()
	m.refill(rt)
	return m
}

func (m *model) open() *Registry {
	r, err := Open(m.store, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		m.t.Fatal(err)
	}
	m.configure(r)
	return r
}

func (m *model) configure(r *Registry) {
	if err := r.Configure(m.t.Context(), m.dirs); err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) shard(rt *rapid.T) string {
	return rapid.SampledFrom([]string{"s1", "s2"}).Draw(rt, "shard")
}

func (m *model) name(rt *rapid.T) string {
	return rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(rt, "name")
}

// called returns the customer with a name, or who had it last; nil if nobody did.
func (m *model) called(name string) (last *Customer) {
	for _, c := range m.customers {
		if c.Name == name && (last == nil || last.State == Removed && (c.State != Removed || c.Since.After(last.Since))) {
			last = c
		}
	}
	return last
}

func (m *model) add(rt *rapid.T) {
	name, shard := m.name(rt), rapid.SampledFrom([]string{"", "s1", "s2"}).Draw(rt, "shard")
	request := fmt.Sprint("r", rapid.IntRange(0, 6).Draw(rt, "request"))
	got, added, err := m.registry.Add(m.t.Context(), name, shard, request)
	var asked *Customer
	for _, c := range m.customers {
		if c.Request == request {
			asked = c
		}
	}
	there := m.called(name)
	spares := map[string]int{}
	for _, s := range m.free {
		spares[s]++
		spares[""]++
	}
	switch {
	case asked != nil && asked.Name != name:
		m.wants(rt, err, ErrConflict)
	case asked != nil:
		m.gives(rt, got, err, added, asked)
	case there != nil && there.State != Removed && shard != "" && there.Shard != shard:
		m.wants(rt, err, ErrTaken)
	case there != nil && there.State != Removed:
		m.gives(rt, got, err, added, there)
	case spares[shard] == 0:
		m.wants(rt, err, ErrNoSpare)
	case err != nil || !added || m.free[got.Address] != got.Shard || shard != "" && got.Shard != shard || got.Name != name || got.State != Active || got.Request != request:
		rt.Fatalf("added %+v, %t, %v", got, added, err)
	default:
		if spares["s1"] != spares["s2"] && shard == "" && spares[got.Shard]*2 < spares[""] {
			rt.Fatalf("the shard %s has the fewest spares: %v", got.Shard, spares)
		}
		delete(m.free, got.Address)
		m.customers[got.Address] = &got
	}
}

func (m *model) wants(rt *rapid.T, err, want error) {
	if !errors.Is(err, want) {
		rt.Fatalf("%v, want %v", err, want)
	}
}

func (m *model) gives(rt *rapid.T, got Customer, err error, changed bool, want *Customer) {
	if err != nil || changed || got != *want {
		rt.Fatalf("%+v, %t, %v, want %+v", got, changed, err, want)
	}
}

func (m *model) set(rt *rapid.T) {
	name, to := m.name(rt), rapid.SampledFrom([]State{Active, Suspended, Removed}).Draw(rt, "state")
	c := m.called(name)
	got, changed, err := m.registry.Set(m.t.Context(), name, to, "")
	switch {
	case c == nil:
		m.wants(rt, err, ErrUnknown)
	case c.State == to:
		m.gives(rt, got, err, changed, c)
	case c.State == Removed:
		m.wants(rt, err, ErrRemoved)
	default:
		c.State, c.Since = to, got.Since
		if to == Removed {
			c.MovingTo = ""
		}
		m.gives(rt, got, err, !changed, c)
		if to == Removed {
			m.removed[c.Shard][c.Address] = true
			m.cancel(c)
		}
	}
}

func (m *model) move(rt *rapid.T) {
	name, to := m.name(rt), m.shard(rt)
	c := m.called(name)
	got, moved, err := m.registry.Move(m.t.Context(), name, to, "")
	switch {
	case c == nil:
		m.wants(rt, err, ErrUnknown)
	case c.State == Removed:
		m.wants(rt, err, ErrRemoved)
	case c.Shard == to:
		c.MovingTo = ""
		m.gives(rt, got, err, moved, c)
		m.cancel(c)
	case slices.Contains(m.known[c.Address], to):
		m.removed[c.Shard][c.Address] = true
		c.Shard, c.MovingTo, c.Since = to, "", got.Since
		m.gives(rt, got, err, !moved, c)
		m.known[c.Address] = nil
	default:
		c.MovingTo = to
		m.gives(rt, got, err, moved, c)
		if !slices.Contains(m.brought[c.Address], to) {
			m.brought[c.Address] = append(m.brought[c.Address], to)
		}
	}
}

// cancel forgets that a customer is to move: a shard that knows it keeps it as a removed one.
func (m *model) cancel(c *Customer) {
	for _, shard := range m.known[c.Address] {
		m.removed[shard][c.Address] = true
	}
	delete(m.known, c.Address)
	delete(m.brought, c.Address)
}

func (m *model) installed(rt *rapid.T) {
	shard := m.shard(rt)
	if _, err := m.registry.Installed(m.t.Context(), shard); err != nil {
		rt.Fatal(err)
	}
	maps.DeleteFunc(m.pending, func(a descriptor.Address, s string) bool {
		if s == shard {
			m.free[a] = shard
		}
		return s == shard
	})
	for a, list := range m.brought {
		if slices.Contains(list, shard) {
			m.brought[a] = slices.DeleteFunc(list, func(s string) bool { return s == shard })
			m.known[a] = append(m.known[a], shard)
		}
	}
}

func (m *model) refill(rt *rapid.T) {
	shard := m.shard(rt)
	for range rapid.IntRange(0, 3).Draw(rt, "keys") {
		m.keys++
		a := writeKey(m.t, m.keys, func(a descriptor.Address) string { return filepath.Join(m.dirs[shard], pendingDir, a.Label()) })
		m.pending[a] = shard
	}
}

// erase erases the keys of a shard's removed customers, whom its replicas know no more.
func (m *model) erase(rt *rapid.T) {
	shard := m.shard(rt)
	for a := range m.removed[shard] {
		if err := os.RemoveAll(filepath.Join(m.dirs[shard], removedDir, a.Label())); err != nil {
			rt.Fatal(err)
		}
		if c := m.customers[a]; c != nil && c.State == Removed && c.Shard == shard {
			delete(m.customers, a)
		}
	}
	clear(m.removed[shard])
	if err := m.registry.Refresh(m.t.Context()); err != nil {
		rt.Fatal(err)
	}
}

func (m *model) check(rt *rapid.T) {
	want := []Shard{{Name: "s1"}, {Name: "s2"}}
	for n := range want {
		s := &want[n]
		s.Removed = len(m.removed[s.Name])
		for _, c := range m.customers {
			if c.Shard == s.Name && c.State == Active {
				s.Active++
			} else if c.Shard == s.Name && c.State == Suspended {
				s.Suspended++
			}
		}
		for _, shard := range m.free {
			if shard == s.Name {
				s.Spares++
			}
		}
	}
	got := m.registry.Shards()
	for n := range got {
		got[n].Pending = 0 // which is counted now and then only
	}
	if !slices.Equal(got, want) {
		rt.Fatalf("shards %+v, want %+v", got, want)
	}
	all := m.registry.All()
	if len(all) != len(m.customers) || !slices.IsSortedFunc(all, func(a, b Customer) int { return cmp.Compare(a.Address.Label(), b.Address.Label()) }) {
		rt.Fatalf("%d customers, want %d; in order: %+v", len(all), len(m.customers), all)
	}
	for _, c := range all {
		if c != *m.customers[c.Address] {
			rt.Fatalf("%+v, want %+v", c, m.customers[c.Address])
		}
		ref, err := m.registry.Reference(c.Address, "")
		if _, missing := os.Stat(filepath.Join(ref, torKey)); errors.Join(err, missing) != nil {
			rt.Fatalf("the key of %+v: %v", c, errors.Join(err, missing))
		}
	}
}
