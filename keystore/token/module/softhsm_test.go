//go:build cgo

package module

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"os"
	"strings"
	"testing"

	"onionbalancer/internal/locked"
	"onionbalancer/internal/locked/lockedtest"
	"onionbalancer/keystore/token"
	"onionbalancer/keystore/token/tokentest"
)

// load loads SoftHSM for one test.
func load(t testing.TB, k *tokentest.Token) *Module {
	t.Helper()
	m, err := Load(k.Module)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func secret(text string) *locked.Buffer { return locked.Copy([]byte(text)) }

// open makes a SoftHSM token and opens it.
func open(t testing.TB) (*tokentest.Token, *Token) {
	t.Helper()
	k := tokentest.New(t)
	return k, login(t, load(t, k), k)
}

func login(t testing.TB, m *Module, k *tokentest.Token) *Token {
	t.Helper()
	opened, err := m.Open(token.Selector{Label: k.Label}, secret(k.PIN), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { opened.Close() })
	return opened
}

// wantCode fails t unless err is a *token.Error of this code that says all of texts.
func wantCode(t testing.TB, err error, code token.Code, texts ...string) {
	t.Helper()
	e, ok := errors.AsType[*token.Error](err)
	if !ok || e.Code != code {
		t.Fatalf("got error %v, want one of code %q", err, code)
	}
	for _, text := range texts {
		if !strings.Contains(e.Text, text) {
			t.Errorf("%q does not say %q", e.Text, text)
		}
	}
	if strings.Contains(e.Text, "4711") {
		t.Errorf("%q tells the PIN", e.Text)
	}
}

var dataKey = bytes.Repeat([]byte{0, 0x5a}, 16)

func TestWrapOnSoftHSM(t *testing.T) {
	k, opened := open(t)
	for _, c := range []struct {
		kind    tokentest.Kind
		methods []token.Method
		size    int
	}{
		{tokentest.AES, []token.Method{token.MethodAESGCM, token.MethodAESKeyWrap}, 60},
		{tokentest.RSA, []token.Method{token.MethodOAEPSHA1}, 256},
		{tokentest.P256, []token.Method{token.MethodECDHP256}, 113},
	} {
		o := token.Object{Label: string(c.methods[0])}
		k.Make(t, c.kind, o.Label, "a1")
		found, err := opened.WrappingKey(o)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := found.Methods, c.methods; !equal(got, want) {
			t.Fatalf("methods %q, want %q", got, want)
		}
		if found.Object.Label != o.Label || !bytes.Equal(found.Object.ID, []byte{0xa1}) {
			t.Errorf("found %+v", found.Object)
		}
		for i, method := range c.methods {
			wrapped, err := opened.Wrap(o, method, dataKey)
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 && len(wrapped) != c.size {
				t.Errorf("%s: %d bytes, want %d", method, len(wrapped), c.size)
			}
			unwraps(t, opened, o, method, wrapped)
			damage(t, opened, o, method, wrapped)
			unwraps(t, opened, o, method, wrapped) // the session survived all that
		}
	}
}

func equal(a, b []token.Method) bool {
	return len(a) == len(b) && string(a[0]) == string(b[0]) && a[len(a)-1] == b[len(b)-1]
}

func unwraps(t testing.TB, opened *Token, o token.Object, method token.Method, wrapped []byte) {
	t.Helper()
	plain, err := opened.Unwrap(o, method, wrapped)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(lockedtest.Bytes(plain), dataKey) {
		t.Fatalf("%s: another data key came back", method)
	}
}

// damage checks that nothing but what Wrap returned is unwrapped.
func damage(t testing.TB, opened *Token, o token.Object, method token.Method, wrapped []byte) {
	t.Helper()
	bad := [][]byte{nil, wrapped[:1], wrapped[:len(wrapped)-1], append(bytes.Clone(wrapped), 0), make([]byte, len(wrapped))}
	for _, at := range []int{0, len(wrapped) / 2, len(wrapped) - 1} {
		flipped := bytes.Clone(wrapped)
		flipped[at] ^= 1
		bad = append(bad, flipped)
	}
	for _, wrapped := range bad {
		_, err := opened.Unwrap(o, method, wrapped)
		wantCode(t, err, token.CodeDamaged, "unwrapping with key", "damaged")
	}
}

func TestSignOnSoftHSM(t *testing.T) {
	_, opened := open(t)
	o := token.Object{Label: "balancer one", ID: []byte{1, 2}}
	made, err := opened.Generate(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, message := range [][]byte{nil, []byte("a"), bytes.Repeat([]byte("long"), 15_000)} {
		signature, err := opened.Sign(o, message)
		if err != nil {
			t.Fatal(err)
		}
		if !ed25519.Verify(made.Public, message, signature) {
			t.Errorf("the signature of %d bytes does not verify", len(message))
		}
	}
	_, err = opened.Generate(o)
	wantCode(t, err, token.CodeMisuse, `making key "balancer one" on token "balancer-test"`, "already")

	second, err := opened.Generate(token.Object{Label: "balancer two", ID: []byte{1, 3}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := opened.Generate(token.Object{Label: "other", ID: []byte{1, 4}}); err != nil {
		t.Fatal(err)
	}
	listed, err := opened.SigningKeys("balancer ")
	if err != nil {
		t.Fatal(err)
	}
	if len(listed) != 2 {
		t.Fatalf("listed %+v", listed)
	}
	for _, key := range listed {
		want := map[string]ed25519.PublicKey{"balancer one": made.Public, "balancer two": second.Public}[key.Object.Label]
		if !key.Public.Equal(want) {
			t.Errorf("%q is listed with public key %x, want %x", key.Object.Label, key.Public, want)
		}
	}

	for range 2 {
		if err := opened.Destroy(o); err != nil {
			t.Fatal(err)
		}
	}
	_, err = opened.Sign(o, []byte("a"))
	wantCode(t, err, token.CodeNoKey, `signing with key "balancer one"`, "object=balancer%20two;id=%01%03 (Edwards)")
	if listed, err := opened.SigningKeys("balancer "); err != nil || len(listed) != 1 {
		t.Errorf("after Destroy: %+v, %v", listed, err)
	}
	if remade, err := opened.Generate(o); err != nil || remade.Public.Equal(made.Public) {
		t.Errorf("making the key again: %v", err)
	}
}

func TestInfoOfSoftHSM(t *testing.T) {
	k, opened := open(t)
	info, err := opened.Info()
	if err != nil {
		t.Fatal(err)
	}
	if info.Label != k.Label || info.Manufacturer != "SoftHSM project" || info.Model != "SoftHSM v2" ||
		len(info.Serial) != 16 || !strings.HasPrefix(info.Firmware, "2.") || !strings.HasPrefix(info.Module, "Implementation of PKCS11 2.") {
		t.Errorf("%+v", info)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	text := dir + "/text.so"
	if err := os.WriteFile(text, []byte("no library"), 0o600); err != nil {
		t.Fatal(err)
	}
	k := tokentest.New(t)
	for path, want := range map[string]string{
		dir + "/none.so": "there is no PKCS #11 module at " + dir + "/none.so; on this machine are " + k.Module,
		dir:              "is a directory",
		text:             "ldd " + text,
		text + "/x":      "looking for",
	} {
		_, err := Load(path)
		wantCode(t, err, token.CodeAbsent, want)
	}
	_, err := Load("")
	wantCode(t, err, token.CodeMisuse, "module-path=")
}
