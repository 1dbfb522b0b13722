package cluster

import (
	"bytes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"onionbalancer/internal/locked"
	"onionbalancer/internal/state"
)

// Whoever runs the engine, or has its disk, is to learn of a record neither what it is
// about nor what it says. In the engine are
//
//	root TAG "/layout"       the layout record
//	root TAG "/" TAG         any other record
//
// where TAG is an HMAC-SHA-256, in base32 and cut to 130 bits, of the cluster's name or of
// the record's key. A sealed value is
//
//	layout    1 byte
//	key id    4 bytes, which tell which of two keys opens it
//	nonce     24 bytes, random
//	box       XChaCha20-Poly1305; its associated data are the cluster's name, layout and
//	          key id, and the name of the record in the engine, so that values cannot
//	          change places
//
// and what is in the box has a length that is a multiple of 256 bytes:
//
//	length of the key, 2 bytes, big-endian; key
//	length of the value, 4 bytes, big-endian; value
//	zeros
const (
	root       = "/balancer/"
	layoutName = "layout"
	layout     = 1
	tagSize    = 26
	idSize     = 4
	headerSize = 1 + idSize + chacha20poly1305.NonceSizeX
	padding    = 256
)

// errSealed says that a value was not sealed by a key that this manager has, or was
// changed since.
var errSealed = fmt.Errorf("%w, or sealed by a key that this manager does not have", state.ErrDamaged)

// tagCoding is of names in the engine.
var tagCoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// sealer seals and names the records of one cluster. It is safe for concurrent use.
type sealer struct {
	cluster string // its name
	prefix  string // of all names
	names   *locked.Buffer
	keys    []sealKey // the first seals
}

type sealKey struct {
	id  [idSize]byte
	key *locked.Buffer
}

func newSealer(k *Key, cluster string) (*sealer, error) {
	s := &sealer{cluster: cluster}
	var err error
	if s.names, err = derive(k.names, "names", cluster, halfSize); err != nil {
		return nil, err
	}
	s.prefix = root + s.tag("cluster", cluster) + "/"
	for _, half := range k.seals {
		var key sealKey
		id, err := derive(half, "key id", cluster, idSize)
		if err == nil {
			id.Use(func(secret []byte) { key.id = [idSize]byte(secret) })
			key.key, err = derive(half, "values", cluster, chacha20poly1305.KeySize)
		}
		if err != nil {
			return nil, err
		}
		s.keys = append(s.keys, key)
	}
	return s, nil
}

// derive derives n bytes from a half of the cluster key.
func derive(half *locked.Buffer, what, cluster string, n int) (*locked.Buffer, error) {
	derived := locked.New(n)
	var err error
	half.Do(func(secret []byte) {
		var key []byte
		if key, err = hkdf.Key(sha256.New, secret, nil, "onionbalancer cluster "+what+": "+cluster, n); err == nil {
			derived.Use(func(kept []byte) { copy(kept, key) })
		}
	})
	if err != nil {
		return nil, fmt.Errorf("deriving the %s from the cluster key: %w", what, err)
	}
	return derived, nil
}

// tag returns what stands for text in the engine.
func (s *sealer) tag(what, text string) string {
	var sum [sha256.Size]byte
	s.names.Do(func(secret []byte) {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(what + " " + text))
		mac.Sum(sum[:0])
	})
	return tagCoding.EncodeToString(sum[:])[:tagSize]
}

// name returns the name of a record in the engine.
func (s *sealer) name(key state.Key) string { return s.prefix + s.tag("record", string(key)) }

// layout returns the name of the layout record.
func (s *sealer) layout() string { return s.prefix + layoutName }

// with calls f with the ciphers of all keys, in the order of s.keys.
func (s *sealer) with(f func([]cipher.AEAD)) {
	var next func(ciphers []cipher.AEAD)
	next = func(ciphers []cipher.AEAD) {
		if len(ciphers) == len(s.keys) {
			f(ciphers)
			return
		}
		s.keys[len(ciphers)].key.Use(func(secret []byte) {
			c, err := chacha20poly1305.NewX(secret)
			if err != nil {
				panic(err) // the size is right
			}
			next(append(ciphers, c))
		})
	}
	locked.Do(func() { next(nil) })
}

// sealedSize returns the size of a value when it is sealed.
func sealedSize(key state.Key, value []byte) int {
	return headerSize + padded(2+len(key)+4+len(value)) + chacha20poly1305.Overhead
}

func padded(n int) int { return (n + padding - 1) / padding * padding }

// seal seals a value for its name in the engine.
func (s *sealer) seal(name string, key state.Key, value []byte) []byte {
	sealed := make([]byte, headerSize, sealedSize(key, value))
	sealed[0] = layout
	copy(sealed[1:], s.keys[0].id[:])
	rand.Read(sealed[1+idSize:])
	s.with(func(ciphers []cipher.AEAD) {
		plain := make([]byte, 0, padded(2+len(key)+4+len(value)))
		plain = binary.BigEndian.AppendUint16(plain, uint16(len(key)))
		plain = append(plain, key...)
		plain = binary.BigEndian.AppendUint32(plain, uint32(len(value)))
		plain = append(plain, value...)
		sealed = ciphers[0].Seal(sealed, sealed[1+idSize:headerSize], plain[:cap(plain)], s.associated(sealed, name))
	})
	return sealed
}

// associated returns the associated data of a sealed value.
func (s *sealer) associated(sealed []byte, name string) []byte {
	data := binary.BigEndian.AppendUint16(nil, uint16(len(s.cluster)))
	data = append(data, s.cluster...)
	data = append(data, sealed[:1+idSize]...)
	return append(data, name...)
}

// opened is a value that was opened, or err.
type opened struct {
	key   state.Key
	value []byte // not nil
	err   error
}

// open opens the values of items.
func (s *sealer) open(items []Item) []opened {
	list := make([]opened, len(items))
	if len(items) == 0 {
		return list
	}
	s.with(func(ciphers []cipher.AEAD) {
		var scratch []byte
		for i, item := range items {
			if scratch, list[i].err = s.openOne(ciphers, scratch, item, &list[i]); list[i].err != nil {
				list[i].err = fmt.Errorf("opening a record: %w", list[i].err)
			}
		}
		clear(scratch[:cap(scratch)])
	})
	return list
}

func (s *sealer) openOne(ciphers []cipher.AEAD, scratch []byte, item Item, o *opened) ([]byte, error) {
	sealed := item.Value
	number, err := layoutOf(sealed)
	if err == nil {
		err = otherLayout(number)
	}
	if err != nil {
		return scratch, err
	}
	for i, key := range s.keys {
		if headerOf(sealed).keyID() != key.id {
			continue
		}
		plain, err := ciphers[i].Open(scratch[:0], sealed[1+idSize:headerSize], sealed[headerSize:], s.associated(sealed, item.Key))
		if err != nil {
			continue
		}
		o.key, o.value, err = unpack(plain)
		return plain, err
	}
	return scratch, errSealed
}

// layoutOf returns the layout number of a sealed value.
func layoutOf(sealed []byte) (byte, error) {
	if len(sealed) < headerSize+chacha20poly1305.Overhead {
		return 0, fmt.Errorf("%w: %d bytes", state.ErrDamaged, len(sealed))
	}
	return sealed[0], nil
}

// header is the beginning of a sealed value, which no two values have in common. That of a
// shorter value is filled up with zeros.
type header [headerSize]byte

func headerOf(sealed []byte) (h header) {
	copy(h[:], sealed)
	return h
}

// keyID returns the id of the key that sealed a value.
func (h header) keyID() [idSize]byte { return [idSize]byte(h[1:]) }

// otherLayout returns the error about a layout that is not this balancer's.
func otherLayout(number byte) error {
	switch {
	case number > layout:
		return fmt.Errorf("%w: its layout is %d, this one knows %d", state.ErrNewer, number, layout)
	case number < layout:
		return fmt.Errorf("%w: its layout is %d", state.ErrDamaged, number)
	}
	return nil
}

// unpack returns copies of the key and the value in an opened box.
func unpack(plain []byte) (state.Key, []byte, error) {
	wrong := fmt.Errorf("%w: what was sealed has a wrong form", state.ErrDamaged)
	if len(plain) < 2 {
		return "", nil, wrong
	}
	n := int(binary.BigEndian.Uint16(plain))
	plain = plain[2:]
	if len(plain) < n+4 {
		return "", nil, wrong
	}
	key := state.Key(plain[:n])
	plain = plain[n:]
	size := uint64(binary.BigEndian.Uint32(plain))
	plain = plain[4:]
	if uint64(len(plain)) < size || len(bytes.Trim(plain[size:], "\x00")) > 0 {
		return "", nil, wrong
	}
	value := make([]byte, size)
	copy(value, plain)
	return key, value, nil
}
