package keystore

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
	"onionbalancer/internal/locked/lockedtest"
	"onionbalancer/keystore/sealed"
	"onionbalancer/keystore/token"
)

// fakeUnsealer is a token whose data keys are wrapped by nothing but a mask,
// with a part that can fail each time it is asked.
type fakeUnsealer struct {
	fail   error         // of every call
	hang   chan struct{} // calls wait for it or for their context
	other  *descriptor.IdentityKey
	wrong  func(*descriptor.HourlyCertificates)
	calls  int
	closed bool
}

func mask(_ token.Method, plain *locked.Buffer) ([]byte, error) {
	wrapped := make([]byte, plain.Len())
	for i, b := range lockedtest.Bytes(plain) {
		wrapped[i] = b ^ 0x5a
	}
	return wrapped, nil
}

func unmask(_ token.Method, wrapped []byte) (*locked.Buffer, error) {
	for i := range wrapped {
		wrapped[i] ^= 0x5a
	}
	return locked.Copy(wrapped), nil
}

func (f *fakeUnsealer) open(ctx context.Context, o token.Object, raw []byte) (*descriptor.IdentityKey, error) {
	f.calls++
	if f.hang != nil {
		select {
		case <-f.hang:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	if f.fail != nil {
		return nil, f.fail
	}
	if o.Label != "seal" {
		return nil, token.Errorf(token.CodeNoKey, "no key %q", o.Label)
	}
	if f.other != nil {
		return f.other, nil
	}
	file, err := sealed.Parse(raw)
	if err != nil {
		return nil, err
	}
	return file.Open(unmask)
}

func (f *fakeUnsealer) Certify(ctx context.Context, o token.Object, raw []byte, p descriptor.Period, signing ed25519.PublicKey, expiries descriptor.Expiries) (certs descriptor.HourlyCertificates, key descriptor.RevisionKey, err error) {
	identity, err := f.open(ctx, o, raw)
	if err != nil {
		return certs, key, err
	}
	blinded, err := identity.Blind(p)
	if err != nil {
		return certs, key, err
	}
	certs, err = blinded.CertifyHours([32]byte(signing), expiries)
	if f.wrong != nil {
		f.wrong(&certs)
	}
	return certs, blinded.RevisionKey(), err
}

func (f *fakeUnsealer) SignIdentity(ctx context.Context, o token.Object, raw, message []byte) ([]byte, error) {
	identity, err := f.open(ctx, o, raw)
	if err != nil {
		return nil, err
	}
	return identity.Sign(message)
}

func (f *fakeUnsealer) Unseal(ctx context.Context, o token.Object, raw []byte) (*descriptor.IdentityKey, error) {
	return f.open(ctx, o, raw)
}

func (f *fakeUnsealer) Close() error {
	f.closed = true
	return nil
}

// sealFile seals a key and writes the file.
func sealFile(t testing.TB, path string, key *descriptor.IdentityKey) {
	t.Helper()
	file, err := sealed.Seal(key, token.Selector{Label: "front desk", Serial: "4711"},
		token.WrappingKey{Object: token.Object{Label: "seal", ID: []byte{1}}, Methods: []token.Method{token.MethodAESGCM}}, wish, mask, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := file.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// newSealedKey seals a new key, and has a fake open it.
func newSealedKey(t testing.TB) (*SealedKey, *fakeUnsealer, *descriptor.IdentityKey) {
	t.Helper()
	identity, fake := newKey(t).Identity(), new(fakeUnsealer)
	path := filepath.Join(t.TempDir(), "front.sealed")
	sealFile(t, path, identity)
	return newSealed(path, token.Object{Label: "seal"}, identity.Address(), fake), fake, identity
}

// TestSealedKey certifies with a sealed key as with one on disk.
func TestSealedKey(t *testing.T) {
	key, fake, identity := newSealedKey(t)
	signing := signingKey
	cert, err := key.Certify(t.Context(), period, signing, hours)
	if err != nil {
		t.Fatal(err)
	}
	blinded, err := identity.Blind(period)
	if err != nil {
		t.Fatal(err)
	}
	if err := cert.Verify(blinded.Public(), wish); err != nil || !cert.First().Expires().Equal(wish) || !cert.Expires().Equal(hours.Last()) {
		t.Errorf("until %s, %v", cert.Expires(), err)
	}
	revision, err := key.RevisionKey(t.Context(), period)
	if err != nil || string(revision.Bytes()) != string(blinded.RevisionKey().Bytes()) {
		t.Errorf("another revision key, %v", err)
	}
	if again, err := key.Certify(t.Context(), period, signing, hours); err != nil || again != cert || fake.calls != 1 {
		t.Errorf("%d calls to the token for one period, %v", fake.calls, err)
	}
	// The revision key alone, of another period.
	next, err := identity.Blind(period.Next())
	if err != nil {
		t.Fatal(err)
	}
	if revision, err = key.RevisionKey(t.Context(), period.Next()); err != nil || string(revision.Bytes()) != string(next.RevisionKey().Bytes()) || fake.calls != 2 {
		t.Errorf("another revision key after %d calls, %v", fake.calls, err)
	}
	message := []byte("a message")
	signature, err := key.SignIdentity(t.Context(), message)
	if address := identity.Address(); err != nil || !ed25519.Verify(address[:], message, signature) {
		t.Errorf("signature under the address: %v", err)
	}
	plain, err := key.Unseal(t.Context())
	if err != nil || plain.Address() != identity.Address() {
		t.Errorf("unsealed another key, %v", err)
	}
	if key.Form() != FormSealed || key.Address() != identity.Address() || fmt.Sprintf("%+v", key) != "sealed key of "+identity.Address().Short() {
		t.Errorf("form %s, printed as %+v", key.Form(), key)
	}
	if err := key.Close(); err != nil || !fake.closed {
		t.Errorf("the token was not closed, %v", err)
	}
	_, err = key.Certify(t.Context(), period, signing, hours)
	wantError(t, "closed", err, "closed")
}

// TestSealedKeyFails: errors of the token keep their code, name the file, and
// are not remembered.
func TestSealedKeyFails(t *testing.T) {
	for _, code := range []token.Code{token.CodeAbsent, token.CodePIN, token.CodeFinalTry, token.CodeLocked, token.CodeNoKey, token.CodeExposed, token.CodeUnsupported, token.CodeDamaged, token.CodeCrashed} {
		key, fake, _ := newSealedKey(t)
		fake.fail = fmt.Errorf("asking the token: %w", token.Errorf(code, "trouble"))
		for name, call := range map[string]func() error{
			"certifying":   func() error { _, err := key.Certify(t.Context(), period, signingKey, hours); return err },
			"revision key": func() error { _, err := key.RevisionKey(t.Context(), period); return err },
			"signing":      func() error { _, err := key.SignIdentity(t.Context(), nil); return err },
			"unsealing":    func() error { _, err := key.Unseal(t.Context()); return err },
		} {
			err := call()
			wantError(t, name, err, "trouble", key.Path())
			if !errors.Is(err, &token.Error{Code: code}) {
				t.Errorf("%s: the code %q is lost in %v", name, code, err)
			}
			if fake.fail = nil; call() != nil {
				t.Errorf("%s: the error stays", name)
			}
			fake.fail = err
			key.certified, key.revisions = nil, nil
		}
	}
}

// TestSealedKeyDistrusts: a helper that answers something else is not believed.
func TestSealedKeyDistrusts(t *testing.T) {
	other := newKey(t).Identity()
	for name, fake := range map[string]*fakeUnsealer{
		"another address": {other: other},
		"nothing":         {wrong: func(c *descriptor.HourlyCertificates) { *c = descriptor.HourlyCertificates{} }},
		"fewer hours":     {wrong: func(c *descriptor.HourlyCertificates) { *c = descriptor.Hourly(c.First()) }},
		"a wrong signature of a later hour": {wrong: func(c *descriptor.HourlyCertificates) {
			raw := c.Bytes()
			raw[len(raw)-1] ^= 1
			var err error
			if *c, err = descriptor.ParseHourly(raw); err != nil {
				t.Fatal(err)
			}
		}},
		"another signing key": {wrong: func(c *descriptor.HourlyCertificates) {
			blinded, err := other.Blind(period)
			if err != nil {
				t.Fatal(err)
			}
			if *c, err = blinded.CertifyHours([32]byte{9}, hours); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		key, _, _ := newSealedKey(t)
		key.token = fake
		if _, err := key.Certify(t.Context(), period, signingKey, hours); err == nil {
			t.Errorf("%s: a certificate was believed", name)
		}
		if len(key.certified) != 0 || len(key.revisions) != 0 {
			t.Errorf("%s: remembered", name)
		}
		if name == "another address" {
			_, err := key.SignIdentity(t.Context(), []byte("message"))
			wantError(t, name, err, "does not verify")
			_, err = key.Unseal(t.Context())
			wantError(t, name, err, "another address")
		}
	}
}

// TestSealedFileChanges: the file is read again for each certification.
func TestSealedFileChanges(t *testing.T) {
	key, fake, identity := newSealedKey(t)
	certify := func() error {
		_, err := key.Certify(t.Context(), period, signingKey, hours)
		key.certified = nil
		return err
	}
	sealFile(t, key.path, identity) // sealed again
	if err := certify(); err != nil {
		t.Error(err)
	}
	sealFile(t, key.path, newKey(t).Identity())
	wantError(t, "another key's file", certify(), "it has changed")
	if err := os.WriteFile(key.path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := certify(); !errors.Is(err, &token.Error{Code: token.CodeDamaged}) {
		t.Errorf("damaged: %v", err)
	}
	if err := os.Remove(key.path); err != nil {
		t.Fatal(err)
	}
	if err := certify(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed: %v", err)
	}
	if fake.calls != 1 {
		t.Errorf("the token was asked %d times, want once", fake.calls)
	}
}

// TestSealedKeyHangs: while the token hangs, each caller returns when its own
// context ends, and Close ends them all.
func TestSealedKeyHangs(t *testing.T) {
	key, fake, _ := newSealedKey(t)
	fake.hang = make(chan struct{})
	certify := func(ctx context.Context) error {
		_, err := key.Certify(ctx, period, signingKey, hours)
		return err
	}
	first := make(chan error)
	go func() { first <- certify(t.Context()) }()
	for len(key.turn) == 0 {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := certify(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the second caller got %v", err)
	}
	second := make(chan error)
	go func() { second <- certify(t.Context()) }()
	if err := key.Close(); err != nil {
		t.Fatal(err)
	}
	for _, done := range []chan error{first, second} {
		select {
		case err := <-done:
			wantError(t, "closed meanwhile", err, "closed")
		case <-time.After(10 * time.Second):
			t.Fatal("Close left a caller waiting")
		}
	}
}

// TestOpenSealedReferences: what a configuration may name, and what it is told.
func TestOpenSealedReferences(t *testing.T) {
	key, _, identity := newSealedKey(t)
	const good = "pkcs11:token=front%20desk;object=seal?module-path=/absent/module.so&pin-source=/absent/pin&x-sealed="
	opened, err := Open(good + key.path)
	if err != nil {
		t.Fatalf("without its token: %v", err)
	}
	if opened.Address() != identity.Address() || opened.Form() != FormSealed {
		t.Errorf("opened %v of form %s", opened.Address(), opened.Form())
	}
	if err := opened.Close(); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct{ ref, want string }{
		"no x-sealed":  {"pkcs11:token=a;object=key?module-path=/m.so", "CKM_EDDSA"},
		"no object":    {"pkcs11:token=a?module-path=/m.so&x-sealed=" + key.path, "object or id"},
		"no module":    {"pkcs11:token=a;object=seal?x-sealed=" + key.path, "module-path"},
		"a PIN":        {"PKCS11:token=hsm?pin-value=12345678", "pin-value"},
		"absent":       {good + key.path + ".absent", "no such file"},
		"a directory":  {good + filepath.Dir(key.path), "not a regular file"},
		"a plain key":  {good + newDisk(t).path, "not JSON"},
		"file alone":   {key.path, "pkcs11:token=front%20desk;serial=4711;object=seal;id=%01?module-path=/PATH/OF/MODULE.so&pin-source=file:/PATH/OF/PIN&x-sealed=" + key.path},
		"no reference": {"pkcs11:", "x-sealed"},
	} {
		_, err := Open(c.ref)
		wantError(t, name, err, c.want)
		if err != nil && strings.Contains(err.Error(), "12345678") {
			t.Errorf("%s: the error repeats a PIN: %v", name, err)
		}
	}
}
