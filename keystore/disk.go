package keystore

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/openfile"
)

// DiskKey is the Custodian of a key in a file. It keeps the path and the
// address; the secret is read when it is needed.
type DiskKey struct {
	path    string // of the key file itself
	form    Form
	address descriptor.Address
	*remembered
}

var _ Custodian = (*DiskKey)(nil)

// OpenDisk opens the key that ref means, a key file, a service's directory of
// tor's or Arti's, or a credential of systemd's ("credential:NAME"), and checks
// it: its form, that nobody else can read it, and that the public key and the
// host name beside it agree, if they are there. It changes nothing.
func OpenDisk(ref string) (*DiskKey, error) {
	path, err := openfile.Resolve(ref)
	if err != nil {
		return nil, fmt.Errorf("opening key %q: %w", ref, err)
	}
	path, err = keyFile(path)
	if err != nil {
		return nil, err
	}
	disk := &DiskKey{path: path, remembered: newRemembered()}
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
	return k.certify(ctx, p, signing, expires, func(_ context.Context, signing [32]byte) (cert descriptor.Certificate, key descriptor.RevisionKey, err error) {
		err = k.withBlinded(p, func(blinded *descriptor.BlindedKey) (err error) {
			key = blinded.RevisionKey()
			cert, err = blinded.Certify(signing, expires)
			return err
		})
		return cert, key, err
	})
}

// RevisionKey implements Custodian.
func (k *DiskKey) RevisionKey(ctx context.Context, p descriptor.Period) (descriptor.RevisionKey, error) {
	return k.revisionKey(ctx, p, func(context.Context) (key descriptor.RevisionKey, err error) {
		err = k.withBlinded(p, func(blinded *descriptor.BlindedKey) error {
			key = blinded.RevisionKey()
			return nil
		})
		return key, err
	})
}

// withKey reads the key again, hands it to use, and wipes it.
func (k *DiskKey) withKey(use func(*descriptor.IdentityKey) error) error {
	return withIdentity(k.path, func(key *descriptor.IdentityKey, _ Form) error {
		if key.Address() != k.address {
			return changed(k.address, key.Address())
		}
		return use(key)
	})
}

// changed is the error of a file that holds another key than it did.
func changed(was, is descriptor.Address) error {
	return fmt.Errorf("it has changed: it was the key of %s and is now that of %s; put the old one back, or restart to use the new one",
		was.Short(), is.Short())
}

// withBlinded hands the blinded secret of p to use, and wipes it.
func (k *DiskKey) withBlinded(p descriptor.Period, use func(*descriptor.BlindedKey) error) error {
	return k.withKey(func(key *descriptor.IdentityKey) error {
		blinded, err := key.Blind(p)
		if err != nil {
			return err
		}
		defer blinded.Wipe()
		return use(blinded)
	})
}

// Close implements Custodian.
func (k *DiskKey) Close() error {
	k.forget()
	return nil
}

// String names the key by its address, shortened.
func (k *DiskKey) String() string { return "key of " + k.address.Short() }

// Format writes String whatever the verb, so that no verb shows what is
// remembered.
func (k *DiskKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(k.String())) }

// LogValue logs String.
func (k *DiskKey) LogValue() slog.Value { return slog.StringValue(k.String()) }
