package keystore

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"

	"onionbalancer/descriptor"
)

// Arti keeps the keys of a service in files of OpenSSH's form.
const (
	artiSecretFile    = "ks_hs_id.ed25519_expanded_private"
	artiBlindedPrefix = "ks_hs_blind_id"
	artiExpanded      = "ed25519-expanded@spec.torproject.org"
)

const (
	opensshMagic = "openssh-key-v1\x00"
	opensshBlock = 8 // bytes, to which an unencrypted key is padded
)

var errOpenSSH = errors.New("the key in the form of OpenSSH is not whole: copy it again")

// parseOpenSSH reads the one key of OpenSSH's form (its PROTOCOL.key), which has
// to be an expanded Ed25519 key of Arti's (tor's ssh-protocols.md) that is not
// encrypted. Everything that the form says twice has to agree, and the public
// key with the secret one.
func parseOpenSSH(raw []byte, file string) (*descriptor.IdentityKey, error) {
	rest, found := bytes.CutPrefix(raw, []byte(opensshMagic))
	s := cryptobyte.String(rest)
	var cipher, kdf, options, public, private cryptobyte.String
	var count uint32
	if !found || !readSSH(&s, &cipher) || !readSSH(&s, &kdf) || !readSSH(&s, &options) || !s.ReadUint32(&count) ||
		count != 1 || !readSSH(&s, &public) || !readSSH(&s, &private) || !s.Empty() {
		return nil, errOpenSSH
	}
	kind, address, err := opensshPublic(public)
	switch {
	case err != nil:
		return nil, err
	case kind != artiExpanded:
		return nil, fmt.Errorf("this is a key of OpenSSH of type %q, not of an onion service; Arti's are of type %q", kind, artiExpanded)
	case string(cipher) != "none":
		return nil, fmt.Errorf("the key is encrypted (%q); Arti keeps it without a passphrase: take the file from Arti's keystore", string(cipher))
	case string(kdf) != "none" || len(options) > 0 || len(private)%opensshBlock != 0:
		return nil, errOpenSSH
	}
	return opensshPrivate(private, address)
}

// opensshPublic reads a public key: its type, and for Arti's type the key.
func opensshPublic(s cryptobyte.String) (kind string, address descriptor.Address, err error) {
	var name, key cryptobyte.String
	if !readSSH(&s, &name) {
		return "", address, errOpenSSH
	}
	if string(name) != artiExpanded {
		return string(name), address, nil
	}
	if !readSSH(&s, &key) || !s.Empty() || len(key) != len(address) {
		return "", address, errOpenSSH
	}
	return artiExpanded, descriptor.Address(key), nil
}

// opensshPrivate reads the secret section of an unencrypted key: twice the same
// number, type, public key, secret key, comment, and the padding 1, 2, 3 ….
func opensshPrivate(s cryptobyte.String, address descriptor.Address) (*descriptor.IdentityKey, error) {
	var one, two uint32
	var kind, public, secret, comment cryptobyte.String
	if !s.ReadUint32(&one) || !s.ReadUint32(&two) || one != two || !readSSH(&s, &kind) || string(kind) != artiExpanded ||
		!readSSH(&s, &public) || !bytes.Equal(public, address[:]) || !readSSH(&s, &secret) || !readSSH(&s, &comment) || len(s) >= opensshBlock {
		return nil, errOpenSSH
	}
	for i, c := range s {
		if int(c) != i+1 {
			return nil, errOpenSSH
		}
	}
	key, err := descriptor.NewIdentityKey(secret)
	if err != nil {
		return nil, err
	}
	if key.Address() != address {
		key.Wipe()
		return nil, fmt.Errorf("the file says that it is the key of %s, and the secret in it is that of %s", address.Short(), key.Address().Short())
	}
	return key, nil
}

// readSSH reads a string of SSH (RFC 4251, section 5): 32 bits of length, and
// so many bytes.
func readSSH(s, out *cryptobyte.String) bool {
	var n uint32
	return s.ReadUint32(&n) && uint64(n) <= uint64(len(*s)) && s.ReadBytes((*[]byte)(out), int(n))
}
