package keystore

import (
	"context"
	"crypto/ed25519"
	"errors"
	"os"
	"testing"
)

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
