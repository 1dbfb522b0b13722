// Package sealed is the format of files in which an identity key lies sealed by
// a token's key. It is pure: it reads no file, and reaches the token through a
// function that is handed in.
//
// A random data key of 32 bytes is wrapped by a key that never leaves the token.
// The data key seals the identity key, in the expanded form of 64 bytes that
// tor's files have:
//
//	key  = HKDF-SHA256(data key, salt, "balancer sealed identity key\x00" version address method), 32 bytes
//	seal = AES-256-GCM(key, nonce 0, expanded identity key, header)
//
// where version is one byte, address the 32 bytes of the public key, and method
// its name. The salt of 32 random bytes makes it the key of one file only, so the nonce may
// be fixed, and files that are made together may have the data key in common: then one
// operation of the token opens them all. The
// header that is authenticated along with the key is everything else that the
// file says, each item behind its length in four bytes, big-endian: the format's
// name, version, address, method, the token's label, serial, manufacturer and
// model, the object's label and ID, the time of sealing, salt, wrapped data key.
//
// So the file is bound to its address whatever the method of wrapping is, and
// cannot be changed by who cannot use the token. The file is JSON, to be looked
// at by people, and has one form only: Parse refuses what Encode would not
// write, byte for byte.
package sealed

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
	"onionbalancer/keystore/token"
)

const (
	format  = "balancer sealed identity key"
	version = 1
)

// Sizes in bytes.
const (
	MaxSize      = 16 << 10 // of a file; one sealed by RSA of 4096 bits has less than 2 KiB
	dataKeySize  = 32
	saltSize     = 32
	sealSize     = descriptor.ExpandedKeySize + 16
	maxWrapped   = 4 << 10
	maxNameBytes = 256 // of a label or an ID
)

// File is a sealed identity key. It holds no secret, is not changed once it is
// made, and may be shared.
type File struct {
	address descriptor.Address
	method  token.Method
	token   token.Selector
	object  token.Object
	created time.Time // of whole seconds

	salt    []byte
	wrapped []byte // the data key, by the token
	seal    []byte // the identity key, by the data key
}

// Address returns the onion address that the file says it is of. Open makes
// sure of it.
func (f *File) Address() descriptor.Address { return f.address }

// Method returns how the token's key wrapped the data key.
func (f *File) Method() token.Method { return f.method }

// Wrapped returns the data key as the token's key wrapped it, and how. Files that were
// sealed together have it in common.
func (f *File) Wrapped() (token.Method, []byte) { return f.method, slices.Clone(f.wrapped) }

// Token returns the token that the file was sealed with.
func (f *File) Token() token.Selector { return f.token }

// Object returns the key on the token that the file was sealed with.
func (f *File) Object() token.Object {
	return token.Object{Label: f.object.Label, ID: slices.Clone(f.object.ID)}
}

// Created returns when the file was made, in whole seconds.
func (f *File) Created() time.Time { return f.created }

// text is a file as JSON, its fields in the order in which they are written.
type text struct {
	Format  string         `json:"format"`
	Version int            `json:"version"`
	Address string         `json:"address"`
	Method  token.Method   `json:"method"`
	Token   token.Selector `json:"token"`
	Object  objectText     `json:"object"`
	Created string         `json:"created"`
	Salt    []byte         `json:"salt"`
	Wrapped []byte         `json:"data_key"`
	Seal    []byte         `json:"identity_key"`
}

type objectText struct {
	Label string `json:"label,omitempty"`
	ID    string `json:"id,omitempty"` // hex, as pkcs11-tool shows it
}

// Encode writes the file as Parse reads it.
func (f *File) Encode() ([]byte, error) {
	if err := f.check(); err != nil {
		return nil, token.Errorf(token.CodeMisuse, "encoding sealed key: %v", err)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(text{
		Format: format, Version: version, Address: f.address.String(), Method: f.method,
		Token: f.token, Object: objectText{f.object.Label, hex.EncodeToString(f.object.ID)},
		Created: f.created.UTC().Format(time.RFC3339), Salt: f.salt, Wrapped: f.wrapped, Seal: f.seal,
	})
	if err != nil {
		return nil, token.Errorf(token.CodeMisuse, "encoding sealed key: %v", err)
	}
	return b.Bytes(), nil
}

// Is tells from its content whether a file is meant to be a sealed key, of this
// version or another, whole or damaged.
func Is(raw []byte) bool {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	return bytes.HasPrefix(raw, []byte("{")) && bytes.Contains(raw[:min(len(raw), 200)], []byte(`"`+format+`"`))
}

// Parse reads a sealed key. Errors are of token.CodeDamaged, or of
// token.CodeUnsupported for a version or method that is not known.
func Parse(raw []byte) (*File, error) {
	f, code, err := parse(raw)
	if err != nil {
		return nil, token.Errorf(code, "reading sealed key: %v", err)
	}
	return f, nil
}

func parse(raw []byte) (*File, token.Code, error) {
	t, code, err := decode(raw)
	if err != nil {
		return nil, code, err
	}
	f := &File{method: t.Method, token: t.Token, salt: t.Salt, wrapped: t.Wrapped, seal: t.Seal}
	if f.address, err = descriptor.ParseAddress(t.Address); err != nil {
		return nil, token.CodeDamaged, err
	}
	f.object.Label = t.Object.Label
	if f.object.ID, err = hex.DecodeString(t.Object.ID); err != nil {
		return nil, token.CodeDamaged, fmt.Errorf("the object's id is not hexadecimal")
	}
	if f.created, err = time.Parse(time.RFC3339, t.Created); err != nil {
		return nil, token.CodeDamaged, errors.New("the time of sealing is damaged")
	}
	if !known(f.method) {
		return nil, token.CodeUnsupported, fmt.Errorf("it was sealed by the method %q, which this balancer does not know", f.method)
	}
	// What was written otherwise, be it by white space only, is not what was
	// sealed: fields given twice, in other letters or notations, or left out.
	again, err := f.Encode()
	if err != nil {
		return nil, token.CodeDamaged, err
	}
	if !bytes.Equal(raw, again) {
		return nil, token.CodeDamaged, errors.New("the file is not byte for byte as it was written; was it edited, or were its line ends converted? Restore it from a backup")
	}
	return f, "", nil
}

// decode reads the JSON of a version that is known.
func decode(raw []byte) (t *text, code token.Code, err error) {
	if len(raw) > MaxSize {
		return nil, token.CodeDamaged, fmt.Errorf("%d bytes are too many for a sealed key", len(raw))
	}
	var head struct {
		Format  string `json:"format"`
		Version int    `json:"version"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return nil, token.CodeDamaged, fmt.Errorf("not JSON, or cut short (%w); restore it from a backup", err)
	}
	switch {
	case head.Format != format:
		return nil, token.CodeDamaged, fmt.Errorf("no sealed key: the format is %.40q, want %q", head.Format, format)
	case head.Version > version:
		return nil, token.CodeUnsupported, fmt.Errorf("it is of version %d of the format, and this balancer knows up to %d: a newer balancer is needed", head.Version, version)
	case head.Version < 1:
		return nil, token.CodeDamaged, fmt.Errorf("there is no version %d of the format", head.Version)
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	t = new(text)
	if err := decoder.Decode(t); err != nil {
		return nil, token.CodeDamaged, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, token.CodeDamaged, errors.New("there is data after the end")
	}
	return t, "", nil
}

func known(m token.Method) bool {
	switch m {
	case token.MethodAESGCM, token.MethodAESKeyWrap, token.MethodOAEPSHA256, token.MethodOAEPSHA1, token.MethodECDHP256:
		return true
	}
	return false
}

// check refuses values that cannot be written or have a wrong size.
func (f *File) check() error {
	switch {
	case !known(f.method):
		return fmt.Errorf("the method %q is not known", f.method)
	case len(f.salt) != saltSize:
		return fmt.Errorf("a salt of %d bytes, want %d", len(f.salt), saltSize)
	case len(f.wrapped) == 0 || len(f.wrapped) > maxWrapped:
		return fmt.Errorf("a wrapped data key of %d bytes, want 1 to %d", len(f.wrapped), maxWrapped)
	case len(f.seal) != sealSize:
		return fmt.Errorf("a sealed identity key of %d bytes, want %d", len(f.seal), sealSize)
	case f.object.Label == "" && len(f.object.ID) == 0:
		return errors.New("no key on the token is named, neither by label nor by id")
	case f.created.Nanosecond() != 0 || f.created.Year() < 2000 || f.created.Year() > 9999:
		return errors.New("an impossible time of sealing")
	}
	for _, name := range []string{f.token.Label, f.token.Serial, f.token.Manufacturer, f.token.Model, f.object.Label, string(f.object.ID)} {
		if len(name) > maxNameBytes {
			return fmt.Errorf("a name or an id of %d bytes, want at most %d", len(name), maxNameBytes)
		}
	}
	for _, name := range []string{f.token.Label, f.token.Serial, f.token.Manufacturer, f.token.Model, f.object.Label} {
		if !utf8.ValidString(name) {
			return fmt.Errorf("a name that is not UTF-8: %q", name)
		}
	}
	return f.address.Validate()
}

// Seal seals key with a key of the token tok, by the first of its methods, and a data key of
// its own. wrap has the token wrap the data key, which it neither keeps nor wipes. random is
// crypto/rand.Reader but in tests; created is written into the file.
func Seal(key *descriptor.IdentityKey, tok token.Selector, with token.WrappingKey, created time.Time,
	wrap func(token.Method, *locked.Buffer) ([]byte, error), random io.Reader) (*File, error) {
	d, err := NewDataKey(tok, with, wrap, random)
	if err != nil {
		return nil, fmt.Errorf("sealing the key of %s: %w", key.Address().Short(), err)
	}
	defer d.Wipe()
	return d.Seal(key, created, random)
}

// DataKey is a data key, and what a token's key made of it. It seals identity keys, each to
// a file of its own, without the token.
type DataKey struct {
	of    File // what all files have in common
	plain *locked.Buffer
}

// NewDataKey makes a data key, as Seal does. The caller wipes it.
func NewDataKey(tok token.Selector, with token.WrappingKey, wrap func(token.Method, *locked.Buffer) ([]byte, error), random io.Reader) (_ *DataKey, err error) {
	if len(with.Methods) == 0 {
		return nil, token.Errorf(token.CodeUnsupported, "the token's key can wrap by no method")
	}
	d := &DataKey{of: File{method: with.Methods[0], token: validNames(tok), object: with.Object}, plain: locked.New(dataKeySize)}
	d.of.object.Label = strings.ToValidUTF8(with.Object.Label, "\uFFFD")
	defer func() {
		if err != nil {
			d.Wipe()
		}
	}()
	if _, err := d.plain.Fill(random); err != nil {
		return nil, err
	}
	if d.of.wrapped, err = wrap(d.of.method, d.plain); err != nil {
		return nil, err
	}
	var bare bool
	d.plain.Use(func(plain []byte) { bare = bytes.Contains(d.of.wrapped, plain) })
	if bare {
		return nil, token.Errorf(token.CodeFailed, "the token did not wrap the data key but returned it as it is")
	}
	return d, nil
}

// Wipe overwrites the data key.
func (d *DataKey) Wipe() { d.plain.Wipe() }

// Seal seals key. created is written into the file; random is as in the function Seal.
func (d *DataKey) Seal(key *descriptor.IdentityKey, created time.Time, random io.Reader) (*File, error) {
	f := d.of
	f.address, f.created = key.Address(), created.UTC().Truncate(time.Second)
	err := f.sealBy(d.plain, key, random)
	if err == nil {
		err = f.check()
	}
	if err != nil {
		return nil, fmt.Errorf("sealing the key of %s: %w", f.address.Short(), err)
	}
	return &f, nil
}

// sealBy seals key by a data key, under a new salt.
func (f *File) sealBy(dataKey *locked.Buffer, key *descriptor.IdentityKey, random io.Reader) error {
	f.salt = make([]byte, saltSize)
	if _, err := io.ReadFull(random, f.salt); err != nil {
		return err
	}
	f.seal = make([]byte, 0, sealSize)
	plain := key.Secret()
	defer plain.Wipe()
	var err error
	dataKey.Do(func(dataKey []byte) {
		var aead cipher.AEAD
		if aead, err = f.aead(dataKey); err == nil {
			plain.Use(func(plain []byte) {
				f.seal = aead.Seal(f.seal, make([]byte, aead.NonceSize()), plain, f.header())
			})
		}
	})
	return err
}

// validNames returns a token's texts about itself as text that JSON can hold.
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
	dataKey.Do(func(dataKey []byte) {
		var aead cipher.AEAD
		if aead, err = f.aead(dataKey); err != nil {
			return
		}
		plain.Use(func(plain []byte) {
			if _, err = aead.Open(plain[:0], make([]byte, aead.NonceSize()), f.seal, f.header()); err != nil {
				err = errOther
				return
			}
			key, err = descriptor.NewIdentityKey(plain)
		})
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

// aead returns the cipher that seals the identity key. It is called within locked.Do.
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
