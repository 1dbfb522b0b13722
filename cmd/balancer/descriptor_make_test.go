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
	return makeDescriptor(t, identity, period, now, &descriptor.Contents{})
}

// makeDescriptor makes a descriptor of these contents.
func makeDescriptor(t *testing.T, identity *descriptor.IdentityKey, period descriptor.Period, now time.Time, contents *descriptor.Contents) []byte {
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
	raw, err := encoder.Encode(contents, 1, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// farPoint is an introduction point whose certificates end when no certificate
// can end later.
func farPoint(t *testing.T) descriptor.IntroductionPoint {
	t.Helper()
	auth, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return descriptor.IntroductionPoint{
		LinkSpecifiers: []descriptor.LinkSpecifier{
			{Type: descriptor.LinkIPv4, Data: []byte{192, 0, 2, 1, 0x23, 0x29}},
			{Type: descriptor.LinkRSA, Data: make([]byte, 20)},
			{Type: descriptor.LinkEd25519, Data: auth},
		},
		OnionKey: [32]byte{9}, AuthKey: [32]byte(auth), EncKey: [32]byte{9}, Expires: time.Unix((1<<32-1)*3600, 0),
	}
}
