package descriptor

import (
	"bytes"
	"crypto/ed25519"
	"runtime"
	"sync"
	"testing"
	"time"

	"onionbalancer/internal/locked/lockedtest"
)

// TestSecretsUnderCollection makes keys, uses each for the last time and drops
// it, while the garbage collector gives the memory of dropped ones to new ones.
func TestSecretsUnderCollection(t *testing.T) {
	var workers sync.WaitGroup
	p := Period{Number: 20000, Length: 24 * time.Hour}
	for n := range byte(4) {
		workers.Go(func() {
			for i := range byte(50) {
				key, err := IdentityKeyFromSeed(append(make([]byte, 30), n, i))
				if err != nil {
					t.Error(err)
					return
				}
				address := key.Address()
				blinded, err := key.Blind(p)
				if err != nil {
					t.Error(err)
					return
				}
				public := blinded.Public()
				if !ed25519.Verify(public[:], []byte("message"), blinded.Sign([]byte("message"))) {
					t.Error("a blinded key signed wrongly")
				}
				if signature, err := key.Sign([]byte("message")); err != nil || !ed25519.Verify(address[:], []byte("message"), signature) {
					t.Errorf("an identity key signed wrongly: %v", err)
				}
			}
		})
	}
	stop := make(chan struct{})
	var collector sync.WaitGroup
	collector.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
			}
		}
	})
	workers.Wait()
	close(stop)
	collector.Wait()
}

// TestWiped uses keys after Wipe: they are useless, and do no harm.
func TestWiped(t *testing.T) {
	key := identityFor(t)
	blinded, err := key.Blind(Period{Number: 20000, Length: 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	copied, public := *key, blinded.Public()
	key.Wipe()
	key.Wipe()
	blinded.Wipe()
	secret := key.Secret()
	defer secret.Wipe()
	for _, left := range [][]byte{key.Expanded(), copied.Expanded(), lockedtest.Bytes(secret), expandedOf(blinded)} {
		if !bytes.Equal(left, make([]byte, 64)) {
			t.Errorf("a secret outlived Wipe: %x", left)
		}
	}
	if ed25519.Verify(public[:], []byte("message"), blinded.Sign([]byte("message"))) {
		t.Error("a blinded key signs after Wipe")
	}
	if _, err := key.Sign([]byte("message")); err == nil {
		t.Error("an identity key signs after Wipe")
	}
	if other, err := key.Blind(Period{Number: 20000, Length: 24 * time.Hour}); err == nil && other.Public() == public {
		t.Error("an identity key blinds after Wipe")
	}
}

// BenchmarkIdentityKey measures taking a key in, as it is read from a file.
func BenchmarkIdentityKey(b *testing.B) {
	expanded := identityFor(b).Expanded()
	for b.Loop() {
		key, err := NewIdentityKey(expanded)
		if err != nil {
			b.Fatal(err)
		}
		key.Wipe()
	}
}

// BenchmarkCertify measures all that needs the identity secret in a period.
func BenchmarkCertify(b *testing.B) {
	key := identityFor(b)
	p, expires := Period{Number: 20000, Length: 24 * time.Hour}, time.Unix(1790000000, 0)
	for b.Loop() {
		blinded, err := key.Blind(p)
		if err != nil {
			b.Fatal(err)
		}
		_, err = NewCertificate(CertHSDescSigning, [32]byte{1}, blinded.Public(), expires,
			func(message []byte) ([]byte, error) { return blinded.Sign(message), nil })
		if err != nil {
			b.Fatal(err)
		}
		_ = blinded.RevisionKey()
		blinded.Wipe()
	}
}

func identityFor(t testing.TB) *IdentityKey {
	t.Helper()
	key, err := IdentityKeyFromSeed(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	return key
}
