package offline

import (
	"cmp"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"

	"onionbalancer/descriptor"
)

// MaxPart is the most bytes that a QR code of version 40 with medium error
// correction holds.
const MaxPart = 2331

// keysInPart is how many signing keys fit into a part of a request.
const keysInPart = 40

// Split returns the bundle in parts of one entry each, smaller than MaxPart.
func (b *Bundle) Split() ([][]byte, error) {
	var parts [][]byte
	for _, e := range b.Entries {
		part, err := encodePart(newBundle(b.Schedule, []Entry{e}))
		if err != nil {
			return nil, fmt.Errorf("splitting a bundle: %w", err)
		}
		parts = append(parts, part)
	}
	return parts, nil
}

// Split returns the request in parts, smaller than MaxPart, each a request for
// some periods of one address. JoinRequests undoes it.
func (r *Request) Split() ([][]byte, error) {
	var parts [][]byte
	for _, w := range r.Services {
		first := r.First
		for keys := range slices.Chunk(w.Keys, keysInPart) {
			one := *r
			one.First = first
			one.Services = []Wanted{{Address: w.Address, CertifiedThrough: w.CertifiedThrough, Keys: keys}}
			part, err := encodePart(&one)
			if err != nil {
				return nil, fmt.Errorf("splitting a request: %w", err)
			}
			parts = append(parts, part)
			first += uint64(len(keys))
		}
	}
	return parts, nil
}

func encodePart(doc any) ([]byte, error) {
	part, err := compact(doc)
	if err == nil && len(part) >= MaxPart {
		err = fmt.Errorf("a part of %d bytes, want less than %d", len(part), MaxPart)
	}
	return part, err
}

// JoinRequests puts the parts of one request together again, in whatever order
// they are. The fingerprint is that of the whole. One whole request is fine.
func JoinRequests(parts []*Request) (*Request, error) {
	r, err := join(parts)
	if err != nil {
		return nil, fmt.Errorf("putting the parts of a request together: %w", err)
	}
	return r, nil
}

func join(parts []*Request) (*Request, error) {
	if len(parts) == 0 {
		return nil, errors.New("there are none")
	}
	if len(parts) == 1 {
		return parts[0], nil
	}
	sorted := slices.Clone(parts)
	slices.SortStableFunc(sorted, func(a, b *Request) int { return cmp.Compare(a.First, b.First) })
	whole := *sorted[0]
	whole.Services = nil
	keys := map[descriptor.Address]*Wanted{}
	for _, part := range sorted {
		if part.Schedule != whole.Schedule || !part.Made.Equal(whole.Made) {
			return nil, errors.New("they are of different requests")
		}
		for _, w := range part.Services {
			if err := whole.add(keys, part.First, w); err != nil {
				return nil, fmt.Errorf("%s: %w", w.Address.Short(), err)
			}
		}
	}
	for _, w := range keys {
		whole.Services = append(whole.Services, *w)
	}
	sortServices(whole.Services)
	if err := whole.validate(); err != nil {
		return nil, fmt.Errorf("%w: is a part missing?", err)
	}
	return &whole, nil
}

// add puts the keys of the periods from first on behind those that r has of the
// same address.
func (r *Request) add(have map[descriptor.Address]*Wanted, first uint64, w Wanted) error {
	old := have[w.Address]
	if old == nil {
		old = &Wanted{Address: w.Address, CertifiedThrough: w.CertifiedThrough}
		have[w.Address] = old
	}
	if old.CertifiedThrough != w.CertifiedThrough {
		return errors.New("the parts are of different requests")
	}
	switch at := r.First + uint64(len(old.Keys)); {
	case first > at:
		return fmt.Errorf("the part with period %d is missing", at)
	case first < at:
		return r.same(old, first, w)
	}
	old.Keys = append(old.Keys, w.Keys...)
	return nil
}

// same fails unless what w has from period first on is in old already.
func (r *Request) same(old *Wanted, first uint64, w Wanted) error {
	from := int(first - r.First)
	if from+len(w.Keys) > len(old.Keys) || !slices.EqualFunc(old.Keys[from:from+len(w.Keys)], w.Keys, func(a, b ed25519.PublicKey) bool { return a.Equal(b) }) {
		return fmt.Errorf("two parts contradict each other about period %d or one after it", first)
	}
	return nil
}

// sortServices brings services into the one order that requests have them in.
func sortServices(list []Wanted) {
	slices.SortFunc(list, func(a, b Wanted) int { return cmp.Compare(a.Address.Label(), b.Address.Label()) })
}
