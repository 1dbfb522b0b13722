package keystore

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/keystore/token"
)

// fakeSigning is a token with keys in memory, of which each call can fail.
type fakeSigning struct {
	keys   []token.SigningKey
	secret map[string]ed25519.PrivateKey // by public key
	fail   map[string]error              // by call
	closed bool
}

func newSigning() *fakeSigning {
	return &fakeSigning{secret: map[string]ed25519.PrivateKey{}, fail: map[string]error{}}
}

func (f *fakeSigning) Generate(_ context.Context, o token.Object) (token.SigningKey, error) {
	if err := f.fail["generate"]; err != nil {
		return token.SigningKey{}, err
	}
	public, secret, err := ed25519.GenerateKey(rand.Reader)
	f.secret[string(public)] = secret
	f.keys = append(f.keys, token.SigningKey{Object: o, Public: public})
	return f.keys[len(f.keys)-1], err
}

func (f *fakeSigning) SigningKeys(_ context.Context, prefix string) (keys []token.SigningKey, err error) {
	for _, key := range f.keys {
		if strings.HasPrefix(key.Object.Label, prefix) {
			keys = append(keys, key)
		}
	}
	return keys, f.fail["list"]
}

func (f *fakeSigning) Sign(ctx context.Context, o token.Object, message []byte) ([]byte, error) {
	if _, limited := ctx.Deadline(); !limited {
		return nil, errors.New("a signature without a deadline")
	}
	for _, key := range f.keys {
		if key.Object.Label == o.Label && bytes.Equal(key.Object.ID, o.ID) {
			return ed25519.Sign(f.secret[string(key.Public)], message), f.fail["sign"]
		}
	}
	return nil, token.Errorf(token.CodeNoKey, "no key %q", o.Label)
}

func (f *fakeSigning) Destroy(_ context.Context, o token.Object) error {
	if err := f.fail["destroy"]; err != nil {
		return err
	}
	f.keys = slices.DeleteFunc(f.keys, func(k token.SigningKey) bool { return k.Object.Label == o.Label })
	return nil
}

func (f *fakeSigning) Close() error {
	f.closed = true
	return nil
}

// TestTokenKeys makes a key once for each period, and signs with it.
func TestTokenKeys(t *testing.T) {
	fake, address, dir := newSigning(), newKey(t).Address(), t.TempDir()
	keys := newTokenKeys(fake, address, dir)
	signer, err := keys.SigningKey(t.Context(), period)
	if err != nil {
		t.Fatal(err)
	}
	message := []byte("a descriptor")
	signature, err := signer.Sign(rand.Reader, message, crypto.Hash(0))
	if err != nil || !ed25519.Verify(signer.Public().(ed25519.PublicKey), message, signature) {
		t.Errorf("signature: %v", err)
	}
	digest := sha512.Sum512(message)
	_, err = signer.Sign(rand.Reader, digest[:], crypto.SHA512)
	wantError(t, "a hash", err, "not their hashes")
	// Another process, later.
	again, err := newTokenKeys(fake, address, dir).SigningKey(t.Context(), period)
	if err != nil || !again.Public().(ed25519.PublicKey).Equal(signer.Public()) {
		t.Errorf("another key for the same period, %v", err)
	}
	for name, of := range map[string]*TokenKeys{"another service": newTokenKeys(fake, newKey(t).Address(), dir), "another period": keys} {
		p := period
		if of == keys {
			p = period.Next()
		}
		other, err := of.SigningKey(t.Context(), p)
		if err != nil || other.Public().(ed25519.PublicKey).Equal(signer.Public()) {
			t.Errorf("%s: the same key, %v", name, err)
		}
	}
	if len(fake.keys) != 3 {
		t.Errorf("%d keys", len(fake.keys))
	}
	if err := keys.Close(); err != nil || !fake.closed || len(fake.keys) != 3 {
		t.Errorf("after Close %d keys, %v", len(fake.keys), err)
	}
}

// TestNamesTellNothing: what can be computed from the address is not in what a
// key is called, but for the salt.
func TestNamesTellNothing(t *testing.T) {
	fake, address, dir := newSigning(), newKey(t).Address(), t.TempDir()
	if _, err := newTokenKeys(fake, address, dir).SigningKey(t.Context(), period); err != nil {
		t.Fatal(err)
	}
	name := fake.keys[0].Object
	if !regexp.MustCompile("^signing [0-9a-f]{32}$").MatchString(name.Label) || len(name.ID) != 16 || !strings.HasSuffix(name.Label, hex.EncodeToString(name.ID)) {
		t.Errorf("a key is called %+v", name)
	}
	if strings.Contains(name.Label, strconv.FormatUint(period.Number, 10)) {
		t.Errorf("%q tells the period", name.Label)
	}
	for _, guess := range [][]byte{nil, make([]byte, saltSize), address[:], []byte(address.String())} {
		if salted(guess, address)(period).Label == name.Label {
			t.Errorf("%q is computed from the address, with the salt %q", name.Label, guess)
		}
	}
	elsewhere := newTokenKeys(newSigning(), address, t.TempDir())
	if _, err := elsewhere.SigningKey(t.Context(), period); err != nil {
		t.Fatal(err)
	}
	if elsewhere.token.(*fakeSigning).keys[0].Object.Label == name.Label {
		t.Error("two directories have the same salt")
	}
	info, err := os.Stat(filepath.Join(dir, SaltFile))
	if err != nil || info.Mode() != 0o600 || info.Size() != saltSize {
		t.Errorf("the salt: %v, %v", info, err)
	}
}

// TestKeysOfOtherNames: keys of an earlier version, and of the salt of another
// directory, go on being used until they are retired.
func TestKeysOfOtherNames(t *testing.T) {
	address, other := newKey(t).Address(), t.TempDir()
	salt, err := makeSalt(other)
	if err != nil {
		t.Fatal(err)
	}
	if name := unsalted(descriptor.Address{1})(period); name.Label != "balancer descriptor-signing 01d0fabd251fcbbe 20777/1440m" ||
		hex.EncodeToString(name.ID) != "3fe126038f9a4cea4751afd36db7ef2c" {
		t.Errorf("earlier versions called it otherwise than %q, %x", name.Label, name.ID)
	}
	for name, called := range map[string]naming{"an earlier version": unsalted(address), "another directory": salted(salt, address)} {
		fake := newSigning()
		made, err := fake.Generate(t.Context(), called(period))
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		keys := newTokenKeys(fake, address, dir, other, t.TempDir())
		signer, err := keys.SigningKey(t.Context(), period)
		if err != nil || !signer.Public().(ed25519.PublicKey).Equal(made.Public) {
			t.Errorf("the key of %s is not used, %v", name, err)
		}
		if err := keys.Retire(t.Context(), []descriptor.Period{period}); err != nil || len(fake.keys) != 1 {
			t.Errorf("the key of %s in use was destroyed, %v", name, err)
		}
		if err := keys.Retire(t.Context(), []descriptor.Period{period.Next()}); err != nil || len(fake.keys) != 0 {
			t.Errorf("the key of %s was not destroyed, %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(dir, SaltFile)); err == nil {
			t.Error("a salt was made, and no key")
		}
	}
}

// TestSalt: one that is damaged, or that others can read, is not passed over,
// for another would lose the keys.
func TestSalt(t *testing.T) {
	for want, content := range map[string]string{"31 bytes, want 32": strings.Repeat("x", 31), "33 bytes": strings.Repeat("x", 33), "0 bytes": ""} {
		dir := writeDir(t, map[string][]byte{SaltFile: []byte(content)})
		_, err := newTokenKeys(newSigning(), newKey(t).Address(), dir).SigningKey(t.Context(), period)
		wantError(t, want, err, want, filepath.Join(dir, SaltFile))
	}
	dir := t.TempDir()
	first, err := makeSalt(dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := makeSalt(dir)
	if err != nil || !bytes.Equal(first, again) {
		t.Errorf("a second salt, %v", err)
	}
	if err := os.Chmod(filepath.Join(dir, SaltFile), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = makeSalt(dir)
	wantError(t, "mode 0644", err, "chmod 600")
	_, err = newTokenKeys(newSigning(), newKey(t).Address(), filepath.Join(dir, "absent")).SigningKey(t.Context(), period)
	wantError(t, "no directory", err, "making the salt", "no such file")
	if err := os.WriteFile(filepath.Join(dir, SaltFile), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	err = newTokenKeys(newSigning(), newKey(t).Address(), t.TempDir(), dir).Retire(t.Context(), []descriptor.Period{period})
	wantError(t, "the salt of another directory", err, "destroying old signing keys", "chmod 600")
}

// TestRetire destroys what is older than all that is in use, of our service.
func TestRetire(t *testing.T) {
	fake, dir := newSigning(), t.TempDir()
	keys, others := newTokenKeys(fake, newKey(t).Address(), dir), newTokenKeys(fake, newKey(t).Address(), dir)
	p := descriptor.Period{Number: 2000, Length: 24 * time.Hour}
	old := []uint64{1000, 1001, 1997, 1998, 1999}
	for _, n := range append(old, 999, 2000, 2001, 2002, 2003) { // 999 is too long ago
		for _, of := range []*TokenKeys{keys, others} {
			if _, err := of.SigningKey(t.Context(), descriptor.Period{Number: n, Length: p.Length}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, label := range []string{"signing ", "signing 00", "front", ""} {
		if _, err := fake.Generate(t.Context(), token.Object{Label: label}); err != nil {
			t.Fatal(err)
		}
	}
	before := len(fake.keys)
	if err := keys.Retire(t.Context(), nil); err != nil || len(fake.keys) != before {
		t.Errorf("%d of %d keys left though nothing is in use, %v", len(fake.keys), before, err)
	}
	if err := keys.Retire(t.Context(), []descriptor.Period{p.Next(), p}); err != nil {
		t.Fatal(err)
	}
	if len(fake.keys) != before-len(old) {
		t.Errorf("%d of %d keys left", len(fake.keys), before)
	}
	names, err := keys.namings()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range old {
		want := names[0](descriptor.Period{Number: n, Length: p.Length}).Label
		if slices.ContainsFunc(fake.keys, func(key token.SigningKey) bool { return key.Object.Label == want }) {
			t.Errorf("the key of period %d is left", n)
		}
	}
	if err := newTokenKeys(fake, newKey(t).Address(), dir).Retire(t.Context(), []descriptor.Period{{Number: 1, Length: time.Hour}}); err != nil {
		t.Errorf("at the beginning of time: %v", err)
	}
}

// TestTokenKeysFail: errors keep their code, and one key that cannot be
// destroyed does not keep the others.
func TestTokenKeysFail(t *testing.T) {
	trouble := token.Errorf(token.CodeAbsent, "trouble")
	for call, try := range map[string]func(*TokenKeys) error{
		"list":     func(k *TokenKeys) error { _, err := k.SigningKey(t.Context(), period); return err },
		"generate": func(k *TokenKeys) error { _, err := k.SigningKey(t.Context(), period); return err },
		"destroy":  func(k *TokenKeys) error { return k.Retire(t.Context(), []descriptor.Period{period.Next().Next()}) },
		"sign": func(k *TokenKeys) error {
			signer, err := k.SigningKey(t.Context(), period)
			if err != nil {
				t.Fatal(err)
			}
			_, err = signer.Sign(nil, nil, crypto.Hash(0))
			return err
		},
	} {
		fake := newSigning()
		keys := newTokenKeys(fake, newKey(t).Address(), t.TempDir())
		if call == "destroy" {
			for _, p := range []descriptor.Period{period, period.Next()} {
				if _, err := keys.SigningKey(t.Context(), p); err != nil {
					t.Fatal(err)
				}
			}
		}
		fake.fail[call] = trouble
		if err := try(keys); !errors.Is(err, &token.Error{Code: token.CodeAbsent}) {
			t.Errorf("%s: %v", call, err)
		} else if call == "destroy" && strings.Count(err.Error(), "trouble") != 2 {
			t.Errorf("only one was tried: %v", err)
		}
	}
	fake := newSigning()
	keys := newTokenKeys(fake, newKey(t).Address(), t.TempDir())
	for range 2 {
		if _, err := fake.Generate(t.Context(), unsalted(keys.of)(period)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := keys.SigningKey(t.Context(), period)
	wantError(t, "two keys of one name", err, "2 keys", "pkcs11-tool --login --delete-object")
	fake.fail["list"] = trouble
	if err := keys.Retire(t.Context(), []descriptor.Period{period}); !errors.Is(err, trouble) {
		t.Errorf("Retire: %v", err)
	}
}

// TestOpenSigningReferences: what "signing" may be.
func TestOpenSigningReferences(t *testing.T) {
	address := newKey(t).Address()
	keys, err := OpenSigning("pkcs11:token=a?module-path=/absent.so", address, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := keys.Close(); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct{ ref, want string }{
		"a path":    {"/etc/keys", "no PKCS #11 URI"},
		"an object": {"pkcs11:token=a;object=o?module-path=/m.so", "a token alone"},
		"an id":     {"pkcs11:token=a;id=%01?module-path=/m.so", "a token alone"},
		"no module": {"pkcs11:token=a", "module-path"},
		"a PIN":     {"pkcs11:token=a?pin-value=1234", "pin-value"},
	} {
		_, err := OpenSigning(c.ref, address, t.TempDir())
		wantError(t, name, err, c.want)
	}
}

// TestOpenIdentitySigner opens each kind of reference, and refuses others.
func TestOpenIdentitySigner(t *testing.T) {
	disk := newDisk(t)
	sealedKey, _, identity := newSealedKey(t)
	for ref, want := range map[string]descriptor.Address{
		disk.Path(): disk.Address(),
		"pkcs11:token=a;object=seal?module-path=/absent.so&x-sealed=" + sealedKey.Path(): identity.Address(),
	} {
		signer, err := OpenIdentitySigner(t.Context(), ref)
		if err != nil {
			t.Errorf("%s: %v", ref, err)
			continue
		}
		if signer.Address() != want {
			t.Errorf("%s is of %s", ref, signer.Address())
		}
		if err := signer.Close(); err != nil {
			t.Error(err)
		}
	}
	prepared := writeDir(t, map[string][]byte{"keys.json": []byte("{}")})
	for ref, want := range map[string]string{
		sealedKey.Path(): "sealed by a token", prepared: "certificates for publishing", "absent": "no such file",
		"pkcs11:token=a;object=o": "module-path", "pkcs11:token=a;object=o?pin-value=1": "pin-value",
		"pkcs11:token=a?module-path=/absent.so": "names no key",
	} {
		_, err := OpenIdentitySigner(t.Context(), ref)
		wantError(t, ref, err, want)
	}
	key, err := Load(t.Context(), disk.Path())
	if err != nil || key.Address() != disk.Address() {
		t.Errorf("loaded another key, %v", err)
	}
	key.Wipe()
	for _, ref := range []string{sealedKey.Path(), prepared, "absent"} {
		if key, err := Load(t.Context(), ref); err == nil || key != nil {
			t.Errorf("loaded %q", ref)
		}
	}
}

// TestTokenIdentity finds an Ed25519 key on a token by its names.
func TestTokenIdentity(t *testing.T) {
	fake := newSigning()
	for _, o := range []token.Object{{Label: "front", ID: []byte{1}}, {Label: "front door", ID: []byte{2}}, {Label: "back", ID: []byte{3}}, {Label: "back", ID: []byte{4}}} {
		if _, err := fake.Generate(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	for _, o := range []token.Object{{Label: "front"}, {ID: []byte{1}}, {Label: "front", ID: []byte{1}}} {
		key, err := findTokenIdentity(t.Context(), fake, o)
		if err != nil {
			t.Errorf("%v: %v", o, err)
			continue
		}
		if key.Address() != descriptor.Address(fake.keys[0].Public) {
			t.Errorf("%v is %s", o, key.Address())
		}
	}
	for _, o := range []token.Object{{Label: "back"}, {Label: "fron"}, {Label: "front", ID: []byte{2}}, {ID: []byte{5}}} {
		if _, err := findTokenIdentity(t.Context(), fake, o); !errors.Is(err, &token.Error{Code: token.CodeNoKey}) {
			t.Errorf("%v: %v", o, err)
		}
	}
	if _, err := findTokenIdentity(t.Context(), fake, token.Object{}); !errors.Is(err, &token.Error{Code: token.CodeMisuse}) {
		t.Errorf("no name: %v", err)
	}
	key, err := findTokenIdentity(t.Context(), fake, token.Object{Label: "front"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	signature, err := key.SignIdentity(ctx, []byte("message"))
	if address := key.Address(); err != nil || !ed25519.Verify(address[:], []byte("message"), signature) {
		t.Errorf("signature: %v", err)
	}
	fake.keys[0].Object.ID = []byte{9}
	if _, err = key.SignIdentity(ctx, []byte("message")); !errors.Is(err, &token.Error{Code: token.CodeNoKey}) {
		t.Errorf("a key that is gone: %v", err)
	}
	fake.keys[0].Object.ID = []byte{1}
	fake.secret[string(fake.keys[0].Public)] = fake.secret[string(fake.keys[1].Public)]
	_, err = key.SignIdentity(ctx, []byte("message"))
	wantError(t, "another key's signature", err, "does not verify")
}
