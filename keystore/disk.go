package keystore

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
	"onionbalancer/internal/openfile"
	"onionbalancer/internal/strictmodes"
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
// it: its form, that no other user can read it, and that the public key and the
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

// Certify implements Custodian. Certificates made before for the same period
// and key are returned again, unless those wished for end later.
func (k *DiskKey) Certify(ctx context.Context, p descriptor.Period, signing ed25519.PublicKey, expiries descriptor.Expiries) (descriptor.HourlyCertificates, error) {
	return k.certify(ctx, p, signing, expiries, func(_ context.Context, signing [32]byte) (certs descriptor.HourlyCertificates, key descriptor.RevisionKey, err error) {
		err = k.withBlinded(p, func(blinded *descriptor.BlindedKey) (err error) {
			key = blinded.RevisionKey()
			certs, err = blinded.CertifyHours(signing, expiries)
			return err
		})
		return certs, key, err
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

// Format writes String for all verbs, so that no verb shows the
// cache.
func (k *DiskKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(k.String())) }

// LogValue logs String.
func (k *DiskKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// SignIdentity returns a plain Ed25519 signature of message under the address
// itself. It is for certificate requests and their like; publishing needs none.
func (k *DiskKey) SignIdentity(ctx context.Context, message []byte) (signature []byte, err error) {
	err = k.use(ctx, func(context.Context) error {
		return k.withKey(func(key *descriptor.IdentityKey) (err error) {
			signature, err = key.Sign(message)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("signing with the identity key: %w", err)
	}
	return signature, nil
}

// maxKeyFile is far above the size of any form of key.
const maxKeyFile = 16 << 10 // 16 KiB

// keyFile returns the absolute path of the key file that path means: itself,
// or tor's or Arti's file in it.
func keyFile(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("opening key %q: %w", path, err)
	}
	info, err := os.Stat(abs)
	if errors.Is(err, os.ErrPermission) {
		return "", fmt.Errorf("opening key %q: %w: %w", abs, errors.Unwrap(err), strictmodes.Current().Denied(abs))
	}
	if err != nil {
		return "", fmt.Errorf("opening key: %w", err)
	}
	if !info.IsDir() {
		if IsSealed(abs) {
			return "", sealedAlone(abs)
		}
		return abs, nil
	}
	inside, arti := filepath.Join(abs, torSecretFile), filepath.Join(abs, artiSecretFile)
	_, noTor := os.Stat(inside)
	_, noArti := os.Stat(arti)
	switch {
	case noTor == nil && noArti == nil:
		return "", fmt.Errorf("opening key %q: there are two keys in this directory, %s and %s: name the file that is meant", abs, torSecretFile, artiSecretFile)
	case noArti == nil:
		return arti, nil
	case errors.Is(noTor, os.ErrNotExist):
		return "", fmt.Errorf("opening key %q: there is no %s in this directory; name the key file itself%s", abs, torSecretFile, keysIn(abs))
	}
	return inside, nil
}

// maxLook is in how many files of a directory keysIn looks for keys.
const maxLook = 64

// keysIn lists the files of a directory that hold keys, for a message.
func keysIn(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ""
	}
	var keys []string
	for _, entry := range entries[:min(len(entries), maxLook)] {
		path := filepath.Join(dir, entry.Name())
		if IsSealed(path) || withIdentity(path, func(*descriptor.IdentityKey, Form) error { return nil }) == nil {
			keys = append(keys, strconv.Quote(entry.Name()))
		}
	}
	if len(keys) == 0 {
		return ""
	}
	return ": " + strings.Join(keys, " or ")
}

// withIdentity reads the key file at path, hands the key to use, and wipes it.
func withIdentity(path string, use func(*descriptor.IdentityKey, Form) error) error {
	key, form, err := readIdentity(path)
	if err != nil {
		return err
	}
	defer locked.CollectSoon()
	defer key.Wipe()
	if err := use(key, form); err != nil {
		return fmt.Errorf("using key %q: %w", path, err)
	}
	return nil
}

// readIdentity reads the key file at path. The caller wipes the key.
func readIdentity(path string) (key *descriptor.IdentityKey, form Form, err error) {
	raw, exposed, err := readSecret(path)
	if err != nil {
		return nil, "", fmt.Errorf("opening key %q: %w", path, err)
	}
	defer raw.Wipe()
	raw.Do(func(text []byte) { key, form, err = parse(text, path) })
	// A file that is not a key needs no other mode, but another name in the
	// configuration.
	if err == nil && exposed != nil {
		key.Wipe()
		err = exposed
	}
	if err != nil {
		return nil, "", fmt.Errorf("opening key %q: %w", path, err)
	}
	return key, form, nil
}

// readSecret reads a key file into locked memory. The caller wipes the bytes.
// exposed is why others than this program's user can use the file, if they can.
func readSecret(path string) (raw *locked.Buffer, exposed, err error) {
	f, info, err := openfile.Secret(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if info.Size() > maxKeyFile {
		return nil, nil, fmt.Errorf("%d bytes are too many for a key, is it the right file?", info.Size())
	}
	raw = locked.New(int(info.Size()))
	if _, err := raw.Fill(f); err != nil {
		raw.Wipe()
		return nil, nil, err
	}
	return raw, strictmodes.Current().Secret(path, f), nil
}
