package keystore

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/openfile"
	"onionbalancer/keystore/pkcs11uri"
	"onionbalancer/keystore/sealed"
	"onionbalancer/keystore/token"
)

// unsealer is a token, or its helper process, where sealed keys are opened.
type unsealer interface {
	Certify(ctx context.Context, o token.Object, sealedFile []byte, p descriptor.Period, signing ed25519.PublicKey, expiries descriptor.Expiries) (descriptor.HourlyCertificates, descriptor.RevisionKey, error)
	SignIdentity(ctx context.Context, o token.Object, sealedFile, message []byte) ([]byte, error)
	Unseal(ctx context.Context, o token.Object, sealedFile []byte) (*descriptor.IdentityKey, error)
	Close() error
}

var _ unsealer = (*token.Token)(nil)

// SealedKey is the Custodian of a key in a file that a token's key sealed. The
// secret is never in this process: the token's helper unseals it, certifies,
// and wipes it, once for each period and signing key.
type SealedKey struct {
	path    string
	object  token.Object
	address descriptor.Address
	token   unsealer
	*remembered
}

var _ Custodian = (*SealedKey)(nil)

// OpenSealed opens the key that uri names: the file in x-sealed, and the key on
// the token that opens it. It reads the file's header, and does not ask the
// token, which may not be there yet.
func OpenSealed(uri *pkcs11uri.URI) (*SealedKey, error) {
	if uri.Sealed == "" {
		return nil, errNotSealed
	}
	path, err := filepath.Abs(uri.Sealed)
	if err != nil {
		return nil, fmt.Errorf("opening sealed key %q: %w", uri.Sealed, err)
	}
	file, err := ReadSealed(path)
	if err != nil {
		return nil, err
	}
	tok, err := token.Open(uri)
	if err != nil {
		return nil, fmt.Errorf("opening sealed key %q: %w", path, err)
	}
	return newSealed(path, token.ObjectOf(uri), file.Address(), tok), nil
}

func newSealed(path string, object token.Object, address descriptor.Address, tok unsealer) *SealedKey {
	return &SealedKey{path: path, object: object, address: address, token: tok, remembered: newRemembered()}
}

// Address implements Custodian.
func (k *SealedKey) Address() descriptor.Address { return k.address }

// Form implements Custodian.
func (k *SealedKey) Form() Form { return FormSealed }

// Path returns the path of the sealed file.
func (k *SealedKey) Path() string { return k.path }

// Certify implements Custodian. Errors of the token keep their token.Code.
func (k *SealedKey) Certify(ctx context.Context, p descriptor.Period, signing ed25519.PublicKey, expiries descriptor.Expiries) (descriptor.HourlyCertificates, error) {
	return k.certify(ctx, p, signing, expiries, func(ctx context.Context, signing [32]byte) (descriptor.HourlyCertificates, descriptor.RevisionKey, error) {
		return k.ask(ctx, p, signing, expiries)
	})
}

// RevisionKey implements Custodian. It comes with every certificate. Where none
// was asked for yet, a key that nobody has is certified until a time long past.
func (k *SealedKey) RevisionKey(ctx context.Context, p descriptor.Period) (descriptor.RevisionKey, error) {
	return k.revisionKey(ctx, p, func(ctx context.Context) (descriptor.RevisionKey, error) {
		nobodys, _, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return descriptor.RevisionKey{}, err
		}
		_, key, err := k.ask(ctx, p, [32]byte(nobodys), descriptor.Expiries{First: time.Unix(3600, 0), Count: 1})
		return key, err
	})
}

// ask has the token certify, and checks the result.
func (k *SealedKey) ask(ctx context.Context, p descriptor.Period, signing [32]byte, expiries descriptor.Expiries) (descriptor.HourlyCertificates, descriptor.RevisionKey, error) {
	certs, key, err := descriptor.HourlyCertificates{}, descriptor.RevisionKey{}, error(nil)
	raw, err := k.read()
	if err == nil {
		certs, key, err = k.token.Certify(ctx, k.object, raw, p, signing[:], expiries)
	}
	if err == nil {
		err = k.check(certs, p, signing, expiries)
	}
	if err != nil {
		return descriptor.HourlyCertificates{}, descriptor.RevisionKey{}, fmt.Errorf("using sealed key %q: %w", k.path, err)
	}
	return certs, key, nil
}

// check makes sure that certificates are those that were asked for, by the
// blinded key of our address.
func (k *SealedKey) check(certs descriptor.HourlyCertificates, p descriptor.Period, signing [32]byte, expiries descriptor.Expiries) error {
	blinded, err := k.address.Blind(p)
	if err != nil {
		return err
	}
	if first := certs.First(); first.Type() != descriptor.CertHSDescSigning || first.Key() != signing || certs.Count() != expiries.Count {
		return errors.New("the token's helper certified something else")
	}
	if err := certs.Verify(blinded, certs.Expires()); err != nil {
		return fmt.Errorf("checking the certificates of the token's helper: %w", err)
	}
	return nil
}

// read reads the file again: a new one, by another key, may have taken its
// place, but not one of another address.
func (k *SealedKey) read() ([]byte, error) {
	raw, err := readSmall(k.path)
	if err != nil {
		return nil, err
	}
	file, err := sealed.Parse(raw)
	if err != nil {
		return nil, err
	}
	if file.Address() != k.address {
		return nil, changed(k.address, file.Address())
	}
	return raw, nil
}

// SignIdentity returns a plain Ed25519 signature of message under the address
// itself, as DiskKey.SignIdentity does.
func (k *SealedKey) SignIdentity(ctx context.Context, message []byte) (signature []byte, err error) {
	err = k.use(ctx, func(ctx context.Context) error {
		raw, err := k.read()
		if err != nil {
			return err
		}
		signature, err = k.token.SignIdentity(ctx, k.object, raw, message)
		return err
	})
	if err == nil && !ed25519.Verify(k.address[:], message, signature) {
		err = errors.New("the signature of the token's helper does not verify")
	}
	if err != nil {
		return nil, fmt.Errorf("signing with sealed key %q: %w", k.path, err)
	}
	return signature, nil
}

// Unseal returns the identity key itself, in locked memory, for what cannot be
// done without: sealing it again, a ceremony. The caller wipes it.
func (k *SealedKey) Unseal(ctx context.Context) (key *descriptor.IdentityKey, err error) {
	err = k.use(ctx, func(ctx context.Context) error {
		raw, err := k.read()
		if err != nil {
			return err
		}
		key, err = k.token.Unseal(ctx, k.object, raw)
		return err
	})
	if err == nil && key.Address() != k.address {
		key.Wipe()
		err = errors.New("the token's helper unsealed the key of another address")
	}
	if err != nil {
		return nil, fmt.Errorf("unsealing %q: %w", k.path, err)
	}
	return key, nil
}

// Close implements Custodian.
func (k *SealedKey) Close() error {
	k.forget()
	return k.token.Close()
}

// String names the key by its address, shortened.
func (k *SealedKey) String() string { return "sealed key of " + k.address.Short() }

// Format writes String whatever the verb.
func (k *SealedKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(k.String())) }

// LogValue logs String.
func (k *SealedKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// errNotSealed tells those who want a token to be the custodian by itself why
// it cannot be.
var errNotSealed = errors.New(`the URI has no x-sealed, so it names a key on the token itself, and no token can certify for an onion service: ` +
	`tor wants the certificate signed by a key that is derived from the address again for every period, and CKM_EDDSA, all that tokens have, signs ` +
	`for the token's own public key with a nonce of the token's own. Seal the key by the token instead: balancer key seal --help; ` +
	`or keep it offline: balancer ceremony --help`)

// ReadSealed reads a sealed key's file, which holds no secret.
func ReadSealed(path string) (*sealed.File, error) {
	raw, err := readSmall(path)
	if err != nil {
		return nil, fmt.Errorf("opening sealed key: %w", err)
	}
	file, err := sealed.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("opening sealed key %q: %w", path, err)
	}
	return file, nil
}

// IsSealed reports whether the file at path is a sealed key. Of other files it
// reads one byte, which in key files is no secret.
func IsSealed(path string) bool {
	f, _, err := openfile.Regular(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var first [1]byte
	if n, err := f.Read(first[:]); n != 1 || err != nil || first[0] != '{' {
		return false
	}
	rest, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	return err == nil && sealed.Is(append(first[:], rest...))
}
