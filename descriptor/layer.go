package descriptor

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/sha3"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
)

// Sizes of the encrypted layers (rend-spec-v3, section 2.5.3,
// HS-DESC-ENCRYPTION-KEYS): SALT | ciphertext | MAC.
const (
	saltSize   = 16
	macSize    = 32
	cookieSize = 16
	layerKey   = 32
	sealExtra  = saltSize + macSize
)

// The strings that part the keys of the two layers.
const (
	firstConstant  = "hsdir-superencrypted-data"
	secondConstant = "hsdir-encrypted-data"
)

var errMAC = errors.New("wrong MAC")

// layerSecret is the input from which the keys of one layer of one descriptor are derived,
// together with the salt.
type layerSecret struct {
	keys     *PeriodKeys
	cookie   []byte // nil, or cookieSize bytes in the second layer
	revision uint64
	constant string
}

// derive returns the cipher and a MAC that has taken in all that precedes the
// ciphertext.
func (l layerSecret) derive(salt []byte) (cipher.Stream, *sha3.SHA3, error) {
	h := sha3.NewSHAKE256()
	_, _ = h.Write(l.keys.Blinded[:])
	_, _ = h.Write(l.cookie)
	_, _ = h.Write(l.keys.Subcredential[:])
	_, _ = h.Write(binary.BigEndian.AppendUint64(nil, l.revision))
	_, _ = h.Write(salt)
	_, _ = h.Write([]byte(l.constant))
	var derived [layerKey + aes.BlockSize + macSize]byte
	_, _ = h.Read(derived[:])
	block, err := aes.NewCipher(derived[:layerKey])
	if err != nil {
		return nil, nil, err
	}
	mac := sha3.New256()
	mac.Write(int8Bytes(macSize))
	mac.Write(derived[layerKey+aes.BlockSize:])
	mac.Write(int8Bytes(saltSize))
	mac.Write(salt)
	return cipher.NewCTR(block, derived[layerKey:layerKey+aes.BlockSize]), mac, nil
}

// open decrypts blob in place, once its MAC is right, and returns the
// plaintext up to its NUL padding, which aliases blob.
func (l layerSecret) open(blob []byte) ([]byte, error) {
	if len(blob) <= sealExtra {
		return nil, fmt.Errorf("%d bytes of ciphertext, want more than %d", len(blob), sealExtra)
	}
	stream, mac, err := l.derive(blob[:saltSize])
	if err != nil {
		return nil, err
	}
	text := blob[saltSize : len(blob)-macSize]
	mac.Write(text)
	if subtle.ConstantTimeCompare(mac.Sum(nil), blob[len(blob)-macSize:]) != 1 {
		return nil, errMAC
	}
	stream.XORKeyStream(text, text)
	if n := bytes.IndexByte(text, 0); n >= 0 {
		text = text[:n]
	}
	if len(text) == 0 {
		return nil, errors.New("no plaintext before the padding")
	}
	return text, nil
}

// seal encrypts in place a buffer that has room for the salt before the
// plaintext and for the MAC after it. The salt is already there.
func (l layerSecret) seal(blob []byte) error {
	stream, mac, err := l.derive(blob[:saltSize])
	if err != nil {
		return err
	}
	text := blob[saltSize : len(blob)-macSize]
	stream.XORKeyStream(text, text)
	mac.Write(text)
	mac.Sum(blob[:len(blob)-macSize])
	return nil
}

// clientSecrets derives from the shared secret of the descriptor's ephemeral
// key and a client's key the client's name in the descriptor and the cipher of
// its cookie (rend-spec-v3, section 2.5.1.2).
func clientSecrets(s Subcredential, secret *ecdh.PrivateKey, public [32]byte) (id [8]byte, block cipher.Block, err error) {
	remote, err := ecdh.X25519().NewPublicKey(public[:])
	if err != nil {
		return id, nil, err
	}
	seed, err := secret.ECDH(remote)
	if err != nil {
		return id, nil, err
	}
	h := sha3.NewSHAKE256()
	_, _ = h.Write(s[:])
	_, _ = h.Write(seed)
	var derived [8 + layerKey]byte
	_, _ = h.Read(derived[:])
	block, err = aes.NewCipher(derived[8:])
	return [8]byte(derived[:8]), block, err
}

// cookieFor decrypts the descriptor cookie from the entry made for k; nil if
// there is none.
func (k *ClientKey) cookieFor(s Subcredential, ephemeral [32]byte, entries []AuthClient) []byte {
	id, block, err := clientSecrets(s, k.secret(), ephemeral)
	if err != nil {
		return nil // an ephemeral key of low order authorizes nobody
	}
	for i := range entries {
		if entries[i].ID == id {
			cookie := make([]byte, cookieSize)
			cipher.NewCTR(block, entries[i].IV[:]).XORKeyStream(cookie, entries[i].EncryptedCookie[:])
			return cookie
		}
	}
	return nil
}
