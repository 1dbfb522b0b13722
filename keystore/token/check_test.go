package token_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
	"onionbalancer/keystore/pkcs11uri"
	"onionbalancer/keystore/sealed"
	"onionbalancer/keystore/token"
)

var (
	period  = descriptor.Period{Number: 20777, Length: 24 * time.Hour}
	expires = time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	hours   = descriptor.Expiries{First: expires, Count: 50}
)

func open(t testing.TB, uri string) *token.Token {
	t.Helper()
	u, err := pkcs11uri.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := token.Open(u)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tok.Close() })
	return tok
}

func newIdentity(t testing.TB) *descriptor.IdentityKey {
	t.Helper()
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed)
	key, err := descriptor.IdentityKeyFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sealBy seals key by the wrapping key o of tok.
func sealBy(t testing.TB, tok *token.Token, o token.Object, key *descriptor.IdentityKey) []byte {
	t.Helper()
	info, err := tok.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	with, err := tok.WrappingKey(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	file, err := sealed.Seal(key, info.Selector, with, time.Unix(1750000000, 0), func(m token.Method, plain *locked.Buffer) ([]byte, error) {
		return tok.Wrap(t.Context(), o, m, plain)
	}, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := file.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// checkIdentity has tok do all that an identity key is for.
func checkIdentity(t testing.TB, tok *token.Token, o token.Object, raw []byte, key *descriptor.IdentityKey) {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert, revision, err := tok.Certify(t.Context(), o, raw, period, public, hours)
	if err != nil {
		t.Fatal(err)
	}
	blinded, err := key.Blind(period)
	if err != nil {
		t.Fatal(err)
	}
	defer blinded.Wipe()
	if err := cert.Verify(blinded.Public(), expires); err != nil || cert.First().Key() != [32]byte(public) || !cert.First().Expires().Equal(expires) || !cert.Expires().Equal(hours.Last()) {
		t.Errorf("certificates for %x until %s: %v", cert.First().Key(), cert.Expires(), err)
	}
	if !bytes.Equal(revision.Bytes(), blinded.RevisionKey().Bytes()) {
		t.Error("another revision key")
	}
	message := []byte("a message under the address")
	signature, err := tok.SignIdentity(t.Context(), o, raw, message)
	address := key.Address()
	if err != nil || !ed25519.Verify(address[:], message, signature) {
		t.Errorf("signature under the address: %v", err)
	}
	plain, err := tok.Unseal(t.Context(), o, raw)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Wipe()
	if !bytes.Equal(plain.Expanded(), key.Expanded()) {
		t.Error("another key was unsealed")
	}
}

// checkSigning has tok make, find, use and destroy a signing key.
func checkSigning(t testing.TB, tok *token.Token) {
	t.Helper()
	want := token.Object{Label: "test signing 1", ID: []byte{0xab, 1}}
	key, err := tok.Generate(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := tok.SigningKeys(t.Context(), "test signing ")
	if err != nil || len(keys) != 1 || !bytes.Equal(keys[0].Public, key.Public) || keys[0].Object.Label != want.Label || !bytes.Equal(keys[0].Object.ID, want.ID) {
		t.Errorf("keys are %v, %v", keys, err)
	}
	message := bytes.Repeat([]byte("descriptor "), 5000)
	signature, err := tok.Sign(t.Context(), key.Object, message)
	if err != nil || !ed25519.Verify(key.Public, message, signature) {
		t.Errorf("signature: %v", err)
	}
	if err := tok.Destroy(t.Context(), key.Object); err != nil {
		t.Error(err)
	}
	if keys, err := tok.SigningKeys(t.Context(), "test signing "); err != nil || len(keys) != 0 {
		t.Errorf("after all were destroyed, keys are %v, %v", keys, err)
	}
	if _, err := tok.Sign(t.Context(), key.Object, message); !errors.Is(err, &token.Error{Code: token.CodeNoKey}) {
		t.Errorf("signing with a destroyed key: %v", err)
	}
}
