package credential

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"onionbalancer/descriptor"
)

// Credential is a certified descriptor-signing key: with it, descriptors of one
// service and period can be made without the identity secret. It is safe
// for concurrent use.
type Credential struct {
	Revision descriptor.RevisionKey
	Expires  time.Time
	Public   [32]byte // of the signing key
	// External says that the signing key is not in memory: signing may take long
	// or fail for a while.
	External bool
	// Seed determines the random choices in the descriptors of the period. It is
	// the same for all who hold the identity key, and must be kept secret.
	Seed [32]byte

	encoder *descriptor.Encoder
	custody *custody

	mu       sync.Mutex // protects the fields below
	runStart time.Time  // that counters is of
	counters *descriptor.RevisionSequence
}

// Counter returns the revision counter that tor would use at now in the
// shared-random run that began at runStart.
func (c *Credential) Counter(runStart, now time.Time) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counters == nil || !c.runStart.Equal(runStart) {
		c.runStart, c.counters = runStart, c.Revision.Sequence(runStart)
	}
	return c.counters.At(now)
}

// Release frees the cache for the next descriptor of the same points.
func (c *Credential) Release() { c.encoder.Release() }

// seedOf derives a seed from the key of a period's revision counters.
func seedOf(key descriptor.RevisionKey, p descriptor.Period) ([32]byte, error) {
	h := sha256.New()
	fmt.Fprintf(h, "selection seed %s", p)
	sequence := key.Sequence(time.Unix(0, 0))
	for n := range int64(16) { // numbers of 16 bits each, of which all but the sums stay secret
		counter, err := sequence.At(time.Unix(n, 0))
		if err != nil {
			return [32]byte{}, err
		}
		h.Write(binary.BigEndian.AppendUint64(nil, counter))
	}
	return [32]byte(h.Sum(nil)), nil
}

// Encode makes one descriptor, with fresh salts. If the key is external, calls
// are serialized, and Encode returns when ctx ends, even if the key hangs.
func (c *Credential) Encode(ctx context.Context, contents *descriptor.Contents, revision uint64) ([]byte, error) {
	if !c.External {
		return c.encoder.Encode(contents, revision, rand.Reader)
	}
	// The result of a call that was abandoned is never read.
	made := make(chan []byte, 1)
	err := c.custody.do(ctx, signTimeout, func(context.Context) error {
		raw, err := c.encoder.Encode(contents, revision, rand.Reader)
		made <- raw
		return err
	})
	if err != nil {
		return nil, err
	}
	return <-made, nil
}

// Check returns the error that Encode would return because of the contents,
// without signing.
func (c *Credential) Check(contents *descriptor.Contents, revision uint64) error {
	return c.encoder.Check(contents, revision, rand.Reader)
}

// Need specifies a credential.
type Need struct {
	Keys    descriptor.PeriodKeys
	MaxSize int // of descriptors, in bytes
}

// certify has a signing key certified. It is called in c's turn.
func (c *custody) certify(ctx context.Context, need Need, now time.Time) (*Credential, error) {
	p := need.Keys.Period
	custodian := c.keys.Custodian
	// Without a certificate made ahead, no signing key is needed.
	if s, ok := custodian.(Supplier); ok {
		if _, _, supplied := s.Supply(p); !supplied {
			if _, err := custodian.RevisionKey(ctx, p); err != nil {
				return nil, err
			}
		}
	}
	signer, err := c.keys.Signing.SigningKey(ctx, p)
	if err != nil {
		return nil, err
	}
	public, ok := signer.Public().(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("the signing key is a %T, not an Ed25519 key", signer.Public())
	}
	cert, err := custodian.Certify(ctx, p, public, descriptor.SigningCertExpiry(now))
	if err != nil {
		return nil, err
	}
	// The custodian may be foreign code or a file from outside.
	if err := cert.Verify([32]byte(need.Keys.Blinded), now); err != nil {
		return nil, fmt.Errorf("the custodian's certificate: %w", err)
	}
	revision, err := custodian.RevisionKey(ctx, p)
	if err != nil {
		return nil, err
	}
	encoder, err := descriptor.NewEncoder(need.Keys, cert, signer)
	if err != nil {
		return nil, err
	}
	encoder.MaxSize = need.MaxSize
	seed, err := seedOf(revision, p)
	if err != nil {
		return nil, err
	}
	_, inMemory := signer.(ed25519.PrivateKey)
	return &Credential{
		Seed:     seed,
		Revision: revision, Expires: cert.Expires(), Public: [32]byte(public),
		External: !inMemory, encoder: encoder, custody: c,
	}, nil
}
