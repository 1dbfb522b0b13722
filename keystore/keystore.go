// Package keystore provides custodians of services' identity keys, which
// certify, and makes new keys.
//
// A custodian does three things: it says which onion address it stands for, it
// certifies a descriptor-signing key for a period, and it gives the key of that
// period's revision counters. It never gives an identity secret or a blinded
// one away. All else that publishing needs is computed from the address.
//
//   - DiskKey reads a file for every period it certifies for. The secret is in
//     locked memory meanwhile, for milliseconds a day, and the traces of computing
//     with it are erased (package locked).
//   - SealedKey has a token open a sealed file (package sealed), in the memory of
//     the token's helper process (package token), which certifies and wipes it.
//   - OfflineKey returns certificates made where there is no network (package
//     offline).
//
// TokenKeys has the keys that sign descriptors made and used in a token, beside
// any of these. Opening a custodian does not call a token: an absent one
// affects nothing until it is needed, and then only its own service.
//
// Load returns an identity key itself, for commands that seal it or sign with it
// by hand. Nothing in a daemon calls it.
package keystore

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"

	"onionbalancer/descriptor"
	"onionbalancer/keystore/offline"
	"onionbalancer/keystore/pkcs11uri"
)

// Custodian keeps the identity key of one service. All methods may be called
// concurrently. Certify and RevisionKey may take as long as a slow token or
// disk does, return when ctx ends, and may fail now and succeed later: the
// caller retries. Custodians print as their address, shortened.
type Custodian interface {
	// Address is the service's public onion address.
	Address() descriptor.Address

	// Form says how the key is kept.
	Form() Form

	// Certify returns certificates of type descriptor.CertHSDescSigning for
	// signing, an Ed25519 public key, by the address's blinded key of period p.
	//
	// expiries is a wish: certificates that were made earlier, here or at an
	// offline ceremony, may live longer or shorter. The caller verifies them, and
	// checks that they are valid for long enough.
	Certify(ctx context.Context, p descriptor.Period, signing ed25519.PublicKey, expiries descriptor.Expiries) (descriptor.HourlyCertificates, error)

	// RevisionKey returns the key of the revision counters of period p.
	RevisionKey(ctx context.Context, p descriptor.Period) (descriptor.RevisionKey, error)

	// Close clears the cache and releases the key. Later calls fail.
	Close() error
}

// Form is a kind of custody of a key.
type Form string

// The forms of keys.
const (
	// FormTor is tor's hs_ed25519_secret_key.
	FormTor Form = "tor"
	// FormPEM is an unencrypted PKCS #8 key in PEM, as OnionBalance writes it.
	FormPEM Form = "pem"
	// FormArti is Arti's ks_hs_id.ed25519_expanded_private.
	FormArti Form = "arti"
	// FormText is an expanded key in base64 or hexadecimal.
	FormText Form = "text"
	// FormSeed is a seed with its public key, 64 bytes.
	FormSeed Form = "seed"
	// FormSealed is a file that a token's key sealed.
	FormSealed Form = "sealed"
	// FormOffline is certificates prepared at a ceremony.
	FormOffline Form = "offline"
	// FormToken is an Ed25519 key on a token. It cannot certify.
	FormToken Form = "token"
)

// String explains f to people.
func (f Form) String() string {
	switch f {
	case FormTor:
		return "tor's hs_ed25519_secret_key"
	case FormPEM:
		return "PKCS #8 in PEM, as OnionBalance writes it"
	case FormArti:
		return "Arti's ks_hs_id.ed25519_expanded_private"
	case FormText:
		return "expanded secret key, written as text"
	case FormSeed:
		return "seed and public key, as NaCl writes a key"
	case FormSealed:
		return "sealed by a token"
	case FormOffline:
		return "certificates prepared offline"
	case FormToken:
		return "Ed25519 key on a token"
	}
	return string(f)
}

const understood = "understood are tor's hs_ed25519_secret_key, the directory it is in, an OnionBalance PEM file, Arti's ks_hs_id.ed25519_expanded_private, an expanded key in base64 or hexadecimal, a pkcs11: URI with x-sealed, and a directory made by \"balancer ceremony request\""

// Open resolves a configuration's reference to a key: the path of a key file
// or of tor's or Arti's directory of a service, "credential:NAME" of systemd's,
// the PKCS #11 URI (RFC 7512) of a sealed key, or a directory for ceremonies.
// Files on disk are read once, to check them. Tokens are not called.
func Open(ref string) (Custodian, error) {
	if pkcs11uri.Is(ref) {
		uri, err := pkcs11uri.Parse(ref)
		if err != nil {
			return nil, fmt.Errorf("opening key: %w", err)
		}
		key, err := OpenSealed(uri)
		if err != nil {
			return nil, err
		}
		return key, nil
	}
	if offline.Is(ref) {
		return OpenOffline(ref)
	}
	disk, err := OpenDisk(ref)
	if err != nil {
		return nil, err
	}
	return disk, nil
}

// sealedAlone is the error of a sealed file that is named like a plain one. It
// shows the right reference.
func sealedAlone(path string) error {
	uri := &pkcs11uri.URI{ModulePath: "/PATH/OF/MODULE.so", PINSource: "file:/PATH/OF/PIN", Sealed: path}
	if file, err := ReadSealed(path); err == nil {
		uri.Label, uri.Serial = file.Token().Label, file.Token().Serial
		uri.Object, uri.ID = file.Object().Label, file.Object().ID
	}
	return fmt.Errorf("opening key %q: this key is sealed by a token; name the token as well: %s", path, uri)
}

// OfflineKey is the Custodian of a key on a machine without a network: it hands
// out certificates prepared by ceremonies in a directory, and has the signing keys too,
// unless those are on a token.
type OfflineKey struct{ *offline.Custodian }

var _ Custodian = OfflineKey{}

// OpenOffline opens the directory that "balancer ceremony request" made.
func OpenOffline(dir string) (OfflineKey, error) {
	if _, err := os.Lstat(filepath.Join(dir, torSecretFile)); err == nil {
		return OfflineKey{}, fmt.Errorf("opening key %q: the directory holds an identity key beside the files of a ceremony: move %s to where it belongs", dir, torSecretFile)
	}
	custodian, err := offline.Open(dir)
	if err != nil {
		return OfflineKey{}, fmt.Errorf("opening key %q: %w", dir, err)
	}
	return OfflineKey{custodian}, nil
}

// Form implements Custodian.
func (OfflineKey) Form() Form { return FormOffline }
