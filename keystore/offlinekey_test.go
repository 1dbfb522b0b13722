package keystore

import (
	"crypto/ed25519"
	"path/filepath"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/keystore/offline"
)

// TestOpenOffline: a directory that a ceremony is for is a key, too.
func TestOpenOffline(t *testing.T) {
	fresh := newKey(t)
	dir := filepath.Join(t.TempDir(), "front.offline")
	wanted, err := offline.Prepare(t.Context(), offline.Preparation{
		Dir: dir, Address: fresh.Address(), Schedule: offline.Public, First: period.Number, Count: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	request, err := offline.NewRequest(wish, offline.Public, period.Number, []offline.Wanted{wanted})
	if err != nil {
		t.Fatal(err)
	}
	key, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if key.Address() != fresh.Address() || key.Form() != FormOffline {
		t.Errorf("opened: %v, %s", key, key.Form())
	}
	_, err = key.RevisionKey(t.Context(), period)
	wantError(t, "before the ceremony", err, "no certificates are installed")
	bundle, err := request.Sign([]*descriptor.IdentityKey{fresh.key}, wish)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := offline.Install([]string{dir}, []*offline.Bundle{bundle}, wish.Add(-48*time.Hour)); err != nil {
		t.Fatal(err)
	}
	cert, err := key.Certify(t.Context(), period, wanted.Keys[0], hours)
	if err != nil || cert.First().Key() != [ed25519.PublicKeySize]byte(wanted.Keys[0]) {
		t.Errorf("certified: %v", err)
	}
	if err := fresh.WriteTor(dir); err != nil {
		t.Fatal(err)
	}
	_, err = Open(dir)
	wantError(t, "an identity key beside it", err, "holds an identity key", torSecretFile)
}
