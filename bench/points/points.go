// Package points makes introduction points that lead nowhere, for measuring.
package points

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"time"

	"onionbalancer/descriptor"
)

// Contents returns contents with as many introduction points as there may be,
// like those of a tor of today.
func Contents(now time.Time) (*descriptor.Contents, error) {
	contents := &descriptor.Contents{FlowControl: &descriptor.FlowControl{Versions: "1-2", SendmeInc: 31}}
	for range descriptor.MaxIntroductionPoints {
		p, err := makePoint(now)
		if err != nil {
			return nil, err
		}
		contents.IntroductionPoints = append(contents.IntroductionPoints, p)
	}
	return contents, nil
}

func makePoint(now time.Time) (p descriptor.IntroductionPoint, err error) {
	auth, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return p, err
	}
	enc, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return p, err
	}
	onion, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return p, err
	}
	return descriptor.IntroductionPoint{
		LinkSpecifiers: []descriptor.LinkSpecifier{
			{Type: descriptor.LinkIPv4, Data: append([]byte{10}, RandomBytes(5)...)},
			{Type: descriptor.LinkRSA, Data: RandomBytes(20)},
			{Type: descriptor.LinkEd25519, Data: RandomBytes(32)},
		},
		AuthKey: [32]byte(auth), EncKey: [32]byte(enc.PublicKey().Bytes()), OnionKey: [32]byte(onion.PublicKey().Bytes()),
		Expires: descriptor.SigningCertExpiry(now),
	}, nil
}

// RandomBytes cannot fail: the runtime ends the program before it does.
func RandomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}
