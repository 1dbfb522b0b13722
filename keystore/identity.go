package keystore

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"

	"onionbalancer/descriptor"
	"onionbalancer/keystore/offline"
	"onionbalancer/keystore/pkcs11uri"
	"onionbalancer/keystore/token"
)

// IdentitySigner signs with plain Ed25519 under an onion address itself, as
// certificate requests do. Publishing descriptors needs another thing.
type IdentitySigner interface {
	// Address is the public half of the key.
	Address() descriptor.Address
	// SignIdentity returns a signature of 64 bytes that verifies under Address.
	SignIdentity(ctx context.Context, message []byte) ([]byte, error)
	// Close releases the key.
	Close() error
}

var _, _, _ IdentitySigner = (*DiskKey)(nil), (*SealedKey)(nil), (*TokenIdentity)(nil)

// OpenIdentitySigner opens a key as Open does, and besides the PKCS #11 URI of
// an Ed25519 key on a token, which is looked for at once.
func OpenIdentitySigner(ctx context.Context, ref string) (IdentitySigner, error) {
	if offline.Is(ref) {
		return nil, fmt.Errorf("opening key %q: this directory holds certificates for publishing; the identity key that signs is where the ceremonies are", ref)
	}
	if !pkcs11uri.Is(ref) {
		disk, err := OpenDisk(ref)
		if err != nil {
			return nil, err
		}
		return disk, nil
	}
	uri, err := pkcs11uri.Parse(ref)
	if err != nil {
		return nil, fmt.Errorf("opening key: %w", err)
	}
	if uri.Sealed != "" {
		key, err := OpenSealed(uri)
		if err != nil {
			return nil, err
		}
		return key, nil
	}
	tok, err := token.Open(uri)
	if err != nil {
		return nil, fmt.Errorf("opening key: %w", err)
	}
	key, err := findTokenIdentity(ctx, tok, token.ObjectOf(uri))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening key on a token: %w", err), tok.Close())
	}
	return key, nil
}

// TokenIdentity is an identity key that was made on a token. It signs under its
// address, and can never certify for an onion service: see errNotSealed.
type TokenIdentity struct {
	token   signingToken
	object  token.Object
	address descriptor.Address
}

func findTokenIdentity(ctx context.Context, tok signingToken, o token.Object) (*TokenIdentity, error) {
	if o.Label == "" && len(o.ID) == 0 {
		return nil, token.Errorf(token.CodeMisuse, "the URI names no key; add object=LABEL or id=%%HEX, or x-sealed for a sealed key")
	}
	keys, err := tok.SigningKeys(ctx, o.Label)
	if err != nil {
		return nil, err
	}
	var found []token.SigningKey
	for _, key := range keys {
		if (o.Label == "" || key.Object.Label == o.Label) && (len(o.ID) == 0 || bytes.Equal(key.Object.ID, o.ID)) {
			found = append(found, key)
		}
	}
	if len(found) != 1 {
		return nil, token.Errorf(token.CodeNoKey, "the token has %d Ed25519 keys of this name, want one", len(found))
	}
	address := descriptor.Address(found[0].Public)
	if err := address.Validate(); err != nil {
		return nil, fmt.Errorf("the key's public half is %w", err)
	}
	return &TokenIdentity{tok, found[0].Object, address}, nil
}

// Address implements IdentitySigner.
func (k *TokenIdentity) Address() descriptor.Address { return k.address }

// SignIdentity implements IdentitySigner.
func (k *TokenIdentity) SignIdentity(ctx context.Context, message []byte) ([]byte, error) {
	signature, err := k.token.Sign(ctx, k.object, message)
	if err == nil && !ed25519.Verify(k.address[:], message, signature) {
		err = errors.New("the token's signature does not verify")
	}
	if err != nil {
		return nil, fmt.Errorf("signing with the key on a token: %w", err)
	}
	return signature, nil
}

// Close implements IdentitySigner.
func (k *TokenIdentity) Close() error { return k.token.Close() }

// String names the key by its address, shortened.
func (k *TokenIdentity) String() string { return "key of " + k.address.Short() + " on a token" }

// Load reads the identity key itself into locked memory, from disk or by the
// token that sealed it, for operations that need it: sealing it, or a
// ceremony. The caller wipes it.
func Load(ctx context.Context, ref string) (*descriptor.IdentityKey, error) {
	custodian, err := Open(ref)
	if err != nil {
		return nil, err
	}
	var key *descriptor.IdentityKey
	switch custodian := custodian.(type) {
	case *DiskKey:
		key, _, err = readIdentity(custodian.path)
	case *SealedKey:
		key, err = custodian.Unseal(ctx)
	default:
		err = fmt.Errorf("loading the key of %s: it is kept in the form %q, from which it cannot be had", custodian.Address().Short(), custodian.Form())
	}
	return key, errors.Join(err, custodian.Close())
}
