package offline

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"onionbalancer/descriptor"
)

// Bundle is what a ceremony gives: entries that each stand for themselves. A
// manager keeps what it installed in the same form.
type Bundle struct {
	header
	Schedule
	Entries []Entry `json:"entries"` // by address and period
}

// maxEntries bounds a bundle.
const maxEntries = MaxPeriods * MaxServices

// newBundle sorts entries into a bundle.
func newBundle(s Schedule, entries []Entry) *Bundle {
	slices.SortStableFunc(entries, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Address.Label(), b.Address.Label()), cmp.Compare(a.Period, b.Period))
	})
	return &Bundle{header: header{kindBundle, version}, Schedule: s, Entries: entries}
}

// ParseBundle reads a bundle, strictly. It verifies no signature: that needs
// Entry.Verify.
func ParseBundle(raw []byte) (*Bundle, error) {
	var b Bundle
	err := decode(raw, kindBundle, &b)
	if err == nil {
		err = b.validate()
	}
	if err != nil {
		return nil, fmt.Errorf("reading a bundle: %w", err)
	}
	return &b, nil
}

// Encode returns the bundle as a file has it.
func (b *Bundle) Encode() ([]byte, error) { return encode(b) }

// Of returns the entries of one address, in order of their periods.
func (b *Bundle) Of(a descriptor.Address) []Entry {
	var list []Entry
	for _, e := range b.Entries {
		if e.Address == a {
			list = append(list, e)
		}
	}
	return list
}

// Addresses returns the addresses that b has entries of.
func (b *Bundle) Addresses() []descriptor.Address {
	var list []descriptor.Address
	for _, e := range b.Entries {
		if len(list) == 0 || list[len(list)-1] != e.Address {
			list = append(list, e.Address)
		}
	}
	return list
}

func (b *Bundle) validate() error {
	if n := len(b.Entries); n < 1 || n > maxEntries {
		return fmt.Errorf("%d entries, want 1 to %d", n, maxEntries)
	}
	for i := range b.Entries {
		e := &b.Entries[i]
		if err := errors.Join(e.validate(), b.Schedule.validate(e.Period, 1)); err != nil {
			return fmt.Errorf("%s, period %d: %w", e.Address.Short(), e.Period, err)
		}
		if i == 0 {
			continue
		}
		if last := &b.Entries[i-1]; last.Address.Label() > e.Address.Label() || last.Address == e.Address && last.Period >= e.Period {
			return fmt.Errorf("%s, period %d: out of order, or there twice", e.Address.Short(), e.Period)
		}
	}
	return nil
}
