package sim

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"strconv"
	"time"

	"onionbalancer/descriptor"
)

// Tampered is a Faults.Forge that changes one character of the encrypted part,
// so that the signature is wrong.
func Tampered(honest []byte) []byte {
	const begin = "-----BEGIN MESSAGE-----\n"
	b := bytes.Clone(honest)
	i := bytes.Index(b, []byte(begin))
	if i < 0 || i+len(begin) >= len(b) {
		return b
	}
	i += len(begin)
	if b[i] == 'A' {
		b[i] = 'B'
	} else {
		b[i] = 'A'
	}
	return b
}

// Raised is a Faults.Forge that raises the revision counter and leaves the
// signature as it was.
func Raised(honest []byte) []byte {
	before, after, found := bytes.Cut(honest, []byte("revision-counter "))
	number, rest, ok := bytes.Cut(after, []byte("\n"))
	counter, err := strconv.ParseUint(string(number), 10, 64)
	if !found || !ok || err != nil {
		return honest
	}
	return fmt.Appendf(nil, "%srevision-counter %d\n%s", before, counter+1000000, rest)
}

// Garbage is a Faults.Forge that hands out what is no descriptor at all.
func Garbage([]byte) []byte { return []byte("HTTP/1.0 200 OK\n\nhello\n.\n") }

// Foreign returns a Faults.Forge that hands out a descriptor whose outer
// wrapper is in order, with the highest revision counter there is, but signed
// for another service than the one asked for: all that an HSDir can do that
// does not know the service's secret.
func (n *Network) Foreign() func(honest []byte) []byte {
	seed := n.cfg.derive("foreign service")
	return func([]byte) []byte {
		now := time.Now()
		body, err := foreignDescriptor(seed[:], n.votes[len(n.votes)-1].Period(), now)
		if err != nil {
			panic("sim: making a foreign descriptor: " + err.Error())
		}
		return body
	}
}

func foreignDescriptor(seed []byte, period descriptor.Period, now time.Time) ([]byte, error) {
	key, err := descriptor.IdentityKeyFromSeed(seed)
	if err != nil {
		return nil, err
	}
	blinded, err := key.Blind(period)
	if err != nil {
		return nil, err
	}
	signer := ed25519.NewKeyFromSeed(seed)
	cert, err := certify(blinded, signer, now)
	if err != nil {
		return nil, err
	}
	return signWrapper(cert, signer, 1<<64-1, bytes.Repeat([]byte("foreign "), 1250)), nil
}

// certify signs a descriptor-signing key as tor does.
func certify(blinded *descriptor.BlindedKey, signer ed25519.PrivateKey, now time.Time) (descriptor.Certificate, error) {
	return descriptor.NewCertificate(descriptor.CertHSDescSigning, [32]byte(signer.Public().(ed25519.PublicKey)),
		blinded.Public(), descriptor.SigningCertExpiry(now),
		func(message []byte) ([]byte, error) { return blinded.Sign(message), nil })
}
