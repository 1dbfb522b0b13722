package keystore

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"onionbalancer/descriptor"
)

var (
	wish   = time.Date(2026, 11, 22, 6, 0, 0, 0, time.UTC)
	hours  = descriptor.Expiries{First: wish, Count: 3}
	period = descriptor.Period{Number: 20777, Length: descriptor.DefaultPeriodLength}
)

func wantError(t *testing.T, name string, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", name)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%s: error %q does not say %q", name, err, part)
		}
	}
}

func newKey(t testing.TB) *Fresh {
	t.Helper()
	fresh, err := New(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return fresh
}

// newDisk writes a new key and opens it.
func newDisk(t testing.TB) *DiskKey {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "front")
	if err := newKey(t).WriteTor(dir); err != nil {
		t.Fatal(err)
	}
	key, err := OpenDisk(dir)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestOneCertificationEach: the file is read once for each period and signing
// key, and again only when certificates should live longer.
func TestOneCertificationEach(t *testing.T) {
	key := newDisk(t)
	other := ed25519.NewKeyFromSeed(append(make([]byte, 31), 1)).Public().(ed25519.PublicKey)
	signing := [][]byte{signingKey, other}
	first, err := key.Certify(t.Context(), period, signing[0], hours)
	if err != nil {
		t.Fatal(err)
	}
	if cert := first.First(); cert.Type() != descriptor.CertHSDescSigning || !cert.Expires().Equal(wish) || !first.Expires().Equal(hours.Last()) || cert.Key() != [32]byte(signing[0]) {
		t.Errorf("certificates of type %x for %x from %s to %s", cert.Type(), cert.Key(), cert.Expires(), first.Expires())
	}
	later := descriptor.Expiries{First: wish.Add(2 * time.Hour), Count: 2} // the last is one hour later
	away := key.path + ".away"
	if err := os.Rename(key.path, away); err != nil {
		t.Fatal(err)
	}
	if again, err := key.Certify(t.Context(), period, signing[0], descriptor.Expiries{First: wish.Add(time.Hour), Count: 2}); err != nil || again != first {
		t.Errorf("the second call gave another certificate, or %v", err)
	}
	if _, err := key.RevisionKey(t.Context(), period); err != nil {
		t.Errorf("the revision key of a certified period: %v", err)
	}
	for name, call := range map[string]func() error{
		"another signing key": func() error { _, err := key.Certify(t.Context(), period, signing[1], hours); return err },
		"another period":      func() error { _, err := key.Certify(t.Context(), period.Next(), signing[0], hours); return err },
		"a renewal": func() error {
			_, err := key.Certify(t.Context(), period, signing[0], later)
			return err
		},
		"another revision key": func() error { _, err := key.RevisionKey(t.Context(), period.Next()); return err },
	} {
		if err := call(); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s was not asked of the file: %v", name, err)
		}
	}
	if err := os.Rename(away, key.path); err != nil {
		t.Fatal(err)
	}
	if renewed, err := key.Certify(t.Context(), period, signing[0], later); err != nil || renewed == first {
		t.Errorf("no renewal: %v", err)
	}
}

func TestForgetsOldPeriods(t *testing.T) {
	key, p := newDisk(t), period
	for range 100 {
		if _, err := key.Certify(t.Context(), p, signingKey, hours); err != nil {
			t.Fatal(err)
		}
		p = p.Next()
	}
	if len(key.certified) != maxCertificates || len(key.revisions) != maxRevisions {
		t.Errorf("certificates of %d periods and %d revision keys remembered", len(key.certified), len(key.revisions))
	}
}

func TestCertifyRefuses(t *testing.T) {
	key := newDisk(t)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := key.Certify(ended, period, signingKey, hours); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context gives %v", err)
	}
	_, err := key.Certify(t.Context(), period, make([]byte, 31), hours)
	wantError(t, "a short signing key", err, "31 bytes")
	_, err = key.Certify(t.Context(), period, signingKey, descriptor.Expiries{First: time.Unix(-1, 0), Count: 1})
	wantError(t, "an expiry before all", err, "expiry")

	if err := os.Remove(key.path); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{torPublicFile, torHostnameFile} {
		if err := os.Remove(filepath.Join(filepath.Dir(key.path), name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := newKey(t).WriteTor(filepath.Dir(key.path)); err != nil {
		t.Fatal(err)
	}
	_, err = key.Certify(t.Context(), period, signingKey, hours)
	wantError(t, "another key in its place", err, "has changed")

	if err := key.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = key.RevisionKey(t.Context(), period)
	wantError(t, "closed", err, "closed")
}

func TestConcurrentUse(t *testing.T) {
	key := newDisk(t)
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			p := descriptor.Period{Number: uint64(i / 4), Length: time.Hour}
			if _, err := key.Certify(t.Context(), p, signingKey, hours); err != nil {
				t.Error(err)
			}
			if _, err := key.RevisionKey(t.Context(), p); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}

// TestPrivate: a file that others can use is refused, with the way to fix it.
func TestPrivate(t *testing.T) {
	for _, mode := range []os.FileMode{0o604, 0o620, 0o644, 0o601} {
		path := newDisk(t).path
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := OpenDisk(path)
		wantError(t, mode.String(), err, "chmod 600 "+path)
	}
	for _, mode := range []os.FileMode{0o600, 0o400, 0o700} {
		path := newDisk(t).path
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenDisk(path); err != nil {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
}

// TestLinks: a link is followed, and the file at its end checked.
func TestLinks(t *testing.T) {
	key := newDisk(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(key.path, link); err != nil {
		t.Fatal(err)
	}
	if got, err := OpenDisk(link); err != nil || got.Address() != key.Address() {
		t.Errorf("through a link: %v", err)
	}
	if err := os.Chmod(key.path, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := OpenDisk(link)
	wantError(t, "a link to an open file", err, "chmod 600")
}

// TestWrongSignature: a signature that does not verify is not let out: that of a single
// certificate nowhere, those of many hours in no descriptor.
func TestWrongSignature(t *testing.T) {
	identity, signing := newKey(t).key, ed25519.NewKeyFromSeed(make([]byte, 32))
	blinded, err := identity.Blind(period)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := identity.Address().Keys(period)
	if err != nil {
		t.Fatal(err)
	}
	blinded.Wipe() // the public half stays
	_, err = blinded.Certify([32]byte(signingKey), wish)
	wantError(t, "a damaged secret", err, "checking the certificate just made")
	certs, err := blinded.CertifyHours([32]byte(signing.Public().(ed25519.PublicKey)), hours)
	if err != nil {
		t.Fatal(err)
	}
	_, err = descriptor.NewHourlyEncoder(keys, certs, signing)
	wantError(t, "a damaged secret, for hours", err, "wrong signature")
}

// TestSignIdentity: a key on disk signs under its address, and no other key does
// in its place.
func TestSignIdentity(t *testing.T) {
	key, other := newDisk(t), newDisk(t)
	message := []byte("a message")
	signature, err := key.SignIdentity(t.Context(), message)
	if err != nil {
		t.Fatal(err)
	}
	if address := key.Address(); !ed25519.Verify(address[:], message, signature) {
		t.Error("the signature does not verify under the address")
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := key.SignIdentity(ended, message); !errors.Is(err, context.Canceled) {
		t.Errorf("signing without time: %v", err)
	}
	if err := os.Rename(other.Path(), key.Path()); err != nil {
		t.Fatal(err)
	}
	_, err = key.SignIdentity(t.Context(), message)
	wantError(t, "exchanged key", err, "it has changed", key.Address().Short(), other.Address().Short())
	if err := key.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = key.SignIdentity(t.Context(), message)
	wantError(t, "closed key", err, "closed")
}
