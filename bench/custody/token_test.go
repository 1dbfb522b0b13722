package custody

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"onionbalancer/bench/points"
	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
	"onionbalancer/keystore"
	"onionbalancer/keystore/offline"
	"onionbalancer/keystore/pkcs11uri"
	"onionbalancer/keystore/sealed"
	"onionbalancer/keystore/token"
	"onionbalancer/keystore/token/tokentest"
)

// sealings are the methods of SoftHSM, each with the kind of key that it needs.
var sealings = []struct {
	method token.Method
	kind   tokentest.Kind
}{
	{token.MethodAESGCM, tokentest.AES},
	{token.MethodAESKeyWrap, tokentest.AES},
	{token.MethodOAEPSHA1, tokentest.RSA},
	{token.MethodECDHP256, tokentest.P256},
}

// sealedKeys certifies with keys that a token unseals every time.
func sealedKeys(b *testing.B) {
	for _, s := range sealings {
		b.Run(string(s.method), func(b *testing.B) {
			hsm := tokentest.New(b)
			hsm.Make(b, s.kind, "wrap", "01")
			path := filepath.Join(b.TempDir(), "front.sealed")
			uri := hsm.URI("wrap")
			sealTo(b, path, uri, s.method)
			certify(b, open(b, uri+"&x-sealed="+url.QueryEscape(path)))
		})
	}
}

// sealTo writes a new key, sealed by the token's key that uri names.
func sealTo(b *testing.B, path, ref string, method token.Method) {
	b.Helper()
	uri, err := pkcs11uri.Parse(ref)
	if err != nil {
		b.Fatal(err)
	}
	tok, err := token.Open(uri)
	if err != nil {
		b.Fatal(err)
	}
	defer tok.Close()
	identity, err := descriptor.IdentityKeyFromSeed(points.RandomBytes(ed25519.SeedSize))
	if err != nil {
		b.Fatal(err)
	}
	defer identity.Wipe()
	object := token.ObjectOf(uri)
	with := token.WrappingKey{Object: object, Methods: []token.Method{method}}
	file, err := sealed.Seal(identity, token.SelectorOf(uri), with, time.Now(), func(m token.Method, dataKey *locked.Buffer) ([]byte, error) {
		return tok.Wrap(b.Context(), object, m, dataKey)
	}, rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	raw, err := file.Encode()
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		b.Fatal(err)
	}
}

// newTokenSigner returns a descriptor-signing key in a token.
func newTokenSigner(b *testing.B) crypto.Signer {
	b.Helper()
	keys, err := keystore.OpenSigning(tokentest.New(b).URI(""), descriptor.Address{1}, b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := keys.Close(); err != nil {
			b.Error(err)
		}
	})
	signer, err := keys.SigningKey(b.Context(), offline.Public.Period(first))
	if err != nil {
		b.Fatal(err)
	}
	return signer
}
