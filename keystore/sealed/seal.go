package sealed

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
	"onionbalancer/keystore/token"
)

// Seal seals key with a key of the token tok, by the first of its methods. wrap
// has the token wrap the data key, which it neither keeps nor wipes. random is
// crypto/rand.Reader but in tests; created is written into the file.
func Seal(key *descriptor.IdentityKey, tok token.Selector, with token.WrappingKey, created time.Time,
	wrap func(token.Method, *locked.Buffer) ([]byte, error), random io.Reader) (*File, error) {
	f, err := seal(key, tok, with, created, wrap, random)
	if err != nil {
		return nil, fmt.Errorf("sealing the key of %s: %w", key.Address().Short(), err)
	}
	return f, nil
}

func seal(key *descriptor.IdentityKey, tok token.Selector, with token.WrappingKey, created time.Time,
	wrap func(token.Method, *locked.Buffer) ([]byte, error), random io.Reader) (*File, error) {
	if len(with.Methods) == 0 {
		return nil, token.Errorf(token.CodeUnsupported, "the token's key can wrap by no method")
	}
	f := &File{address: key.Address(), method: with.Methods[0], token: validNames(tok), object: with.Object, created: created.UTC().Truncate(time.Second)}
	f.object.Label = strings.ToValidUTF8(f.object.Label, "\uFFFD")
	dataKey := locked.New(dataKeySize)
	defer dataKey.Wipe()
	f.salt = make([]byte, saltSize)
	if _, err := io.ReadFull(random, dataKey.Bytes()); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(random, f.salt); err != nil {
		return nil, err
	}
	var err error
	if f.wrapped, err = wrap(f.method, dataKey); err != nil {
		return nil, err
	}
	if bytes.Contains(f.wrapped, dataKey.Bytes()) {
		return nil, token.Errorf(token.CodeFailed, "the token did not wrap the data key but returned it as it is")
	}
	f.seal = make([]byte, 0, sealSize)
	locked.Do(func() {
		plain := key.Secret()
		defer plain.Wipe()
		var aead cipher.AEAD
		if aead, err = f.aead(dataKey.Bytes()); err == nil {
			f.seal = aead.Seal(f.seal, make([]byte, aead.NonceSize()), plain.Bytes(), f.header())
		}
	})
	if err != nil {
		return nil, err
	}
	return f, f.check()
}

// validNames returns what a token says of itself as text that JSON can hold.
func validNames(s token.Selector) token.Selector {
	for _, name := range []*string{&s.Label, &s.Serial, &s.Manufacturer, &s.Model} {
		*name = strings.ToValidUTF8(*name, "\uFFFD")
	}
	return s
}

// Open unseals the identity key, and makes sure that nothing in the file was
// changed and that the key is the one of the file's address. unwrap has the
// token unwrap the data key; Open wipes it. The caller wipes the result. Errors
// are those of unwrap, or of token.CodeDamaged.
func (f *File) Open(unwrap func(token.Method, []byte) (*locked.Buffer, error)) (*descriptor.IdentityKey, error) {
	key, err := f.open(unwrap)
	if err != nil {
		return nil, fmt.Errorf("unsealing the key of %s: %w", f.address.Short(), err)
	}
	return key, nil
}

var errOther = token.Errorf(token.CodeDamaged, "the file was damaged or changed, or sealed with another key than this one of the token")

func (f *File) open(unwrap func(token.Method, []byte) (*locked.Buffer, error)) (*descriptor.IdentityKey, error) {
	dataKey, err := unwrap(f.method, bytes.Clone(f.wrapped))
	if err != nil {
		return nil, err
	}
	defer dataKey.Wipe()
	if dataKey.Len() != dataKeySize {
		return nil, errOther
	}
	plain := locked.New(descriptor.ExpandedKeySize)
	defer plain.Wipe()
	var key *descriptor.IdentityKey
	locked.Do(func() {
		var aead cipher.AEAD
		if aead, err = f.aead(dataKey.Bytes()); err != nil {
			return
		}
		if _, err = aead.Open(plain.Bytes()[:0], make([]byte, aead.NonceSize()), f.seal, f.header()); err != nil {
			err = errOther
			return
		}
		key, err = descriptor.NewIdentityKey(plain.Bytes())
	})
	if err != nil {
		return nil, err
	}
	if key.Address() != f.address {
		key.Wipe()
		return nil, token.Errorf(token.CodeDamaged, "the key in the file is that of another address, %s", key.Address().Short())
	}
	return key, nil
}

// aead returns what seals the identity key. It is called within locked.Do.
func (f *File) aead(dataKey []byte) (cipher.AEAD, error) {
	info := append([]byte(format), 0, version)
	info = append(append(info, f.address[:]...), f.method...)
	key, err := hkdf.Key(sha256.New, dataKey, f.salt, string(info), 32)
	if err != nil {
		return nil, errors.New("deriving the key of the seal")
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// header is all that is authenticated beside the identity key.
func (f *File) header() []byte {
	var b []byte
	for _, item := range [][]byte{
		[]byte(format), {version}, f.address[:], []byte(f.method),
		[]byte(f.token.Label), []byte(f.token.Serial), []byte(f.token.Manufacturer), []byte(f.token.Model),
		[]byte(f.object.Label), f.object.ID,
		[]byte(f.created.UTC().Format(time.RFC3339)), f.salt, f.wrapped,
	} {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(item))), item...)
	}
	return b
}
