package sealed

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"slices"
	"time"

	"onionbalancer/descriptor"
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
