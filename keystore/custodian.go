package keystore

import (
	"context"
	"crypto/ed25519"
	"errors"
	"strings"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/keystore/offline"
)

// Custodian keeps the identity key of one service. All methods may be called
// concurrently. Certify and RevisionKey may take as long as a slow token or
// disk does, return when ctx ends, and may fail now and succeed later: the
// caller retries. Custodians print as their address, shortened.
type Custodian interface {
	// Address is the service's public onion address.
	Address() descriptor.Address

	// Form says what keeps the key.
	Form() Form

	// Certify returns a certificate of type descriptor.CertHSDescSigning for
	// signing, an Ed25519 public key, by the address's blinded key of period p.
	//
	// expires is a wish: a certificate that was made earlier, here or at an
	// offline ceremony, may live longer or shorter. The caller checks that it
	// is valid for long enough.
	Certify(ctx context.Context, p descriptor.Period, signing ed25519.PublicKey, expires time.Time) (descriptor.Certificate, error)

	// RevisionKey returns the key of the revision counters of period p.
	RevisionKey(ctx context.Context, p descriptor.Period) (descriptor.RevisionKey, error)

	// Close forgets what is remembered and lets go of the key. Later calls fail.
	Close() error
}

// Form is what kind of thing keeps a key.
type Form string

// The forms of keys.
const (
	// FormTor is tor's hs_ed25519_secret_key.
	FormTor Form = "tor"
	// FormPEM is an unencrypted PKCS #8 key in PEM, as OnionBalance writes it.
	FormPEM Form = "pem"
	// FormOffline is certificates prepared at a ceremony.
	FormOffline Form = "offline"
)

// String explains f to people.
func (f Form) String() string {
	switch f {
	case FormTor:
		return "tor's hs_ed25519_secret_key"
	case FormPEM:
		return "PKCS #8 in PEM, as OnionBalance writes it"
	case FormOffline:
		return "certificates prepared offline"
	}
	return string(f)
}

// pkcs11Scheme begins the URI of a key on a token (RFC 7512).
const pkcs11Scheme = "pkcs11:"

const understood = "understood are tor's hs_ed25519_secret_key, the directory it is in, and an OnionBalance PEM file"

// ErrUnsupported is wrapped by errors about a kind of reference that this
// version knows of and cannot use.
var ErrUnsupported = errors.New("keys on PKCS #11 tokens are not supported; " + understood)

// Open resolves a configuration's reference to a key: the path of a key file
// or of a tor service's directory. It reads the key once, to check it.
func Open(ref string) (Custodian, error) {
	// A PKCS #11 URI may carry a PIN, so errors do not repeat it.
	if strings.HasPrefix(strings.ToLower(ref), pkcs11Scheme) {
		return nil, errors.Join(errors.New("opening a key by its "+pkcs11Scheme+" URI"), ErrUnsupported)
	}
	if offline.Is(ref) {
		return OpenOffline(ref)
	}
	return OpenDisk(ref)
}
