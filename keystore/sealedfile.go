package keystore

import (
	"errors"
	"fmt"
	"io"

	"onionbalancer/internal/openfile"
	"onionbalancer/keystore/sealed"
)

// errNotSealed tells those who want a token to be the custodian by itself why
// it cannot be.
var errNotSealed = errors.New(`the URI has no x-sealed, so it names a key on the token itself, and no token can certify for an onion service: ` +
	`tor wants the certificate signed by a key that is derived from the address anew for every period, and CKM_EDDSA, all that tokens have, signs ` +
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

// IsSealed tells whether the file at path is a sealed key. Of other files it
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
