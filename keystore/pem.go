package keystore

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
)

const (
	pemBegin   = "-----BEGIN "
	pemPrivate = "PRIVATE KEY" // PKCS #8, not encrypted
)

// foreign explains PEM blocks that are no identity key of a version 3 service.
var foreign = map[string]string{
	"RSA PRIVATE KEY":       "this is an RSA key, of a version 2 onion service, which tor no longer supports; make a new key with \"balancer key new\"",
	"ENCRYPTED PRIVATE KEY": "the key is encrypted; decrypt it with: openssl pkey -in FILE -out NEWFILE",
	"OPENSSH PRIVATE KEY":   "this is a key of OpenSSH, not of an onion service",
	"PUBLIC KEY":            "this is the public half of a key; the secret half is needed",
	"CERTIFICATE":           "this is a certificate, not a key",
}

// parsePEM reads an Ed25519 key in PKCS #8. Text around the one PEM block does
// not matter. It is called within locked.Do.
func parsePEM(raw []byte) (*descriptor.IdentityKey, error) {
	block, rest := pem.Decode(raw)
	if block == nil {
		return nil, errors.New("the PEM block is damaged or cut short; restore it from a backup")
	}
	defer clear(block.Bytes)
	if why, known := foreign[block.Type]; known {
		return nil, errors.New(why)
	}
	if block.Type != pemPrivate {
		return nil, fmt.Errorf("a PEM block of type %q, want %q", block.Type, pemPrivate)
	}
	if len(block.Headers) > 0 {
		return nil, errors.New(foreign["ENCRYPTED PRIVATE KEY"])
	}
	if bytes.Contains(rest, []byte(pemBegin)) {
		return nil, errors.New("more than one PEM block, so it is not clear which key is meant")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		// The cause may quote the key.
		return nil, errors.New("the PEM block holds no private key in PKCS #8, or a damaged one")
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("a key of type %T, want Ed25519: not the key of a version 3 onion service", parsed)
	}
	defer clear(private)
	return descriptor.IdentityKeyFromSeed(private[:ed25519.SeedSize])
}

// encodePEM writes a seed as parsePEM reads it. The caller wipes the result.
func encodePEM(seed []byte) (text *locked.Buffer, err error) {
	locked.Do(func() {
		private := ed25519.NewKeyFromSeed(seed)
		defer clear(private)
		var der []byte
		if der, err = x509.MarshalPKCS8PrivateKey(private); err != nil {
			return
		}
		defer clear(der)
		text = locked.Copy(pem.EncodeToMemory(&pem.Block{Type: pemPrivate, Bytes: der}))
	})
	if err != nil {
		return nil, fmt.Errorf("encoding key: %w", err)
	}
	return text, nil
}
