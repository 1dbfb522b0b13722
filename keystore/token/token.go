// Package token uses keys on PKCS #11 tokens: HSMs, smart cards, SoftHSM.
//
// A vendor's PKCS #11 module is foreign code that may crash, hang, or read what
// it should not. So it is never loaded into the process that asks. Token starts
// a helper, this same program in another process, which loads the module (package
// module) and answers requests over a socket (package helper).
package token

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"strings"
	"sync"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
	"onionbalancer/keystore/pkcs11uri"
	"onionbalancer/keystore/token/pin"
)

// Selector identifies a token, by its label and the like, never by the
// number of its slot, which changes. Empty fields match every token.
type Selector struct {
	Label        string `json:"label,omitempty"`
	Serial       string `json:"serial,omitempty"`
	Manufacturer string `json:"manufacturer,omitempty"`
	Model        string `json:"model,omitempty"`
}

// Info is a token's description of itself.
type Info struct {
	Selector
	Firmware string `json:"firmware,omitempty"`
	Module   string `json:"module,omitempty"` // the library's description and version
}

// Object identifies a key on a token: by label, by ID, or both. The
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

// Code is the kind of an error, for callers that decide how to continue.
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

// OfToken reports whether the error is the token's and not the request's: until it is
// there, or logged in to, all others fail as well.
func (c Code) OfToken() bool {
	return c == CodeAbsent || c == CodePIN || c == CodeFinalTry || c == CodeLocked
}

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

// Token is a token that is used through a helper process. All methods may be
// called concurrently; requests to one token are carried out one at a time, in
// the order in which they come, but that certifications which wait go together (see
// Certify). Each returns when its context ends, and after
// 30 seconds at most: then the helper is killed, and the next request starts a
// new one. So does one that finds the helper dead. No request is retried.
//
// Errors wrap *Error if they have a Code.
type Token struct {
	helper *helper
	name   string

	mu     sync.Mutex
	closed bool
}

// Open returns the token that uri names. It starts no process, reads no PIN, and
// does not know whether the token is there. Tokens opened by the same module,
// selector and PIN source share a helper.
func Open(uri *pkcs11uri.URI) (*Token, error) {
	if uri.ModulePath == "" {
		return nil, Errorf(CodeMisuse, "opening token: the URI has no module-path, the file of the PKCS #11 library")
	}
	source, err := pin.Parse(uri.PINSource)
	if err != nil {
		return nil, fmt.Errorf("opening token: %w", err)
	}
	source.Claim()
	at, err := pinTargetOf(uri)
	if err != nil {
		return nil, fmt.Errorf("opening token: %w", err)
	}
	return &Token{helper: share(at, source), name: at.selector.String()}, nil
}

// SelectorOf returns which token a URI names.
func SelectorOf(uri *pkcs11uri.URI) Selector {
	return Selector{Label: uri.Label, Serial: uri.Serial, Manufacturer: uri.Manufacturer, Model: uri.Model}
}

// ObjectOf returns which key a URI names.
func ObjectOf(uri *pkcs11uri.URI) Object { return Object{Label: uri.Object, ID: uri.ID} }

// String names the token for people, by all that selects it.
func (s Selector) String() string {
	var fields []string
	for _, field := range []struct{ name, value string }{
		{"", s.Label}, {"serial ", s.Serial}, {"model ", s.Model}, {"manufacturer ", s.Manufacturer},
	} {
		if field.value != "" {
			fields = append(fields, fmt.Sprintf("%s%q", field.name, field.value))
		}
	}
	if len(fields) == 0 {
		return "the only token"
	}
	return "token " + strings.Join(fields, ", ")
}

// Close releases the token. The helper ends with its last user; requests in
// flight get two seconds.
func (t *Token) Close() error {
	t.mu.Lock()
	closed := t.closed
	t.closed = true
	t.mu.Unlock()
	if !closed {
		t.helper.release()
	}
	return nil
}

// do carries a request out; doing is its name in errors.
func (t *Token) do(ctx context.Context, doing string, request Request, payload *locked.Buffer) (*Response, *locked.Buffer, error) {
	t.mu.Lock()
	closed := t.closed
	t.mu.Unlock()
	var response *Response
	var secret *locked.Buffer
	err := error(Errorf(CodeMisuse, "the token is closed"))
	if !closed {
		response, secret, err = t.helper.do(ctx, &request, payload)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s with %s: %w", doing, t.name, err)
	}
	return response, secret, nil
}

// Info logs in to the token if necessary, and returns its description of itself.
func (t *Token) Info(ctx context.Context) (Info, error) {
	response, _, err := t.do(ctx, "logging in", Request{Op: OpInfo}, nil)
	if err != nil {
		return Info{}, err
	}
	return response.Info, nil
}

// Ping makes sure that the helper runs, is logged in, and answers. It does not
// ask the token.
func (t *Token) Ping(ctx context.Context) error {
	_, _, err := t.do(ctx, "reaching the helper", Request{Op: OpPing}, nil)
	return err
}

// WrappingKey finds a key that can wrap, and its methods.
func (t *Token) WrappingKey(ctx context.Context, o Object) (WrappingKey, error) {
	response, _, err := t.do(ctx, "looking for a wrapping key", Request{Op: OpWrappingKey, Object: o}, nil)
	if err != nil {
		return WrappingKey{}, err
	}
	return response.Wrapping, nil
}

// Wrap wraps a data key of 32 bytes, which stays the caller's.
func (t *Token) Wrap(ctx context.Context, o Object, m Method, secret *locked.Buffer) ([]byte, error) {
	response, _, err := t.do(ctx, "wrapping a data key", Request{Op: OpWrap, Object: o, Method: m}, secret)
	if err != nil {
		return nil, err
	}
	return response.Data, nil
}

// Unseal opens a sealed file and returns the identity key itself, which the
// caller wipes.
func (t *Token) Unseal(ctx context.Context, o Object, sealedFile []byte) (*descriptor.IdentityKey, error) {
	const doing = "unsealing"
	_, secret, err := t.do(ctx, doing, Request{Op: OpUnseal, Object: o, Sealed: sealedFile}, nil)
	if err != nil {
		return nil, err
	}
	defer secret.Wipe()
	var key *descriptor.IdentityKey
	secret.Do(func(secret []byte) { key, err = descriptor.NewIdentityKey(secret) })
	if err != nil {
		return nil, fmt.Errorf("%s with %s: %w", doing, t.name, err)
	}
	return key, nil
}

// SignIdentity has the helper unseal the identity key, sign message by it with
// plain Ed25519, and wipe it. The signature has 64 bytes; the caller verifies it
// by the address that it means.
func (t *Token) SignIdentity(ctx context.Context, o Object, sealedFile []byte, message []byte) ([]byte, error) {
	return t.sign(ctx, "signing under the address", Request{Op: OpSignIdentity, Object: o, Sealed: sealedFile, Data: message})
}

// Generate makes an Ed25519 key pair on the token that cannot leave it.
func (t *Token) Generate(ctx context.Context, o Object) (SigningKey, error) {
	const doing = "generating a key"
	response, _, err := t.do(ctx, doing, Request{Op: OpGenerate, Object: o}, nil)
	if err == nil && len(response.Signing.Public) != ed25519.PublicKeySize {
		err = fmt.Errorf("%s with %s: a public key of %d bytes", doing, t.name, len(response.Signing.Public))
	}
	if err != nil {
		return SigningKey{}, err
	}
	return response.Signing, nil
}

// SigningKeys returns the Ed25519 key pairs on the token whose labels begin with
// labelPrefix.
func (t *Token) SigningKeys(ctx context.Context, labelPrefix string) ([]SigningKey, error) {
	const doing = "listing keys"
	response, _, err := t.do(ctx, doing, Request{Op: OpKeys, Prefix: labelPrefix}, nil)
	if err != nil {
		return nil, err
	}
	for _, key := range response.Keys {
		if len(key.Public) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("%s with %s: a public key of %d bytes", doing, t.name, len(key.Public))
		}
	}
	return response.Keys, nil
}

// Sign has the token sign with plain Ed25519. The signature has 64 bytes; the
// caller verifies it.
func (t *Token) Sign(ctx context.Context, o Object, message []byte) ([]byte, error) {
	return t.sign(ctx, "signing", Request{Op: OpSign, Object: o, Data: message})
}

func (t *Token) sign(ctx context.Context, doing string, request Request) ([]byte, error) {
	if len(request.Data) > MaxMessage {
		return nil, Errorf(CodeMisuse, "%s with %s: a message of %d bytes is too long", doing, t.name, len(request.Data))
	}
	response, _, err := t.do(ctx, doing, request, nil)
	if err == nil && len(response.Data) != ed25519.SignatureSize {
		err = fmt.Errorf("%s with %s: a signature of %d bytes", doing, t.name, len(response.Data))
	}
	if err != nil {
		return nil, err
	}
	return response.Data, nil
}

// Destroy destroys the Ed25519 key pair o.
func (t *Token) Destroy(ctx context.Context, o Object) error {
	_, _, err := t.do(ctx, "destroying a key", Request{Op: OpDestroy, Object: o}, nil)
	return err
}

// Temporary reports whether the next try may succeed without an
// operator: the token is absent, or the helper died. Then it is worth trying
// again soon. A wrong PIN, above all, is not.
func (e *Error) Temporary() bool { return e.Code == CodeAbsent || e.Code == CodeCrashed }
