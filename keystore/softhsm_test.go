//go:build cgo

package keystore

import (
	"crypto"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"onionbalancer/descriptor"
	"onionbalancer/keystore/pkcs11uri"
	"onionbalancer/keystore/token"
	"onionbalancer/keystore/token/tokentest"
)

func mustURI(t *testing.T, s string) *pkcs11uri.URI {
	t.Helper()
	uri, err := pkcs11uri.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return uri
}

// TestSealedBySoftHSM seals by each kind of key, and certifies.
func TestSealedBySoftHSM(t *testing.T) {
	hsm := tokentest.New(t)
	key := newKey(t).Identity()
	for kind, method := range map[tokentest.Kind]token.Method{
		tokentest.AES: token.MethodAESGCM, tokentest.RSA: token.MethodOAEPSHA1, tokentest.P256: token.MethodECDHP256,
	} {
		hsm.Make(t, kind, "seal "+string(method), "01")
		ref := hsm.URI("seal "+string(method)) + "&x-sealed=" + filepath.Join(t.TempDir(), "front.sealed")
		file, err := SealTo(t.Context(), key, mustURI(t, ref))
		if err != nil {
			t.Errorf("%s: %v", method, err)
			continue
		}
		if file.Method() != method || file.Token().Label != hsm.Label || file.Address() != key.Address() {
			t.Errorf("sealed by %s with %v, want %s", file.Method(), file.Token(), method)
		}
		if err := VerifySealed(t.Context(), mustURI(t, ref)); err != nil {
			t.Errorf("%s: %v", method, err)
		}
		loaded, err := Load(t.Context(), ref)
		if err != nil || !same(loaded, key) {
			t.Errorf("%s: another key is loaded, %v", method, err)
		}
	}
}

// TestAbsentToken: a token that is not there fails a certification and no
// other thing, and the next one when it is back does not.
func TestAbsentToken(t *testing.T) {
	hsm := tokentest.New(t)
	hsm.Make(t, tokentest.AES, "seal", "01")
	ref := hsm.URI("seal") + "&x-sealed=" + filepath.Join(t.TempDir(), "front.sealed")
	if _, err := SealTo(t.Context(), newKey(t).Identity(), mustURI(t, ref)); err != nil {
		t.Fatal(err)
	}
	hsm.Remove(t)
	custodian, err := Open(ref)
	if err != nil {
		t.Fatal(err)
	}
	defer custodian.Close()
	if _, err := custodian.Certify(t.Context(), period, signingKey, hours); !errors.Is(err, &token.Error{Code: token.CodeAbsent}) {
		t.Errorf("without the token: %v", err)
	}
	hsm.Insert(t)
	cert, err := custodian.Certify(t.Context(), period, signingKey, hours)
	if err != nil {
		t.Fatal(err)
	}
	blinded, err := custodian.Address().Blind(period)
	if err != nil {
		t.Fatal(err)
	}
	if err := cert.Verify(blinded, wish); err != nil {
		t.Error(err)
	}
}

// TestSignsOnSoftHSM has a signing key made, found again and destroyed, and an
// identity key that was made on the token sign.
func TestSignsOnSoftHSM(t *testing.T) {
	hsm := tokentest.New(t)
	keys, err := OpenSigning(hsm.URI(""), newKey(t).Address(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer keys.Close()
	signer, err := keys.SigningKey(t.Context(), period)
	if err != nil {
		t.Fatal(err)
	}
	// Without the PIN, nothing shows: not even that there are keys.
	if shown := hsm.Shown(t); strings.Contains(shown, "Object") || strings.Contains(shown, "label") {
		t.Errorf("without the PIN the token tells: %s", shown)
	}
	if listed := hsm.Tool(t, "--list-objects"); strings.Count(listed, "label:      signing ") != 2 {
		t.Errorf("with the PIN it tells: %s", listed)
	}
	again, err := keys.SigningKey(t.Context(), period)
	if err != nil || !again.Public().(ed25519.PublicKey).Equal(signer.Public()) {
		t.Errorf("another key the second time, %v", err)
	}
	message := make([]byte, 40_000)
	if signature, err := signer.Sign(nil, message, crypto.Hash(0)); err != nil || !ed25519.Verify(signer.Public().(ed25519.PublicKey), message, signature) {
		t.Errorf("signature: %v", err)
	}
	if err := keys.Retire(t.Context(), []descriptor.Period{period}); err != nil {
		t.Error(err)
	}
	if _, err := signer.Sign(nil, message, crypto.Hash(0)); err != nil {
		t.Errorf("a key in use was destroyed: %v", err)
	}
	if err := keys.Retire(t.Context(), []descriptor.Period{period.Next()}); err != nil {
		t.Error(err)
	}
	if _, err := signer.Sign(nil, message, crypto.Hash(0)); !errors.Is(err, &token.Error{Code: token.CodeNoKey}) {
		t.Errorf("an old key was not destroyed: %v", err)
	}

	// One that an earlier version made, of which the public half shows.
	name := unsalted(keys.of)(period)
	hsm.Make(t, tokentest.Ed25519, name.Label, hex.EncodeToString(name.ID))
	if signer, err = keys.SigningKey(t.Context(), period); err != nil {
		t.Fatal(err)
	}
	if _, err := signer.Sign(nil, message, crypto.Hash(0)); err != nil || !strings.Contains(hsm.Shown(t), name.Label) {
		t.Errorf("an earlier version's key: %v", err)
	}
	if err := keys.Retire(t.Context(), []descriptor.Period{period.Next()}); err != nil || strings.Contains(hsm.Shown(t), "label") {
		t.Errorf("an earlier version's key was not destroyed: %v", err)
	}

	hsm.Make(t, tokentest.Ed25519, "identity", "02")
	identity, err := OpenIdentitySigner(t.Context(), hsm.URI("identity"))
	if err != nil {
		t.Fatal(err)
	}
	defer identity.Close()
	signature, err := identity.SignIdentity(t.Context(), message)
	if address := identity.Address(); err != nil || !ed25519.Verify(address[:], message, signature) {
		t.Errorf("signature under the address: %v", err)
	}
	if _, err := OpenIdentitySigner(t.Context(), hsm.URI("absent")); !errors.Is(err, &token.Error{Code: token.CodeNoKey}) {
		t.Errorf("an absent key: %v", err)
	}
}
