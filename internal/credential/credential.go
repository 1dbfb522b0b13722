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
	Expires  time.Time // of the last certificate
	Public   [32]byte  // of the signing key
	// External says that the signing key is not in memory: signing may take long
	// or fail for a while.
	External bool
	// Seed determines the random choices in the descriptors of the period. It is
	// the same for all who hold the identity key, and must be kept secret.
	Seed [32]byte

	encoder *descriptor.Encoder
	custody *custody

	mu       sync.Mutex // protects the fields below
	certs    descriptor.HourlyCertificates
	runStart time.Time // that counters is of
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

// ExpiresAt returns when a descriptor made at the given time expires: with its
// certificate, that of the hour.
func (c *Credential) ExpiresAt(made time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.certs.ExpiresAt(made)
}

// single reports whether there is one certificate for all hours.
func (c *Credential) single() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.certs.Count() == 1
}

// renewal returns when c should be replaced by a new one: when its certificates do not
// reach further than the hour or, with a single one, when that is about to expire.
func (c *Credential) renewal() time.Time {
	if c.single() {
		return c.Expires.Add(-ExpiryMargin)
	}
	return c.Expires.Add(-descriptor.CertLifetime)
}

// Release frees the cache for the next descriptor of the same points.
func (c *Credential) Release() { c.encoder.Release() }

// Forget frees what is for descriptors made before the given time alone.
func (c *Credential) Forget(before time.Time) {
	certs := c.encoder.Forget(before)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.certs = certs
}

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

// Encode makes one descriptor, with fresh salts and the certificate of the hour at
// which the contents are made. If the key is external, calls
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
	MaxSize int       // of descriptors, in bytes
	LastUse time.Time // when the last descriptor of the period is made
}

// maxAhead bounds for how long certificates are made at once: on the public network,
// where a period needs 48 hours and ExpiryMargin, it does nothing.
const maxAhead = 96 * time.Hour

// expiries returns those of the certificates that need lacks at now: for every hour
// until its last use, and a few more, should the consensus that ends it be late.
func (need Need) expiries(now time.Time) descriptor.Expiries {
	until := now
	if need.LastUse.After(now) {
		until = need.LastUse
	}
	until = until.Add(ExpiryMargin)
	if most := now.Add(maxAhead); until.After(most) {
		until = most
	}
	return descriptor.SigningCertExpiries(now, until)
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
	certs, err := custodian.Certify(ctx, p, public, need.expiries(now))
	if err != nil {
		return nil, err
	}
	revision, err := custodian.RevisionKey(ctx, p)
	if err != nil {
		return nil, err
	}
	// The custodian may be foreign code or a file from outside: all are verified.
	encoder, err := descriptor.NewHourlyEncoder(need.Keys, certs, signer)
	if err != nil {
		return nil, fmt.Errorf("with the custodian's certificates: %w", err)
	}
	if err := certs.At(now).VerifyTime(now); err != nil {
		return nil, fmt.Errorf("the custodian's certificates: %w", err)
	}
	encoder.MaxSize = need.MaxSize
	seed, err := seedOf(revision, p)
	if err != nil {
		return nil, err
	}
	_, inMemory := signer.(ed25519.PrivateKey)
	return &Credential{
		Seed:     seed,
		Revision: revision, Expires: certs.Expires(), Public: [32]byte(public),
		External: !inMemory, certs: certs, encoder: encoder, custody: c,
	}, nil
}
