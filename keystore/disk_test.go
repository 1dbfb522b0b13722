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
// key, and again only when a certificate should live much longer.
func TestOneCertificationEach(t *testing.T) {
	key := newDisk(t)
	other := ed25519.NewKeyFromSeed(append(make([]byte, 31), 1)).Public().(ed25519.PublicKey)
	signing := [][]byte{signingKey, other}
	first, err := key.Certify(t.Context(), period, signing[0], wish)
	if err != nil {
		t.Fatal(err)
	}
	if first.Type() != descriptor.CertHSDescSigning || !first.Expires().Equal(wish) || first.Key() != [32]byte(signing[0]) {
		t.Errorf("certificate of type %x for %x until %s", first.Type(), first.Key(), first.Expires())
	}
	away := key.path + ".away"
	if err := os.Rename(key.path, away); err != nil {
		t.Fatal(err)
	}
	if again, err := key.Certify(t.Context(), period, signing[0], wish.Add(time.Hour)); err != nil || again != first {
		t.Errorf("the second call gave another certificate, or %v", err)
	}
	if _, err := key.RevisionKey(t.Context(), period); err != nil {
		t.Errorf("the revision key of a certified period: %v", err)
	}
	for name, call := range map[string]func() error{
		"another signing key": func() error { _, err := key.Certify(t.Context(), period, signing[1], wish); return err },
		"another period":      func() error { _, err := key.Certify(t.Context(), period.Next(), signing[0], wish); return err },
		"a renewal": func() error {
			_, err := key.Certify(t.Context(), period, signing[0], wish.Add(50*time.Hour))
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
	if renewed, err := key.Certify(t.Context(), period, signing[0], wish.Add(50*time.Hour)); err != nil || renewed == first {
		t.Errorf("no renewal: %v", err)
	}
}

func TestForgetsOldPeriods(t *testing.T) {
	key, p := newDisk(t), period
	for range 100 {
		if _, err := key.Certify(t.Context(), p, signingKey, wish); err != nil {
			t.Fatal(err)
		}
		p = p.Next()
	}
	if len(key.certificates) != maxRemembered || len(key.revisions) != maxRemembered {
		t.Errorf("%d certificates and %d revision keys remembered", len(key.certificates), len(key.revisions))
	}
}

func TestCertifyRefuses(t *testing.T) {
	key := newDisk(t)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := key.Certify(ended, period, signingKey, wish); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context gives %v", err)
	}
	_, err := key.Certify(t.Context(), period, make([]byte, 31), wish)
	wantError(t, "a short signing key", err, "31 bytes")
	_, err = key.Certify(t.Context(), period, signingKey, time.Unix(-1, 0))
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
	_, err = key.Certify(t.Context(), period, signingKey, wish)
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
			if _, err := key.Certify(t.Context(), p, signingKey, wish); err != nil {
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

// TestWrongSignature: a signature that does not verify is not let out.
func TestWrongSignature(t *testing.T) {
	blinded, err := newKey(t).key.Blind(period)
	if err != nil {
		t.Fatal(err)
	}
	blinded.Wipe() // the public half stays
	_, err = blinded.Certify([32]byte(signingKey), wish)
	wantError(t, "a damaged secret", err, "checking the certificate just made")
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
