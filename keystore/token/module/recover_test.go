//go:build cgo

package module

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"onionbalancer/keystore/token"
	"onionbalancer/keystore/token/tokentest"
)

// counting counts the logins to a real module.
type counting struct {
	api
	logins int
}

func (c *counting) Login(s pkcs11.SessionHandle, user uint, pin string) error {
	c.logins++
	return c.api.Login(s, user, pin)
}

func TestWrongPINOnSoftHSM(t *testing.T) {
	k := tokentest.New(t)
	m := load(t, k)
	count := &counting{api: m.calls}
	m.calls = count
	t.Cleanup(func() { m.calls = count.api })
	_, err := m.Open(token.Selector{Label: k.Label}, secret("wrong-4711"), false)
	wantCode(t, err, token.CodePIN, `opening token "balancer-test"`)
	if !k.Warned(t) || count.logins != 1 {
		t.Errorf("the token saw no wrong PIN, or more than one: %d logins", count.logins)
	}
	login(t, m, k) // the right PIN still opens it
}

// TestRemovedSoftHSM takes the token away, in each way that SoftHSM's can go,
// and puts it back.
func TestRemovedSoftHSM(t *testing.T) {
	ways := map[string]struct{ out, in func(*tokentest.Token) }{
		"token": {
			func(k *tokentest.Token) { k.Remove(t) },
			func(k *tokentest.Token) { k.Insert(t) },
		},
		"directory": { // SoftHSM does not even start without
			func(k *tokentest.Token) { rename(t, k.Dir, k.Dir+".away") },
			func(k *tokentest.Token) { rename(t, k.Dir+".away", k.Dir) },
		},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			k, opened := open(t)
			o := token.Object{Label: "signing", ID: []byte{1}}
			if _, err := opened.Generate(o); err != nil {
				t.Fatal(err)
			}
			k.Make(t, tokentest.AES, "aes", "02")
			wrapped, err := opened.Wrap(key1("aes"), token.MethodAESGCM, dataKey)
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				way.out(k)
				if _, err := opened.SigningKeys("sign"); err == nil {
					t.Error("listed the keys of a token that is gone")
				}
				_, err := opened.Sign(o, []byte("x"))
				wantCode(t, err, token.CodeAbsent, `signing with key "signing" on token "balancer-test"`)
				_, err = opened.Unwrap(key1("aes"), token.MethodAESGCM, wrapped)
				wantCode(t, err, token.CodeAbsent)
				way.in(k)
				unwraps(t, opened, key1("aes"), token.MethodAESGCM, wrapped)
				if _, err := opened.Sign(o, []byte("x")); err != nil {
					t.Error(err)
				}
			}

			// Away and back before anybody looks.
			way.out(k)
			way.in(k)
			if keys, err := opened.SigningKeys("sign"); err != nil || len(keys) != 1 {
				t.Errorf("listed %+v, %v", keys, err)
			}
		})
	}
}

// TestOpenWithoutToken: what is not there at first is found later.
func TestOpenWithoutToken(t *testing.T) {
	k := tokentest.New(t)
	k.Remove(t)
	m := load(t, k)
	_, err := m.Open(token.Selector{Label: k.Label}, secret(k.PIN), false)
	wantCode(t, err, token.CodeAbsent, "sees no such token")
	k.Insert(t)
	login(t, m, k)
}

// TestRemadeSoftHSM: a token that was initialised again has the same label, and
// not the keys.
func TestRemadeSoftHSM(t *testing.T) {
	k, opened := open(t)
	o := token.Object{Label: "signing", ID: []byte{1}}
	if _, err := opened.Generate(o); err != nil {
		t.Fatal(err)
	}
	k.Remove(t)
	k.Another(t, k.Label)
	_, err := opened.Sign(o, []byte("x"))
	wantCode(t, err, token.CodeNoKey, "the token has none")
}

func TestTwinsOnSoftHSM(t *testing.T) {
	k := tokentest.New(t)
	k.Another(t, k.Label)
	m := load(t, k)
	_, err := m.Open(token.Selector{Label: k.Label}, secret(k.PIN), false)
	wantCode(t, err, token.CodeNoKey, "more than one token fits", "serial=", "add serial=")
	_, serial, _ := strings.Cut(err.Error(), "serial=")
	if _, err := m.Open(token.Selector{Label: k.Label, Serial: serial[:16]}, secret(k.PIN), false); err != nil {
		t.Error(err)
	}
}

// TestKeysOfPKCS11Tool: keys that an operator made, and one that could leave.
func TestKeysOfPKCS11Tool(t *testing.T) {
	k, opened := open(t)
	k.Make(t, tokentest.Ed25519, "identity", "0a0b")
	for _, o := range []token.Object{{Label: "identity"}, {ID: []byte{10, 11}}, {Label: "identity", ID: []byte{10, 11}}} {
		signature, err := opened.Sign(o, []byte("message"))
		if err != nil {
			t.Fatal(err)
		}
		keys, err := opened.SigningKeys("identity")
		if err != nil || len(keys) != 1 || !ed25519.Verify(keys[0].Public, []byte("message"), signature) {
			t.Errorf("%+v, %v", keys, err)
		}
	}
	for label, kind := range map[string]tokentest.Kind{
		"aes not sensitive": "--keygen --key-type AES:32",
		"aes extractable":   tokentest.AES + " --extractable",
		"rsa extractable":   tokentest.RSA + " --extractable",
	} {
		k.Make(t, kind, label, "01")
		_, err := opened.WrappingKey(key1(label))
		wantCode(t, err, token.CodeExposed, "could leave the token", "pkcs11-tool --login --key")
	}
	k.Make(t, "--keygen --key-type AES:16 --sensitive", "aes128", "02")
	if found, err := opened.WrappingKey(key1("aes128")); err != nil || len(found.Methods) != 2 {
		t.Errorf("AES-128: %+v, %v", found, err)
	}
	k.Make(t, "--keypairgen --key-type EC:secp384r1 --usage-derive", "p384", "03")
	_, err := opened.WrappingKey(key1("p384"))
	wantCode(t, err, token.CodeUnsupported, "curve", "prime256v1")
}

// TestCertificateOnSoftHSM reads the public half of a key as on a card that has
// only a certificate beside it.
func TestCertificateOnSoftHSM(t *testing.T) {
	k, opened := open(t)
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k.Make(t, tokentest.P256, "card", "04")
	dir := t.TempDir()
	point := filepath.Join(dir, "public.der")
	k.Tool(t, "--read-object", "--type", "pubkey", "--id", "04", "--output-file", point)
	der, err := os.ReadFile(point)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "card"}}
	der, err = x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "certificate.der")
	if err := os.WriteFile(file, der, 0o600); err != nil {
		t.Fatal(err)
	}
	k.Tool(t, "--delete-object", "--type", "pubkey", "--id", "04")
	_, err = opened.WrappingKey(key1("card"))
	wantCode(t, err, token.CodeNoKey, "no public key or certificate")
	k.Tool(t, "--write-object", file, "--type", "cert", "--id", "04", "--label", "another label")
	if _, err := opened.WrappingKey(key1("card")); err != nil {
		t.Error(err)
	}
}

func rename(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}
