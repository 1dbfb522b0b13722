package balance

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"time"

	"onionbalancer/descriptor"
)

// Custodian is whoever can certify for a service: a key on disk, a token, or a
// bundle made offline. A call may take long or fail for a while; it is made
// again later. A call returns soon after its context ends.
type Custodian interface {
	// Address returns the public half of the identity key.
	Address() descriptor.Address
	// Certify signs a certificate for a descriptor-signing key, to be used in p.
	// expires is a wish: what was signed earlier may live shorter or longer.
	Certify(ctx context.Context, p descriptor.Period, signing ed25519.PublicKey, expires time.Time) (descriptor.Certificate, error)
	// RevisionKey returns the key of the revision counters of p.
	RevisionKey(ctx context.Context, p descriptor.Period) (descriptor.RevisionKey, error)
	// Close lets go of the key. It may be called more than once.
	Close() error
}

// SigningKeys gives the descriptor-signing key of a period: an Ed25519 key,
// here, in a token, or made ahead for an offline custodian. Calls may take long
// or fail for a while, and return soon after their context ends. The keys that
// it gave may be used until Close.
type SigningKeys interface {
	// SigningKey returns the key of p: the one that there is, or a new one.
	SigningKey(ctx context.Context, p descriptor.Period) (crypto.Signer, error)
	// Retire destroys the keys of periods before all that are in use.
	Retire(ctx context.Context, inUse []descriptor.Period) error
	// Close lets go of the keys. It may be called more than once.
	Close() error
}

// MemoryKeys makes a new signing key whenever one is asked for, and keeps it
// nowhere but in the memory of who asked.
type MemoryKeys struct{}

// SigningKey makes a key.
func (MemoryKeys) SigningKey(context.Context, descriptor.Period) (crypto.Signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return key, err
}

// Retire does nothing: what nobody uses any more is gone.
func (MemoryKeys) Retire(context.Context, []descriptor.Period) error { return nil }

// Close does nothing.
func (MemoryKeys) Close() error { return nil }

// authority is what it takes to make descriptors of one period without the
// identity secret.
type authority struct {
	encoder  *descriptor.Encoder
	revision descriptor.RevisionKey
	expires  time.Time
	public   [32]byte // the signing key
	by       *custody
	slow     bool          // the signing key is not in our memory
	turn     chan struct{} // held while a slow key signs, one descriptor at a time
	broken   bool          // the signing key does not sign any more
}

// request asks for an authority.
type request struct {
	keys    descriptor.PeriodKeys
	maxSize int // of descriptors, in bytes
	now     time.Time
}

// certify has a signing key certified.
func (c *custody) certify(ctx context.Context, r request) (*authority, error) {
	p := r.keys.Period
	// Without a certificate made ahead, no signing key need be made.
	if s, ok := c.custodian.(Supplier); ok {
		if _, _, supplied := s.Supply(p); !supplied {
			if _, err := c.custodian.RevisionKey(ctx, p); err != nil {
				return nil, err
			}
		}
	}
	signer, err := c.signing.SigningKey(ctx, p)
	if err != nil {
		return nil, err
	}
	public, ok := signer.Public().(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("the signing key is a %T, not an Ed25519 key", signer.Public())
	}
	cert, err := c.custodian.Certify(ctx, p, public, descriptor.SigningCertExpiry(r.now))
	if err != nil {
		return nil, err
	}
	// The custodian may be foreign code or a file from elsewhere.
	if err := cert.Verify([32]byte(r.keys.Blinded), r.now); err != nil {
		return nil, fmt.Errorf("the custodian's certificate: %w", err)
	}
	revision, err := c.custodian.RevisionKey(ctx, p)
	if err != nil {
		return nil, err
	}
	encoder, err := descriptor.NewEncoder(r.keys, cert, signer)
	if err != nil {
		return nil, err
	}
	encoder.MaxSize = r.maxSize
	_, here := signer.(ed25519.PrivateKey)
	return &authority{
		encoder: encoder, revision: revision, expires: cert.Expires(), public: [32]byte(public),
		by: c, slow: !here, turn: make(chan struct{}, 1),
	}, nil
}

// encode makes the bytes of one upload. A slow signing key is asked in the
// background, so that encode returns when ctx ends whatever the key does.
func (a *authority) encode(ctx context.Context, c *descriptor.Contents, revision uint64) ([]byte, error) {
	if !a.slow {
		return a.encoder.Encode(c, revision, rand.Reader)
	}
	select {
	case a.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the signing key: %w", ctx.Err())
	}
	type result struct {
		raw []byte
		err error
	}
	made := make(chan result, 1)
	err := a.by.call(func() {
		defer func() { <-a.turn }()
		raw, err := a.encoder.Encode(c, revision, rand.Reader)
		made <- result{raw, err}
	})
	if err != nil {
		<-a.turn
		return nil, err
	}
	select {
	case m := <-made:
		return m.raw, m.err
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the signing key: %w", ctx.Err())
	}
}

// check returns the error of making a descriptor that is no matter of the
// signing key, so that it is one of this round and not of eight uploads.
func (a *authority) check(ctx context.Context, c *descriptor.Contents, revision uint64) error {
	if a.slow {
		return a.encoder.Check(c, revision, rand.Reader)
	}
	_, err := a.encode(ctx, c, revision)
	return err
}
