package descriptor

import (
	"bytes"
	"crypto/ecdh"
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"fmt"
)

// ClientKey is the x25519 secret with which a client reads the descriptors of
// a service that authorizes it (rend-spec-v3, section 2.5.1.2). It neither
// prints nor marshals. It is safe for concurrent use.
type ClientKey struct {
	redacted
	secret func() *ecdh.PrivateKey // behind a closure, as sealed
	// address is the service that the .auth_private file names.
	address    Address
	hasAddress bool
}

// AuthorizedClient is the public half of a client's key: who may read a
// descriptor.
type AuthorizedClient struct {
	PublicKey [32]byte // x25519
}

// errClientKeyText tells the forms, and never what was read.
var errClientKeyText = errors.New(`want "ADDRESS:descriptor:x25519:KEY", "descriptor:x25519:KEY" or KEY, where KEY is 52 base32 characters`)

// ParseClientKey reads a client's secret key: the content of one of tor's
// .auth_private files, or the base32 key that stands in it.
func ParseClientKey(text []byte) (*ClientKey, error) {
	address, key, err := parseKeyText(text)
	if err != nil {
		return nil, fmt.Errorf("reading client key: %w", err)
	}
	defer clear(key)
	secret, err := ecdh.X25519().NewPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("reading client key: %w", err)
	}
	k := newClientKey(secret)
	if address != nil {
		k.address, k.hasAddress = *address, true
	}
	return k, nil
}

func newClientKey(secret *ecdh.PrivateKey) *ClientKey {
	return &ClientKey{secret: func() *ecdh.PrivateKey { return secret }}
}

// Address returns the service that the key is for, if the file said so.
func (k *ClientKey) Address() (Address, bool) { return k.address, k.hasAddress }

// Client returns the public half, which the service is given.
func (k *ClientKey) Client() AuthorizedClient {
	return AuthorizedClient{PublicKey: [32]byte(k.secret().PublicKey().Bytes())}
}

// Equal reports whether k and other are the same secret, in constant time.
func (k *ClientKey) Equal(other *ClientKey) bool {
	return subtle.ConstantTimeCompare(k.secret().Bytes(), other.secret().Bytes()) == 1
}

// ParseAuthorizedClient reads a client's public key: the content of one of
// tor's .auth files, or the base32 key that stands in it.
func ParseAuthorizedClient(text []byte) (AuthorizedClient, error) {
	_, key, err := parseKeyText(text)
	if err == nil {
		err = checkX25519([32]byte(key))
	}
	if err != nil {
		return AuthorizedClient{}, fmt.Errorf("reading an authorized client: %w", err)
	}
	return AuthorizedClient{PublicKey: [32]byte(key)}, nil
}

// maxKeyText is more than twice what the longest form takes.
const maxKeyText = 512 // bytes

// parseKeyText reads the text form that both halves share. The key has 32
// bytes.
func parseKeyText(text []byte) (*Address, []byte, error) {
	if len(text) > maxKeyText {
		return nil, nil, errClientKeyText
	}
	var address *Address
	fields := bytes.Split(bytes.TrimSpace(text), []byte(":"))
	if len(fields) == 4 {
		a, err := ParseAddress(string(fields[0]))
		if err != nil {
			return nil, nil, err
		}
		address, fields = &a, fields[1:]
	}
	if len(fields) == 3 {
		if string(fields[0]) != "descriptor" || string(fields[1]) != "x25519" {
			return nil, nil, errClientKeyText
		}
		fields = fields[2:]
	}
	if len(fields) != 1 || len(fields[0]) != 52 {
		return nil, nil, errClientKeyText
	}
	key := make([]byte, 33)
	n, err := base32.StdEncoding.WithPadding(base32.NoPadding).Decode(key, bytes.ToUpper(fields[0]))
	if err != nil || n != 32 {
		clear(key)
		return nil, nil, errClientKeyText
	}
	return address, key[:32], nil
}
