// Package probe has the keys of probe addresses.
//
// A probe address is an onion address of the manager's own for one instance. It is in
// the instance's ob_config, as the public address is, and the manager publishes it
// with that instance's introduction points alone, readable for nobody else. So a visit of
// it shows that the instance answers those who come by an address of its ob_config,
// and which instance it was.
package probe

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
	"onionbalancer/internal/state"
)

// Store keeps the keys, as *state.DB does.
type Store interface {
	Probe(instance descriptor.Address) (state.Probe, uint64, error)
	SwapProbe(instance descriptor.Address, version uint64, p state.Probe) (uint64, error)
}

// Key is the key of a probe address, and the custodian of it: it reads the identity key
// from the store for each certificate, once a day and at a start.
type Key struct {
	store    Store
	instance descriptor.Address
	address  descriptor.Address
	client   *descriptor.ClientKey
}

// Open returns the key of the probe address of an instance, and makes it if there is none.
func Open(store Store, instance descriptor.Address) (*Key, error) {
	k, err := find(store, instance)
	if err == nil && k == nil {
		if err = create(store, instance, rand.Reader); err == nil || errors.Is(err, state.ErrConflict) {
			k, err = find(store, instance)
		}
	}
	if err == nil && k == nil {
		err = errGone
	}
	if err != nil {
		return nil, fmt.Errorf("opening the probe address of %s: %w", instance.Short(), err)
	}
	return k, nil
}

var errGone = errors.New("its key is no longer stored")

// Find returns the probe address of an instance, the zero Address if it has none yet.
func Find(store Store, instance descriptor.Address) (descriptor.Address, error) {
	k, err := find(store, instance)
	if err != nil || k == nil {
		return descriptor.Address{}, err
	}
	return k.address, nil
}

// find returns the stored key, nil if there is none.
func find(store Store, instance descriptor.Address) (*Key, error) {
	stored, version, err := store.Probe(instance)
	defer stored.Erase()
	if err != nil || version == 0 {
		return nil, err
	}
	k := &Key{store: store, instance: instance}
	locked.Do(func() {
		if k.client, err = descriptor.NewClientKey(bytes.NewReader(stored.Client[:])); err != nil {
			return
		}
		err = withIdentity(&stored, func(key *descriptor.IdentityKey) error {
			k.address = key.Address()
			return nil
		})
	})
	locked.CollectSoon()
	if err != nil {
		return nil, err
	}
	return k, nil
}

// create makes and stores a key.
func create(store Store, instance descriptor.Address, random io.Reader) error {
	var fresh state.Probe
	defer fresh.Erase()
	for _, secret := range []*state.Secret{&fresh.Seed, &fresh.Client} {
		if _, err := io.ReadFull(random, secret[:]); err != nil {
			return err
		}
	}
	_, err := store.SwapProbe(instance, 0, fresh)
	return err
}

func withIdentity(stored *state.Probe, use func(*descriptor.IdentityKey) error) error {
	key, err := descriptor.IdentityKeyFromSeed(stored.Seed[:])
	if err != nil {
		return err
	}
	defer key.Wipe()
	return use(key)
}

// Address returns the probe address.
func (k *Key) Address() descriptor.Address { return k.address }

// Client returns the key of the one client.
func (k *Key) Client() *descriptor.ClientKey { return k.client }

// Certify implements credential.Custodian.
func (k *Key) Certify(ctx context.Context, p descriptor.Period, signing ed25519.PublicKey, expiries descriptor.Expiries) (certs descriptor.HourlyCertificates, err error) {
	err = k.withBlinded(ctx, p, func(blinded *descriptor.BlindedKey) (err error) {
		certs, err = blinded.CertifyHours([32]byte(signing), expiries)
		return err
	})
	return certs, err
}

// RevisionKey implements credential.Custodian.
func (k *Key) RevisionKey(ctx context.Context, p descriptor.Period) (key descriptor.RevisionKey, err error) {
	err = k.withBlinded(ctx, p, func(blinded *descriptor.BlindedKey) error {
		key = blinded.RevisionKey()
		return nil
	})
	return key, err
}

// Close implements credential.Custodian.
func (k *Key) Close() error { return nil }

// withBlinded reads the identity key, has use use the one of a period, and wipes both.
func (k *Key) withBlinded(ctx context.Context, p descriptor.Period, use func(*descriptor.BlindedKey) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	stored, version, err := k.store.Probe(k.instance)
	defer stored.Erase()
	if err == nil && version == 0 {
		err = errGone
	}
	if err != nil {
		return fmt.Errorf("reading the key of a probe address: %w", err)
	}
	defer locked.CollectSoon()
	return withIdentity(&stored, func(key *descriptor.IdentityKey) error {
		if key.Address() != k.address {
			return errors.New("the stored key of a probe address is another one now")
		}
		blinded, err := key.Blind(p)
		if err != nil {
			return err
		}
		defer blinded.Wipe()
		return use(blinded)
	})
}

// Line is the line of an ob_config that names an address.
func Line(a descriptor.Address) string { return "MasterOnionAddress " + a.String() }
