//go:build cgo

package module

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"slices"
	"testing"

	"github.com/miekg/pkcs11"

	"onionbalancer/keystore/token"
)

// change makes a fake whose object of that label and class was changed.
func change(t *testing.T, label string, class uint, how func(f *fake, o *fakeObject)) *Token {
	t.Helper()
	f := newFake()
	o := f.tokens[1].find(class, label)
	if o == nil {
		t.Fatalf("no %s", label)
	}
	how(f, o)
	opened, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	return opened
}

func set(attribute uint, value ...byte) func(*fake, *fakeObject) {
	return func(_ *fake, o *fakeObject) { o.attributes[attribute] = value }
}

func TestExposedKeys(t *testing.T) {
	for label, c := range map[string]struct {
		class  uint
		recipe string
	}{
		"aes": {pkcs11.CKO_SECRET_KEY, "--keygen --key-type AES:32 --sensitive"},
		"rsa": {pkcs11.CKO_PRIVATE_KEY, "--keypairgen --key-type rsa:3072"},
		"ec":  {pkcs11.CKO_PRIVATE_KEY, "--keypairgen --key-type EC:prime256v1"},
	} {
		for says, how := range map[string]func(*fake, *fakeObject){
			"CKA_EXTRACTABLE is true":   set(pkcs11.CKA_EXTRACTABLE, 1),
			"CKA_SENSITIVE is false":    set(pkcs11.CKA_SENSITIVE, 0),
			"CKA_EXTRACTABLE is untold": func(_ *fake, o *fakeObject) { delete(o.attributes, pkcs11.CKA_EXTRACTABLE) },
			"CKA_SENSITIVE is untold":   func(_ *fake, o *fakeObject) { delete(o.attributes, pkcs11.CKA_SENSITIVE) },
		} {
			opened := change(t, label, c.class, how)
			_, err := opened.WrappingKey(key1(label))
			wantCode(t, err, token.CodeExposed, says, c.recipe)
			_, err = opened.Wrap(key1(label), methods[map[string]uint{"aes": pkcs11.CKK_AES, "rsa": pkcs11.CKK_RSA, "ec": pkcs11.CKK_EC}[label]][0].name, dataKey)
			wantCode(t, err, token.CodeExposed)
		}
	}
}

func TestMethodsOfAttributes(t *testing.T) {
	not := func(attributes ...uint) func(*fake, *fakeObject) {
		return func(_ *fake, o *fakeObject) {
			for _, a := range attributes {
				o.attributes[a] = []byte{0}
			}
		}
	}
	only := func(mechanism, flags uint) func(*fake, *fakeObject) {
		return func(f *fake, _ *fakeObject) {
			f.tokens[1].flags = func(m uint) uint {
				if m == mechanism {
					return flags
				}
				return 0
			}
		}
	}
	for _, c := range []struct {
		label string
		how   func(*fake, *fakeObject)
		want  []token.Method
	}{
		{"aes", not(pkcs11.CKA_UNWRAP), []token.Method{token.MethodAESGCM}},
		{"aes", not(pkcs11.CKA_DECRYPT), []token.Method{token.MethodAESKeyWrap}},
		{"aes", not(pkcs11.CKA_ENCRYPT, pkcs11.CKA_WRAP), nil},
		{"aes", only(pkcs11.CKM_AES_KEY_WRAP, pkcs11.CKF_WRAP|pkcs11.CKF_UNWRAP), []token.Method{token.MethodAESKeyWrap}},
		{"aes", only(pkcs11.CKM_AES_GCM, pkcs11.CKF_ENCRYPT), nil},
		{"rsa", not(pkcs11.CKA_DECRYPT), nil},
		{"rsa", only(pkcs11.CKM_AES_GCM, pkcs11.CKF_DECRYPT), nil},
		{"ec", not(pkcs11.CKA_DERIVE), nil},
		{"ec", only(pkcs11.CKM_ECDH1_DERIVE, pkcs11.CKF_DERIVE), []token.Method{token.MethodECDHP256}},
		{"ec", func(f *fake, _ *fakeObject) { f.tokens[1].octets = true }, []token.Method{token.MethodECDHP256}},
	} {
		class := uint(pkcs11.CKO_PRIVATE_KEY)
		if c.label == "aes" {
			class = pkcs11.CKO_SECRET_KEY
		}
		found, err := change(t, c.label, class, c.how).WrappingKey(key1(c.label))
		if c.want == nil {
			wantCode(t, err, token.CodeUnsupported, "can wrap in no way")
		} else if err != nil || !slices.Equal(found.Methods, c.want) {
			t.Errorf("%s: %q, %v, want %q", c.label, found.Methods, err, c.want)
		}
	}
}

func TestUnfitKeys(t *testing.T) {
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	_, err = change(t, "rsa", pkcs11.CKO_PRIVATE_KEY, func(_ *fake, o *fakeObject) {
		o.attributes[pkcs11.CKA_MODULUS] = short.N.Bytes()
	}).WrappingKey(key1("rsa"))
	wantCode(t, err, token.CodeUnsupported, "1024 bits is too short")

	p384, err := ecdh.P384().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, err = change(t, "ec", pkcs11.CKO_PUBLIC_KEY, set(pkcs11.CKA_EC_POINT, append([]byte{4, 97}, p384.PublicKey().Bytes()...)...)).WrappingKey(key1("ec"))
	wantCode(t, err, token.CodeUnsupported, "curve")

	opened, err := newFake().open()
	if err != nil {
		t.Fatal(err)
	}
	_, err = opened.WrappingKey(key1("ed"))
	wantCode(t, err, token.CodeUnsupported, "no key for this", "Edwards")
	_, err = opened.Sign(key1("aes"), nil)
	wantCode(t, err, token.CodeUnsupported, "AES")
	_, err = opened.Sign(token.Object{}, nil)
	wantCode(t, err, token.CodeMisuse, "object=")
	wantCode(t, opened.Destroy(token.Object{}), token.CodeMisuse, "object=")

	f := newFake()
	f.put(f.tokens[1], "ed", ckkECEdwards, edKey, nil)
	if opened, err = f.open(); err != nil {
		t.Fatal(err)
	}
	_, err = opened.Sign(key1("ed"), nil)
	wantCode(t, err, token.CodeNoKey, "more than one", "object=ed;id=%65%64")
	wantCode(t, opened.Destroy(key1("ed")), token.CodeNoKey, "more than one")
}

// TestPublicHalves reads the public half from everywhere that tokens keep it.
func TestPublicHalves(t *testing.T) {
	ed := edKey.Public().(ed25519.PublicKey)
	ec := ecKey.PublicKey().Bytes()
	for name, point := range map[string][]byte{
		"bare": ed, "octet string": append([]byte{4, 32}, ed...), "bit string": append([]byte{3, 33, 0}, ed...),
	} {
		if _, err := change(t, "ed", pkcs11.CKO_PUBLIC_KEY, set(pkcs11.CKA_EC_POINT, point...)).Sign(key1("ed"), nil); err != nil {
			t.Errorf("Ed25519 point as %s: %v", name, err)
		}
	}
	for name, point := range map[string][]byte{
		"bare": ec, "octet string": append([]byte{4, 65}, ec...), "bit string": append([]byte{3, 66, 0}, ec...),
	} {
		if _, err := change(t, "ec", pkcs11.CKO_PUBLIC_KEY, set(pkcs11.CKA_EC_POINT, point...)).WrappingKey(key1("ec")); err != nil {
			t.Errorf("P-256 point as %s: %v", name, err)
		}
	}
	for _, point := range [][]byte{{}, {4}, ed[1:], append([]byte{5, 32}, ed...), append([]byte{4, 33}, ed...), append([]byte{3, 33, 1}, ed...), make([]byte, 57)} {
		_, err := change(t, "ed", pkcs11.CKO_PUBLIC_KEY, set(pkcs11.CKA_EC_POINT, point...)).Sign(key1("ed"), nil)
		if !hasCode(err, token.CodeNoKey, token.CodeUnsupported) {
			t.Errorf("a point of %d bytes: %v", len(point), err)
		}
	}
	wrong := bytes.Repeat([]byte{2}, 32)
	_, err := change(t, "ed", pkcs11.CKO_PUBLIC_KEY, set(pkcs11.CKA_EC_POINT, wrong...)).Sign(key1("ed"), nil)
	wantCode(t, err, token.CodeFailed, "do not belong together")
}

// TestCertificates: PIV cards have a certificate with the key's ID, and maybe
// no public key, nor the label.
func TestCertificates(t *testing.T) {
	ecdsaKey, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), ecKey.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	for label, signer := range map[string]any{"rsa": rsaKey, "ec": ecdsaKey, "ed": edKey} {
		opened := change(t, label, pkcs11.CKO_PRIVATE_KEY, func(f *fake, o *fakeObject) {
			delete(o.attributes, pkcs11.CKA_MODULUS)
			if public := f.tokens[1].find(pkcs11.CKO_PUBLIC_KEY, label); public != nil {
				delete(public.attributes, pkcs11.CKA_EC_POINT)
			}
			f.tokens[1].objects[9999] = &fakeObject{attributes: map[uint][]byte{
				pkcs11.CKA_CLASS: ulong(pkcs11.CKO_CERTIFICATE), pkcs11.CKA_ID: []byte(label),
				pkcs11.CKA_VALUE: certificate(t, signer),
			}}
		})
		if label == "ed" {
			_, err = opened.Sign(key1(label), nil)
		} else {
			_, err = opened.WrappingKey(key1(label))
		}
		if err != nil {
			t.Errorf("%s: %v", label, err)
		}
	}
}

func certificate(t *testing.T, key any) []byte {
	t.Helper()
	var public any
	switch key := key.(type) {
	case *rsa.PrivateKey:
		public = key.Public()
	case *ecdsa.PrivateKey:
		public = key.Public()
	case ed25519.PrivateKey:
		public = key.Public()
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestStrippedZeros: one point in 256 has an x that begins with a zero byte,
// which some modules strip.
func TestStrippedZeros(t *testing.T) {
	f := newFake()
	f.tokens[1].strip = true
	opened, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	short := false
	for i := 0; i < 20_000 && !short; i++ {
		wrapped, err := opened.Wrap(key1("ec"), token.MethodECDHP256, dataKey)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := ecdh.P256().NewPublicKey(wrapped[:pointSize])
		if err != nil {
			t.Fatal(err)
		}
		shared, err := ecKey.ECDH(theirs)
		if err != nil {
			t.Fatal(err)
		}
		if short = shared[0] == 0; short {
			unwraps(t, opened, key1("ec"), token.MethodECDHP256, wrapped)
		}
	}
	if !short {
		t.Error("no such point came up")
	}
}

func TestGenerate(t *testing.T) {
	o := token.Object{Label: "ed", ID: []byte("ed")}
	_, err := change(t, "ed", pkcs11.CKO_PRIVATE_KEY, func(*fake, *fakeObject) {}).Generate(o)
	wantCode(t, err, token.CodeMisuse, "already")
	for _, without := range []token.Object{{Label: "new"}, {ID: []byte("new")}} {
		_, err := change(t, "ed", pkcs11.CKO_PRIVATE_KEY, func(*fake, *fakeObject) {}).Generate(without)
		wantCode(t, err, token.CodeMisuse, "both a label and an ID")
	}

	for _, gone := range []uint{pkcs11.CKO_PUBLIC_KEY, pkcs11.CKO_PRIVATE_KEY} {
		opened := change(t, "ed", gone, func(f *fake, o *fakeObject) {
			for handle, other := range f.tokens[1].objects {
				if o == other {
					delete(f.tokens[1].objects, handle)
				}
			}
		})
		made, err := opened.Generate(o) // in the place of half a pair
		if err != nil {
			t.Fatal(err)
		}
		keys, err := opened.SigningKeys("ed")
		if err != nil || len(keys) != 1 || !keys[0].Public.Equal(made.Public) {
			t.Errorf("made %x, listed %+v, %v", made.Public, keys, err)
		}
	}
}

// TestGenerateHides: what is made does not show before login, and where the
// token insists that it does, that is told.
func TestGenerateHides(t *testing.T) {
	for _, bare := range []bool{false, true} {
		f := newFake()
		f.tokens[1].bare = bare
		opened, err := f.open()
		if err != nil {
			t.Fatal(err)
		}
		made, err := opened.Generate(token.Object{Label: "new", ID: []byte("new")})
		if err != nil || made.Shown != bare {
			t.Errorf("of a token that shows public keys (%v) it is said %v, %v", bare, made.Shown, err)
		}
		f.tokens[1].logged = false
		shown := 0
		for _, o := range f.tokens[1].objects {
			if o.visible(f.tokens[1]) && string(o.attributes[pkcs11.CKA_ID]) == "new" {
				shown++
			}
		}
		if want := map[bool]int{true: 1}[bare]; shown != want {
			t.Errorf("%d objects show without a login, want %d", shown, want)
		}
	}
}

// TestGenerateUnfit: a new key that does not sign, or could leave, is destroyed.
func TestGenerateUnfit(t *testing.T) {
	for code, spoil := range map[token.Code]func(*fake){
		token.CodeUnsupported: func(f *fake) { f.fail = failing("C_SignInit", 0, pkcs11.CKR_MECHANISM_INVALID) },
		token.CodeFailed:      func(f *fake) { f.fail = failing("C_Sign", 0, pkcs11.CKR_HOST_MEMORY) },
		token.CodeExposed:     func(f *fake) { f.tokens[1].leaky = true },
	} {
		f := newFake()
		opened, err := f.open()
		if err != nil {
			t.Fatal(err)
		}
		before := len(f.tokens[1].objects)
		spoil(f)
		_, err = opened.Generate(token.Object{Label: "new", ID: []byte("new")})
		wantCode(t, err, code, `making key "new"`)
		if len(f.tokens[1].objects) != before {
			t.Errorf("%s: a key is left behind", code)
		}
	}
}

// TestDestroyOnlySigningKeys: the label of a wrapping key destroys nothing.
func TestDestroyOnlySigningKeys(t *testing.T) {
	f := newFake()
	opened, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	before := len(f.tokens[1].objects)
	for _, label := range []string{"aes", "rsa", "ec", "none"} {
		if err := opened.Destroy(key1(label)); err != nil {
			t.Error(err)
		}
	}
	if len(f.tokens[1].objects) != before {
		t.Error("a key that does not sign was destroyed")
	}
	if err := opened.Destroy(key1("ed")); err != nil {
		t.Error(err)
	}
	if len(f.tokens[1].objects) != before-2 {
		t.Error("not both halves of the signing key were destroyed")
	}
}
