package token

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
)

// Info logs in to the token if need be, and returns what it tells of itself.
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

// WrappingKey finds a key that can wrap, and what it can do.
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
	locked.Do(func() { key, err = descriptor.NewIdentityKey(secret.Bytes()) })
	if err != nil {
		return nil, fmt.Errorf("%s with %s: %w", doing, t.name, err)
	}
	return key, nil
}

// Certify has the helper unseal the identity key, certify signing for period p
// by it, and wipe it. The caller checks that the certificate's signer is the
// blinded key of the address that it means.
func (t *Token) Certify(ctx context.Context, o Object, sealedFile []byte, p descriptor.Period, signing ed25519.PublicKey, expires time.Time) (descriptor.Certificate, descriptor.RevisionKey, error) {
	const doing = "certifying"
	response, secret, err := t.do(ctx, doing, Request{Op: OpCertify, Object: o, Sealed: sealedFile, Period: p, Signing: signing, Expires: expires}, nil)
	if err != nil {
		return descriptor.Certificate{}, descriptor.RevisionKey{}, err
	}
	defer secret.Wipe()
	cert, err := checkCertificate(response.Data, signing)
	var revision descriptor.RevisionKey
	if err == nil {
		locked.Do(func() { revision, err = descriptor.NewRevisionKey(secret.Bytes()) })
	}
	if err != nil {
		return descriptor.Certificate{}, descriptor.RevisionKey{}, fmt.Errorf("%s with %s: %w", doing, t.name, err)
	}
	return cert, revision, nil
}

// checkCertificate reads a certificate and makes sure that it is for signing and
// signed by whom it says.
func checkCertificate(raw []byte, signing ed25519.PublicKey) (descriptor.Certificate, error) {
	cert, err := descriptor.ParseCertificate(raw)
	if err != nil {
		return descriptor.Certificate{}, err
	}
	signer, ok := cert.SigningKey()
	if !ok || cert.Type() != descriptor.CertHSDescSigning || cert.Key() != [32]byte(signing) {
		return descriptor.Certificate{}, errors.New("the helper certified something else")
	}
	return cert, cert.Verify(signer, cert.Expires())
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
