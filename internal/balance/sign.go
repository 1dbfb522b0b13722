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
// again in the next round.
type Custodian interface {
	// Address returns the public half of the identity key.
	Address() descriptor.Address
	// Certify signs a certificate for a descriptor-signing key, to be used in p.
	// expires is a wish: what was signed earlier may live shorter or longer.
	Certify(ctx context.Context, p descriptor.Period, signing ed25519.PublicKey, expires time.Time) (descriptor.Certificate, error)
	// RevisionKey returns the key of the revision counters of p.
	RevisionKey(ctx context.Context, p descriptor.Period) (descriptor.RevisionKey, error)
}

// SigningKeys gives the descriptor-signing key of a period: an Ed25519 key,
// here, in a token, or made ahead for an offline custodian.
type SigningKeys interface {
	SigningKey(ctx context.Context, p descriptor.Period) (crypto.Signer, error)
}

// MemoryKeys makes a new signing key whenever one is asked for, and keeps it
// nowhere but in the memory of who asked.
type MemoryKeys struct{}

// SigningKey makes a key.
func (MemoryKeys) SigningKey(context.Context, descriptor.Period) (crypto.Signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return key, err
}

// authority is what it takes to make descriptors of one period without the
// identity secret.
type authority struct {
	encoder  *descriptor.Encoder
	revision descriptor.RevisionKey
	expires  time.Time
}

// authority returns the authority for the period of keys, certified anew if
// there is none or its certificate is about to expire. It makes descriptors
// shorter than maxSize bytes.
func (s *Service) authority(ctx context.Context, now time.Time, keys descriptor.Keys, maxSize int) (*authority, error) {
	if a := s.authorities[keys.Period]; a != nil && now.Add(certificateMargin).Before(a.expires) {
		return a, nil
	}
	a, err := certify(ctx, s.cfg.Custodian, s.cfg.Signing, now, keys)
	if err != nil {
		return nil, fmt.Errorf("certifying a descriptor-signing key for period %s: %w", keys.Period, err)
	}
	a.encoder.MaxSize = maxSize
	s.authorities[keys.Period] = a
	return a, nil
}

func certify(ctx context.Context, custodian Custodian, signing SigningKeys, now time.Time, keys descriptor.Keys) (*authority, error) {
	signer, err := signing.SigningKey(ctx, keys.Period)
	if err != nil {
		return nil, err
	}
	public, ok := signer.Public().(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("the signing key is a %T, not an Ed25519 key", signer.Public())
	}
	cert, err := custodian.Certify(ctx, keys.Period, public, descriptor.SigningCertExpiry(now))
	if err != nil {
		return nil, err
	}
	// The custodian may be foreign code or a file from elsewhere.
	if err := cert.Verify([32]byte(keys.Blinded), now); err != nil {
		return nil, fmt.Errorf("the custodian's certificate: %w", err)
	}
	revision, err := custodian.RevisionKey(ctx, keys.Period)
	if err != nil {
		return nil, err
	}
	encoder, err := descriptor.NewEncoder(keys, cert, signer)
	if err != nil {
		return nil, err
	}
	return &authority{encoder: encoder, revision: revision, expires: cert.Expires()}, nil
}
