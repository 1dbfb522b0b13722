// Package credential provides the keys that sign a service's descriptors: it asks the
// custodian of the identity key to certify a descriptor-signing key for each
// period, keeps the certified keys as Credentials, and renews them. Custodians and
// signing keys may hang or fail for a while, so all calls to them are made in the
// background; a Keeper's own methods return at once.
package credential

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"

	"onionbalancer/descriptor"
)

// Custodian certifies for a service: a key on disk, a token, or a bundle made
// offline. A call may take long or fail for a while; it is retried. A call returns
// soon after its context ends.
type Custodian interface {
	// Address returns the public half of the identity key.
	Address() descriptor.Address
	// Certify signs certificates for a descriptor-signing key, to be used in p: one
	// for each hour. expiries are only requested: certificates made earlier may expire
	// sooner or later, and there may be a single one.
	Certify(ctx context.Context, p descriptor.Period, signing ed25519.PublicKey, expiries descriptor.Expiries) (descriptor.HourlyCertificates, error)
	// RevisionKey returns the key of the revision counters of p.
	RevisionKey(ctx context.Context, p descriptor.Period) (descriptor.RevisionKey, error)
	// Close releases the key. It may be called more than once.
	Close() error
}

// SigningKeys gives the descriptor-signing key of a period: an Ed25519 key in
// memory, in a token, or made ahead for an offline custodian. Calls may take long
// or fail for a while, and return soon after their context ends. The keys that it
// returned may be used until Close.
type SigningKeys interface {
	// SigningKey returns the key of p: the existing one, or a new one.
	SigningKey(ctx context.Context, p descriptor.Period) (crypto.Signer, error)
	// Retire destroys the keys of periods before all that are in use.
	Retire(ctx context.Context, inUse []descriptor.Period) error
	// Close releases the keys. It may be called more than once.
	Close() error
}

// A Supplier is a Custodian whose certificates were made ahead, and run out.
type Supplier interface {
	// Supply returns the last period of the uninterrupted run of certified
	// periods that from is in, and how many periods were certified together the
	// last time. ok is false if from itself is not certified. It returns at once,
	// with what Certify, Retire or Refresh last saw.
	Supply(from descriptor.Period) (last descriptor.Period, horizon int, ok bool)
}

// refresher is a Supplier that looks for new certificates when it is asked to.
type refresher interface {
	Refresh(ctx context.Context) error
}

// retirer is a Custodian that keeps something for each period.
type retirer interface {
	Retire(ctx context.Context, inUse []descriptor.Period) error
}

// Memory makes a new signing key for every call, and stores it only
// in the memory of the caller.
type Memory struct{}

// SigningKey makes a key.
func (Memory) SigningKey(context.Context, descriptor.Period) (crypto.Signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return key, err
}

// Retire does nothing: keys no longer used are not kept.
func (Memory) Retire(context.Context, []descriptor.Period) error { return nil }

// Close does nothing.
func (Memory) Close() error { return nil }

// Keys are the custodian and the signing keys of a service.
type Keys struct {
	Custodian Custodian
	Signing   SigningKeys
	// Reference identifies a custody: as long as it stays the same, certificates
	// made before stay valid.
	Reference string
	Gate      Gate   // that its custodian shares with others
	Form      string // of the identity key's custody, for people
	Where     string // the descriptor-signing keys are, for people
	// Release, if it is not nil, is called in the place of closing the keys, which somebody
	// else uses too.
	Release func() error
}

// same reports whether a and b are the very same keys.
func (a Keys) same(b Keys) bool { return a.Custodian == b.Custodian && a.Signing == b.Signing }
