package cluster

import (
	"bytes"
	"maps"
	"slices"
	"strings"

	"onionbalancer/internal/state"
)

// record is a record as the mirror has it.
type record struct {
	name    string    // in the engine
	key     state.Key // empty if it never opened
	version int64
	value   []byte // nil if err, and of a secret
	sealed  []byte // of a secret: it stays sealed in memory
	size    int    // of the sealed value
	header  header // of it
	lease   Lease
	err     error // why it does not open
}

// mirror is what the engine has, in memory. Changes come out of order, from the watch, from
// transactions and from reading everything: that of the highest version stays.
type mirror struct {
	names map[string]*record
	keys  map[state.Key]*record // that opened, now or before
	order []state.Key           // of keys, sorted
	gone  map[string]int64      // names deleted after through: the revision of that
	bytes int                   // of the sealed values
	open  func([]Item) []opened // opens secrets

	through int64 // revision up to which nothing is missing
}

func newMirror(open func([]Item) []opened) *mirror {
	return &mirror{open: open, names: make(map[string]*record), keys: make(map[state.Key]*record), gone: make(map[string]int64)}
}

// stale reports whether the mirror knows better than an item: it has a higher version, or
// the item was deleted since.
func (m *mirror) stale(item Item) bool {
	if r := m.names[item.Key]; r != nil {
		return r.version > item.Version || r.version == item.Version && r.err == nil
	}
	return max(m.through, m.gone[item.Key]) >= item.Version
}

// contradicted reports whether items that the engine had at a revision show that it went back,
// or that a watch left something out:
// the mirror has a newer version from before that revision, another value of the same version,
// or nothing where it should have something.
func (m *mirror) contradicted(items []Item, revision int64) bool {
	return slices.ContainsFunc(items, func(item Item) bool {
		r := m.names[item.Key]
		switch {
		case item.Version == 0:
			return false
		case r == nil:
			return item.Version <= m.through && m.through <= revision && m.gone[item.Key] <= revision
		}
		return item.Version < r.version && r.version <= revision || item.Version == r.version && headerOf(item.Value) != r.header
	})
}

// put takes an item in and returns the key that it changes, empty if that is none or not
// known.
func (m *mirror) put(item Item, o opened) state.Key {
	if m.stale(item) {
		return ""
	}
	r := m.names[item.Key]
	if r == nil {
		r = &record{name: item.Key}
		m.names[item.Key] = r
	} else if r.version == item.Version && o.err != nil {
		return "" // it does not open now either
	}
	delete(m.gone, item.Key)
	m.bytes += len(item.Value) - r.size
	r.version, r.value, r.size, r.header, r.lease, r.err = item.Version, o.value, len(item.Value), headerOf(item.Value), item.Lease, o.err
	r.sealed = nil
	if o.err == nil && strings.HasPrefix(string(o.key), state.SecretPrefix) {
		clear(o.value)
		r.value, r.sealed = nil, item.Value
	}
	if r.key == "" && o.err == nil {
		r.key = o.key
		m.keys[r.key] = r
		if at, found := slices.BinarySearch(m.order, r.key); !found {
			m.order = slices.Insert(m.order, at, r.key)
		}
	}
	return r.key
}

// remove takes out what is not there at a revision, and returns its key as put does.
func (m *mirror) remove(name string, revision int64) state.Key {
	r := m.names[name]
	if r != nil && r.version > revision {
		return ""
	}
	if revision > m.through {
		m.gone[name] = max(m.gone[name], revision)
	}
	if r == nil {
		return ""
	}
	delete(m.names, name)
	m.bytes -= r.size
	if r.key != "" {
		delete(m.keys, r.key)
		if at, found := slices.BinarySearch(m.order, r.key); found {
			m.order = slices.Delete(m.order, at, at+1)
		}
	}
	return r.key
}

// replace makes the mirror what was read at a revision and does not contradict it, apart from
// what is newer, and returns the keys that this changes.
func (m *mirror) replace(items []Item, all []opened, revision int64) []state.Key {
	var changed []state.Key
	there := make(map[string]bool, len(items))
	for i, item := range items {
		there[item.Key] = true
		changed = append(changed, m.put(item, all[i]))
	}
	for name := range m.names {
		if !there[name] {
			changed = append(changed, m.remove(name, revision))
		}
	}
	m.reached(revision)
	return changed
}

// count returns how many records the mirror has that are no newer than a revision.
func (m *mirror) count(revision int64) (n int) {
	for _, r := range m.names {
		if r.version <= revision {
			n++
		}
	}
	return n
}

// reached says that every change up to a revision is in the mirror.
func (m *mirror) reached(revision int64) {
	m.through = max(m.through, revision)
	maps.DeleteFunc(m.gone, func(_ string, at int64) bool { return at <= m.through })
}

// differences returns the keys whose records differ from another mirror's.
func (m *mirror) differences(other *mirror) []state.Key {
	var keys []state.Key
	for key, r := range m.keys {
		if o := other.keys[key]; o == nil || o.version != r.version || !bytes.Equal(o.value, r.value) || !bytes.Equal(o.sealed, r.sealed) || (o.err == nil) != (r.err == nil) {
			keys = append(keys, key)
		}
	}
	for key := range other.keys {
		if m.keys[key] == nil {
			keys = append(keys, key)
		}
	}
	return keys
}

// list returns copies of the records that open and whose keys begin with prefix, by key.
// Secrets are among them only if prefix asks for them.
func (m *mirror) list(prefix state.Key) []state.Entry {
	from, _ := slices.BinarySearch(m.order, prefix)
	to := from
	for to < len(m.order) && strings.HasPrefix(string(m.order[to]), string(prefix)) {
		to++
	}
	var list []state.Entry
	for _, key := range m.order[from:to] {
		if strings.HasPrefix(string(key), state.SecretPrefix) && !strings.HasPrefix(string(prefix), state.SecretPrefix) {
			continue
		}
		if e, err := m.entry(m.keys[key]); err == nil {
			list = append(list, e)
		}
	}
	return list
}

// entry returns a copy.
func (m *mirror) entry(r *record) (state.Entry, error) {
	e := state.Entry{Key: r.key, Version: uint64(r.version), Value: bytes.Clone(r.value)}
	if r.err == nil && r.sealed != nil {
		o := m.open([]Item{{Key: r.name, Value: r.sealed}})[0]
		e.Value = o.value
		return e, o.err
	}
	return e, r.err
}
