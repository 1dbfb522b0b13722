package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"testing"
	"time"

	"onionbalancer/descriptor"
)

// emptyDescriptor makes a descriptor without introduction points.
func emptyDescriptor(t *testing.T, identity *descriptor.IdentityKey, period descriptor.Period, now time.Time) []byte {
	t.Helper()
	keys, err := identity.Address().Keys(period)
	if err != nil {
		t.Fatal(err)
	}
	blinded, err := identity.Blind(period)
	if err != nil {
		t.Fatal(err)
	}
	public, signing, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := descriptor.NewCertificate(descriptor.CertHSDescSigning, [32]byte(public), keys.Blinded, descriptor.SigningCertExpiry(now),
		func(m []byte) ([]byte, error) { return blinded.Sign(m), nil })
	if err != nil {
		t.Fatal(err)
	}
	encoder, err := descriptor.NewEncoder(keys, cert, signing)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := encoder.Encode(&descriptor.Contents{}, 1, nil, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
