package offline

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"slices"

	"onionbalancer/descriptor"
)

// keysFile is a manager's signing keys for one address, which never leave it.
type keysFile struct {
	header
	Address descriptor.Address `json:"address"`
	Schedule
	Keys []keyPair `json:"keys"` // by period
}

// keyPair is the signing key of one period.
type keyPair struct {
	Period uint64            `json:"period"`
	Public ed25519.PublicKey `json:"public"`
	Seed   *seed             `json:"seed,omitempty"` // nil: the key is on a token
}

// Source makes signing keys, or finds them again: a token.
type Source interface {
	SigningKey(ctx context.Context, p descriptor.Period) (crypto.Signer, error)
}

func (f *keysFile) validate() error {
	if err := f.Schedule.validate(0, 0); err != nil {
		return err
	}
	for i, k := range f.Keys {
		if err := f.Schedule.validate(k.Period, 1); err != nil {
			return err
		}
		switch {
		case i > 0 && f.Keys[i-1].Period >= k.Period:
			return fmt.Errorf("the key of period %d is out of order, or there twice", k.Period)
		case len(k.Public) != ed25519.PublicKeySize:
			return fmt.Errorf("the public key of period %d has %d bytes", k.Period, len(k.Public))
		case k.Seed != nil && !bytes.Equal(k.Seed.public(), k.Public):
			return fmt.Errorf("the halves of the key of period %d do not belong together", k.Period)
		}
	}
	return nil
}

// of returns the key of a period, nil if there is none.
func (f *keysFile) of(number uint64) *keyPair {
	i, found := slices.BinarySearchFunc(f.Keys, number, func(k keyPair, n uint64) int { return cmp.Compare(k.Period, n) })
	if !found {
		return nil
	}
	return &f.Keys[i]
}

// wipe overwrites the secrets.
func (f *keysFile) wipe() {
	if f == nil {
		return
	}
	for _, k := range f.Keys {
		if k.Seed != nil {
			k.Seed.Wipe()
		}
	}
}

// ensure makes the keys of the given periods that are not there yet, in the
// source or, if that is nil, from random bytes, and reports whether it made any.
func (f *keysFile) ensure(ctx context.Context, first uint64, count int, source Source, random io.Reader) (bool, error) {
	before := len(f.Keys)
	for number := first; number < first+uint64(count); number++ {
		if k := f.of(number); k != nil {
			if err := k.agrees(ctx, f.Schedule.Period(number), source); err != nil {
				return false, err
			}
			continue
		}
		k, err := makeKey(ctx, f.Schedule.Period(number), source, random)
		if err != nil {
			return false, fmt.Errorf("making the signing key of period %d: %w", number, err)
		}
		f.Keys = append(f.Keys, k)
		slices.SortFunc(f.Keys, func(a, b keyPair) int { return cmp.Compare(a.Period, b.Period) })
	}
	return len(f.Keys) > before, nil
}

// agrees checks that k is where the keys of source are.
func (k *keyPair) agrees(ctx context.Context, p descriptor.Period, source Source) error {
	switch {
	case source == nil && k.Seed == nil:
		return fmt.Errorf("the signing key of period %d is on a token: say on which one, as before (--signing URI, or signing in the configuration)", k.Period)
	case source == nil:
		return nil
	case k.Seed != nil:
		return fmt.Errorf("the signing key of period %d is on the disk already: use a new directory for keys on a token", k.Period)
	}
	now, err := makeKey(ctx, p, source, nil)
	if err != nil {
		return fmt.Errorf("looking for the signing key of period %d on the token: %w", k.Period, err)
	}
	if !bytes.Equal(now.Public, k.Public) {
		return fmt.Errorf("the signing key of period %d that was made before is not on this token", k.Period)
	}
	return nil
}

func makeKey(ctx context.Context, p descriptor.Period, source Source, random io.Reader) (keyPair, error) {
	if source == nil {
		seed := newSeed()
		if _, err := io.ReadFull(random, seed.Bytes()); err != nil {
			return keyPair{}, err
		}
		return keyPair{Period: p.Number, Public: seed.public(), Seed: seed}, nil
	}
	signer, err := source.SigningKey(ctx, p)
	if err != nil {
		return keyPair{}, err
	}
	public, ok := signer.Public().(ed25519.PublicKey)
	if !ok {
		return keyPair{}, errors.New("the token's key is no Ed25519 key")
	}
	return keyPair{Period: p.Number, Public: public}, nil
}
