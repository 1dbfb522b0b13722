package offline

import (
	"errors"
	"fmt"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
)

// Sign does what needs the identity keys, of which there must be one for each
// address of the request and no other: it certifies every signing key, takes
// the keys of the revision counters, signs every entry, and verifies all of it
// again before it returns anything. now is the offline machine's clock.
func (r *Request) Sign(keys []*descriptor.IdentityKey, now time.Time) (*Bundle, error) {
	if err := r.validate(); err != nil {
		return nil, fmt.Errorf("signing a request: %w", err)
	}
	byAddress, err := r.match(keys)
	if err != nil {
		return nil, fmt.Errorf("signing a request: %w", err)
	}
	name, err := r.Fingerprint()
	if err != nil {
		return nil, err
	}
	var entries []Entry
	locked.Do(func() { entries, err = r.entries(byAddress, name, stamp(now)) })
	if err != nil {
		return nil, err
	}
	b := newBundle(r.Schedule, entries)
	if err := b.validate(); err != nil {
		return nil, fmt.Errorf("checking the bundle just made: %w", err)
	}
	return b, nil
}

// entries signs all that r asks for.
func (r *Request) entries(keys map[descriptor.Address]*descriptor.IdentityKey, name Fingerprint, made time.Time) ([]Entry, error) {
	var list []Entry
	for _, w := range r.Services {
		for i, signing := range w.Keys {
			e := Entry{Address: w.Address, Period: r.First + uint64(i), Periods: r.Periods(), Made: made, Request: name}
			if err := e.sign(r.Schedule, keys[w.Address], [32]byte(signing)); err != nil {
				return nil, fmt.Errorf("signing for %s, period %d: %w", w.Address.Short(), e.Period, err)
			}
			list = append(list, e)
		}
	}
	return list, nil
}

// Match reports whether keys are those of the request's addresses.
func (r *Request) Match(keys []*descriptor.IdentityKey) error {
	_, err := r.match(keys)
	return err
}

func (r *Request) match(keys []*descriptor.IdentityKey) (map[descriptor.Address]*descriptor.IdentityKey, error) {
	given := map[descriptor.Address]*descriptor.IdentityKey{}
	for _, key := range keys {
		if given[key.Address()] != nil {
			return nil, fmt.Errorf("the key of %s was given twice", key.Address().Short())
		}
		given[key.Address()] = key
	}
	var errs []error
	wanted := map[descriptor.Address]bool{}
	for _, w := range r.Services {
		wanted[w.Address] = true
		if given[w.Address] == nil {
			errs = append(errs, fmt.Errorf("no key was given for %s", w.Address))
		}
	}
	for _, key := range keys {
		if !wanted[key.Address()] {
			errs = append(errs, fmt.Errorf("a key was given for %s, which is not in the request", key.Address()))
		}
	}
	return given, errors.Join(errs...)
}

// sign fills in the certificate, the revision key and the signature of e. The
// blinded secret lives no longer than this call.
func (e *Entry) sign(s Schedule, key *descriptor.IdentityKey, signing [32]byte) error {
	blinded, err := key.Blind(s.Period(e.Period))
	if err != nil {
		return err
	}
	defer blinded.Wipe()
	cert, err := blinded.Certify(signing, s.Expiry(e.Period))
	if err != nil {
		return err
	}
	e.Certificate, e.RevisionKey = cert.Bytes(), blinded.RevisionKey().Bytes()
	if e.Signature, err = key.Sign(e.message(s)); err != nil {
		return err
	}
	if _, err := e.verify(s); err != nil {
		return fmt.Errorf("checking the entry just made: %w", err)
	}
	return nil
}
