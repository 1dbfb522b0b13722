package keystore

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha512"
	"errors"
	"slices"
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
	fake, address := newSigning(), newKey(t).Address()
	keys := newTokenKeys(fake, address)
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
	again, err := newTokenKeys(fake, address).SigningKey(t.Context(), period)
	if err != nil || !again.Public().(ed25519.PublicKey).Equal(signer.Public()) {
		t.Errorf("another key for the same period, %v", err)
	}
	for name, of := range map[string]*TokenKeys{"another service": newTokenKeys(fake, newKey(t).Address()), "another period": keys} {
		p := period
		if of == keys {
			p = period.Next()
		}
		other, err := of.SigningKey(t.Context(), p)
		if err != nil || other.Public().(ed25519.PublicKey).Equal(signer.Public()) {
			t.Errorf("%s: the same key, %v", name, err)
		}
	}
	if label := fake.keys[0].Object.Label; len(fake.keys) != 3 || !strings.HasPrefix(label, "balancer descriptor-signing ") ||
		!strings.HasSuffix(label, " 20777/1440m") || strings.Contains(label, address.Label()[:8]) || len(fake.keys[0].Object.ID) != 16 {
		t.Errorf("%d keys, the first %q", len(fake.keys), label)
	}
	if err := keys.Close(); err != nil || !fake.closed || len(fake.keys) != 3 {
		t.Errorf("after Close %d keys, %v", len(fake.keys), err)
	}
}

// TestRetire destroys what is older than all that is in use, of our service.
func TestRetire(t *testing.T) {
	fake := newSigning()
	keys, others := newTokenKeys(fake, newKey(t).Address()), newTokenKeys(fake, newKey(t).Address())
	p := descriptor.Period{Number: 100, Length: 24 * time.Hour}
	for n := p.Number - 3; n <= p.Number+3; n++ {
		for _, of := range []*TokenKeys{keys, others} {
			if _, err := of.SigningKey(t.Context(), descriptor.Period{Number: n, Length: p.Length}); err != nil {
				t.Fatal(err)
			}
		}
	}
	hourly := []descriptor.Period{{Number: 100*24 - 1, Length: time.Hour}, {Number: 100 * 24, Length: time.Hour}}
	for _, of := range hourly {
		if _, err := keys.SigningKey(t.Context(), of); err != nil {
			t.Fatal(err)
		}
	}
	strangers := []string{keys.prefix + "1/1440m ", keys.prefix + "01/1440m", keys.prefix + "1/0m", keys.prefix + "1/1440", keys.prefix + "x/1m", keys.prefix}
	for _, label := range strangers {
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
	if len(fake.keys) != before-4 { // 97, 98, 99, and the hour before
		t.Errorf("%d of %d keys left", len(fake.keys), before)
	}
	for _, key := range fake.keys {
		if of, ours := keys.periodOf(key.Object.Label); ours && of.End(0).Compare(p.Start(0)) <= 0 {
			t.Errorf("%q is left", key.Object.Label)
		}
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
		keys := newTokenKeys(fake, newKey(t).Address())
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
	keys := newTokenKeys(fake, newKey(t).Address())
	for range 2 {
		if _, err := fake.Generate(t.Context(), keys.object(period)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := keys.SigningKey(t.Context(), period)
	wantError(t, "two keys of one name", err, "2 keys", "pkcs11-tool --delete-object")
	fake.fail["list"] = trouble
	if err := keys.Retire(t.Context(), []descriptor.Period{period}); !errors.Is(err, trouble) {
		t.Errorf("Retire: %v", err)
	}
}

// TestOpenSigningReferences: what "signing" may be.
func TestOpenSigningReferences(t *testing.T) {
	address := newKey(t).Address()
	keys, err := OpenSigning("pkcs11:token=a?module-path=/absent.so", address)
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
		_, err := OpenSigning(c.ref, address)
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
