// Package token uses keys on PKCS #11 tokens: HSMs, smart cards, SoftHSM.
//
// A vendor's PKCS #11 module is foreign code that may crash, hang, or read what
// it should not. So it is never loaded into the process that asks. Token starts
// a helper, this same program in another process, which loads the module (package
// module) and answers requests over a socket (package serve).
package token

import (
	"crypto/ed25519"
	"fmt"
)

// Selector says which token is meant, by what is written on it and never by the
// number of its slot, which changes. Empty fields match every token.
type Selector struct {
	Label        string `json:"label,omitempty"`
	Serial       string `json:"serial,omitempty"`
	Manufacturer string `json:"manufacturer,omitempty"`
	Model        string `json:"model,omitempty"`
}

// Info is what a token tells of itself.
type Info struct {
	Selector
	Firmware string `json:"firmware,omitempty"`
	Module   string `json:"module,omitempty"` // the library's description and version
}

// Object says which key on a token is meant: by label, by ID, or both. The
// empty field matches every object; both empty match nothing.
type Object struct {
	Label string `json:"label,omitempty"` // CKA_LABEL
	ID    []byte `json:"id,omitempty"`    // CKA_ID
}

// Method is how a token's key wraps a data key. Sealed files name it.
type Method string

// The methods, in the order of preference among those that one key can do.
const (
	MethodAESGCM     Method = "aes-gcm"         // CKM_AES_GCM, encrypt and decrypt
	MethodAESKeyWrap Method = "aes-key-wrap"    // CKM_AES_KEY_WRAP, RFC 3394
	MethodOAEPSHA256 Method = "rsa-oaep-sha256" // CKM_RSA_PKCS_OAEP
	MethodOAEPSHA1   Method = "rsa-oaep-sha1"   // the only one of SoftHSM and many a smart card; sound in OAEP
	MethodECDHP256   Method = "ecdh-p256"       // CKM_ECDH1_DERIVE
)

// WrappingKey is a key on a token that can wrap, and never leaves it.
type WrappingKey struct {
	Object  Object   `json:"object"`
	Methods []Method `json:"methods"` // at least one; the first is the one to use
}

// SigningKey is an Ed25519 key pair on a token.
type SigningKey struct {
	Object Object            `json:"object"`
	Public ed25519.PublicKey `json:"public"`
	// Shown says of a key just made that the token shows Public without the PIN.
	Shown bool `json:"shown,omitempty"`
}

// Code says what went wrong, for those who have to decide what to do next.
type Code string

// The codes.
const (
	CodeAbsent      Code = "absent"      // module, token or device is not there now: try again
	CodePIN         Code = "pin"         // the PIN is wrong: never try it again
	CodeFinalTry    Code = "final try"   // one more wrong PIN would lock the token, or be the second: not tried
	CodeLocked      Code = "locked"      // the token is locked, or no PIN was set
	CodeNoKey       Code = "no key"      // no such key, or more than one
	CodeExposed     Code = "exposed"     // the key could leave the token
	CodeUnsupported Code = "unsupported" // the token or this program cannot do it
	CodeDamaged     Code = "damaged"     // a sealed file does not open with this key
	CodeCrashed     Code = "crashed"     // the helper died or did not answer in time
	CodeMisuse      Code = "misuse"      // the request makes no sense
	CodeFailed      Code = "failed"      // anything else
)

// Error is an error of a token, as it crosses from the helper. Text never holds
// a PIN or a key.
type Error struct {
	Code Code   `json:"code"`
	Text string `json:"text"`
}

// Errorf makes an Error.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{code, fmt.Sprintf(format, args...)}
}

func (e *Error) Error() string { return e.Text }

// Is makes errors.Is(err, &Error{Code: c}) true for every error of code c.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && (t.Text == "" || t.Text == e.Text)
}
