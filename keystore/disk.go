package keystore

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"onionbalancer/descriptor"
)

// maxRemembered is how many certificates and revision keys are kept; two
// descriptors of two periods are in use at any time.
const maxRemembered = 8

// DiskKey is the Custodian of a key in a file. It keeps the path and the
// address; the secret is read when it is needed.
type DiskKey struct {
	path    string // of the key file itself
	form    Form
	address descriptor.Address

	mu     sync.Mutex
	closed bool
	// Both oldest first.
	certificates []certified
	revisions    []revision
}

type certified struct {
	period descriptor.Period
	cert   descriptor.Certificate
}

type revision struct {
	period descriptor.Period
	key    sealed[descriptor.RevisionKey]
}

var _ Custodian = (*DiskKey)(nil)

// OpenDisk opens the key at path, a key file or a tor service's directory, and
// checks it: its form, that nobody else can read it, and that the public key
// and the host name beside it agree, if they are there. It changes nothing.
func OpenDisk(path string) (*DiskKey, error) {
	path, err := keyFile(path)
	if err != nil {
		return nil, err
	}
	disk := &DiskKey{path: path}
	err = withIdentity(path, func(key *descriptor.IdentityKey, form Form) error {
		disk.form, disk.address = form, key.Address()
		return checkNeighbours(path, key.Address())
	})
	if err != nil {
		return nil, err
	}
	return disk, nil
}

// Address implements Custodian.
func (k *DiskKey) Address() descriptor.Address { return k.address }

// Form implements Custodian.
func (k *DiskKey) Form() Form { return k.form }

// Path returns the path of the key file.
func (k *DiskKey) Path() string { return k.path }

// Certify implements Custodian. A certificate made before for the same period
// and key is returned again, unless the one wished for would live longer by
// half a certificate's life or more.
func (k *DiskKey) Certify(ctx context.Context, p descriptor.Period, signing ed25519.PublicKey, expires time.Time) (descriptor.Certificate, error) {
	if len(signing) != ed25519.PublicKeySize {
		return descriptor.Certificate{}, fmt.Errorf("certifying for period %s: a signing key of %d bytes, want %d", p, len(signing), ed25519.PublicKeySize)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	key := [32]byte(signing)
	i := slices.IndexFunc(k.certificates, func(c certified) bool { return c.period == p && c.cert.Key() == key })
	if i >= 0 && !k.closed && expires.Sub(k.certificates[i].cert.Expires()) < descriptor.CertLifetime/2 {
		return k.certificates[i].cert, nil
	}
	var cert descriptor.Certificate
	err := k.withBlindedLocked(ctx, p, func(blinded *descriptor.BlindedKey) (err error) {
		cert, err = sign(blinded, key, expires)
		return err
	})
	if err != nil {
		return descriptor.Certificate{}, fmt.Errorf("certifying for period %s: %w", p, err)
	}
	k.certificates = remember(k.certificates, certified{p, cert})
	return cert, nil
}

// sign makes the certificate and verifies it, since a signature that was
// computed wrongly may give the key away.
func sign(blinded *descriptor.BlindedKey, signing [32]byte, expires time.Time) (descriptor.Certificate, error) {
	cert, err := descriptor.NewCertificate(descriptor.CertHSDescSigning, signing, blinded.Public(), expires,
		func(message []byte) ([]byte, error) { return blinded.Sign(message), nil })
	if err != nil {
		return descriptor.Certificate{}, err
	}
	if err := cert.Verify(blinded.Public(), cert.Expires()); err != nil {
		return descriptor.Certificate{}, fmt.Errorf("checking the certificate just made: %w", err)
	}
	return cert, nil
}

// RevisionKey implements Custodian.
func (k *DiskKey) RevisionKey(ctx context.Context, p descriptor.Period) (descriptor.RevisionKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if i := slices.IndexFunc(k.revisions, func(r revision) bool { return r.period == p }); i >= 0 && !k.closed {
		return k.revisions[i].key(), nil
	}
	var key descriptor.RevisionKey
	err := k.withBlindedLocked(ctx, p, func(blinded *descriptor.BlindedKey) error {
		key = blinded.RevisionKey()
		return nil
	})
	if err != nil {
		return descriptor.RevisionKey{}, fmt.Errorf("deriving the revision-counter key of period %s: %w", p, err)
	}
	return key, nil
}

// withBlindedLocked reads the key, hands the blinded secret of p to use, and
// wipes both. Whichever of certificate and revision key is asked for first, the
// other will be too, so the revision key is remembered on the way.
func (k *DiskKey) withBlindedLocked(ctx context.Context, p descriptor.Period, use func(*descriptor.BlindedKey) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if k.closed {
		return errors.New("the key is closed")
	}
	return withIdentity(k.path, func(key *descriptor.IdentityKey, _ Form) error {
		if key.Address() != k.address {
			return fmt.Errorf("it has changed: it was the key of %s and is now that of %s; put the old one back, or restart to use the new one",
				k.address.Short(), key.Address().Short())
		}
		blinded, err := key.Blind(p)
		if err != nil {
			return err
		}
		defer blinded.Wipe()
		if !slices.ContainsFunc(k.revisions, func(r revision) bool { return r.period == p }) {
			k.revisions = remember(k.revisions, revision{p, seal(blinded.RevisionKey())})
		}
		return use(blinded)
	})
}

// remember appends what is new and forgets what is oldest.
func remember[T any](list []T, item T) []T {
	list = append(list, item)
	return slices.Delete(list, 0, max(len(list)-maxRemembered, 0))
}

// Close implements Custodian.
func (k *DiskKey) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed, k.certificates, k.revisions = true, nil, nil
	return nil
}

// String names the key by its address, shortened.
func (k *DiskKey) String() string { return "key of " + k.address.Short() }

// Format writes String whatever the verb, so that no verb shows what is
// remembered.
func (k *DiskKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(k.String())) }

// LogValue logs String.
func (k *DiskKey) LogValue() slog.Value { return slog.StringValue(k.String()) }
