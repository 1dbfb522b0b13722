package sealed

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
	"onionbalancer/internal/locked/lockedtest"
	"onionbalancer/keystore/token"
)

var update = flag.Bool("update", false, "write testdata/v1.json")

// fakeToken wraps by AES-256-GCM under a key that is in the test.
type fakeToken struct{ key [32]byte }

func newToken(t testing.TB, name string) *fakeToken {
	t.Helper()
	return &fakeToken{sha256.Sum256([]byte(name))}
}

func (k *fakeToken) aead() cipher.AEAD {
	block, err := aes.NewCipher(k.key[:])
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead
}

func (k *fakeToken) wrap(m token.Method, dataKey *locked.Buffer) ([]byte, error) {
	return k.aead().Seal(nil, make([]byte, 12), lockedtest.Bytes(dataKey), []byte(m)), nil
}

func (k *fakeToken) unwrap(m token.Method, wrapped []byte) (*locked.Buffer, error) {
	plain, err := k.aead().Open(nil, make([]byte, 12), wrapped, []byte(m))
	if err != nil {
		return nil, token.Errorf(token.CodeDamaged, "the token refuses the wrapped key")
	}
	return locked.Copy(plain), nil
}

// counter gives the bytes 0, 1, 2, …
type counter byte

func (c *counter) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(*c)
		*c++
	}
	return len(p), nil
}

var (
	softToken = token.Selector{Label: "front desk", Serial: "a1b2c3d4e5f60718", Manufacturer: "SoftHSM project", Model: "SoftHSM v2"}
	softKey   = token.WrappingKey{Object: token.Object{Label: "seal <1>", ID: []byte{1, 0xab}}, Methods: []token.Method{token.MethodAESGCM, token.MethodAESKeyWrap}}
	sealedAt  = time.Date(2026, 3, 1, 12, 0, 0, 999, time.FixedZone("", 3600))
)

func identity(t testing.TB) *descriptor.IdentityKey {
	t.Helper()
	key, err := descriptor.IdentityKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sealFixed(t testing.TB) *File {
	t.Helper()
	f, err := Seal(identity(t), softToken, softKey, sealedAt, newToken(t, "one").wrap, new(counter))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func encode(t testing.TB, f *File) []byte {
	t.Helper()
	raw, err := f.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func isCode(err error, code token.Code) bool { return errors.Is(err, &token.Error{Code: code}) }

// TestRoundTrip seals, writes, reads and unseals.
func TestRoundTrip(t *testing.T) {
	f, err := Parse(encode(t, sealFixed(t)))
	if err != nil {
		t.Fatal(err)
	}
	if f.Address() != identity(t).Address() || f.Method() != token.MethodAESGCM || f.Token() != softToken ||
		f.Object().Label != "seal <1>" || !bytes.Equal(f.Object().ID, []byte{1, 0xab}) || !f.Created().Equal(sealedAt.Truncate(time.Second)) {
		t.Errorf("the header reads %v %v %v %v %v", f.Address(), f.Method(), f.Token(), f.Object(), f.Created())
	}
	key, err := f.Open(newToken(t, "one").unwrap)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(key.Expanded(), identity(t).Expanded()) {
		t.Error("another key came out than went in")
	}
	if _, err := f.Open(newToken(t, "another").unwrap); !isCode(err, token.CodeDamaged) {
		t.Errorf("another token's key: %v", err)
	}
}

// goldenSeal is the seal of testdata/v1.json as another implementation, in
// Python, computed it from the package comment.
const goldenSeal = "64d6d7517e15cd87c2a0bc41ad719821f5cffc163a804338aedad454102332c5e208c088781ce20b" +
	"0a29acd9fc6885b1bfd92a4b141c6b522cdeb0cd166c7d7ebb53d2af8e25949499805cb2030b4c9c"

// TestGolden compares with a file that was written once.
func TestGolden(t *testing.T) {
	const path = "testdata/v1.json"
	raw := encode(t, sealFixed(t))
	if *update {
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(raw, want) {
		t.Errorf("the format has changed: files of operators would not open any more\n%s\nwas\n%s", raw, want)
	}
	f, err := Parse(want)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := hex.EncodeToString(f.seal), goldenSeal; got != want {
		t.Errorf("the seal is %s, and other code computed %s", got, want)
	}
}

// TestSealChoices checks what Seal refuses.
func TestSealChoices(t *testing.T) {
	good := newToken(t, "one")
	trouble := token.Errorf(token.CodeAbsent, "the token is not there")
	for name, c := range map[string]struct {
		with token.WrappingKey
		wrap func(token.Method, *locked.Buffer) ([]byte, error)
		want string
	}{
		"no method":      {token.WrappingKey{Object: softKey.Object}, good.wrap, "no method"},
		"unknown method": {token.WrappingKey{Object: softKey.Object, Methods: []token.Method{"rot13"}}, good.wrap, "not known"},
		"no object":      {token.WrappingKey{Methods: softKey.Methods}, good.wrap, "neither by label nor by id"},
		"long label":     {token.WrappingKey{Object: token.Object{Label: strings.Repeat("x", 257)}, Methods: softKey.Methods}, good.wrap, "at most 256"},
		"absent":         {softKey, func(token.Method, *locked.Buffer) ([]byte, error) { return nil, trouble }, "not there"},
		"not wrapped": {softKey, func(_ token.Method, b *locked.Buffer) ([]byte, error) {
			return append([]byte("\x00\x00"), lockedtest.Bytes(b)...), nil
		}, "did not wrap"},
		"nothing": {softKey, func(token.Method, *locked.Buffer) ([]byte, error) { return nil, nil }, "0 bytes"},
	} {
		_, err := Seal(identity(t), softToken, c.with, sealedAt, c.wrap, new(counter))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if name == "absent" && !isCode(err, token.CodeAbsent) {
			t.Errorf("the code is lost: %v", err)
		}
	}
	odd := softToken
	odd.Label = "caf\xe9"
	f, err := Seal(identity(t), odd, softKey, sealedAt, good.wrap, new(counter))
	if err != nil {
		t.Fatal(err)
	}
	if f, err = Parse(encode(t, f)); err != nil || f.Token().Label != "caf\uFFFD" {
		t.Fatalf("a label that is not UTF-8: %v", err)
	}
	if _, err := f.Open(good.unwrap); err != nil {
		t.Error(err)
	}
}
