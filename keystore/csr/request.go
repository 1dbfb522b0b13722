package csr

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"

	"onionbalancer/descriptor"
)

// Request is what a certificate request says. New makes one, Verify reads one.
type Request struct {
	Address        descriptor.Address // whose key signs, and is the request's public key
	Names          []string           // subjectAltName: Address, and names below it
	CANonce        []byte             // caSigningNonce, raw
	ApplicantNonce []byte             // applicantSigningNonce, raw
}

// New returns a request with an applicant's nonce of 128 bits from random,
// crypto/rand.Reader but in tests. See Names for names, and ACMENonce, TextNonce
// and HexNonce for caNonce.
func New(address descriptor.Address, names []string, caNonce []byte, random io.Reader) (Request, error) {
	r := Request{Address: address, Names: names, CANonce: caNonce, ApplicantNonce: make([]byte, ownNonce)}
	if _, err := io.ReadFull(random, r.ApplicantNonce); err != nil {
		return Request{}, fmt.Errorf("making a certificate request: %w", err)
	}
	if err := r.check(); err != nil {
		return Request{}, fmt.Errorf("making a certificate request: %w", err)
	}
	return r, nil
}

// check refuses what Verify would.
func (r Request) check() error {
	if err := r.Address.Validate(); err != nil {
		return fmt.Errorf("address: %w", err)
	}
	if err := checkNames(r.Address, r.Names); err != nil {
		return err
	}
	if err := checkNonce(r.CANonce); err != nil {
		return fmt.Errorf("the CA's nonce: %w", err)
	}
	if err := checkNonce(r.ApplicantNonce); err != nil {
		return fmt.Errorf("the applicant's nonce: %w", err)
	}
	return nil
}

// Sign returns the request in DER. sign is called once, with the bytes to be
// signed, and returns a plain Ed25519 signature by the identity key of
// r.Address, which is checked.
func (r Request) Sign(sign func(message []byte) ([]byte, error)) (der []byte, err error) {
	message, err := r.message()
	if err != nil {
		return nil, fmt.Errorf("making a certificate request: %w", err)
	}
	if err := Signable(r.Address, message); err != nil {
		return nil, fmt.Errorf("making a certificate request: %w", err)
	}
	signature, err := sign(message)
	if err != nil {
		return nil, fmt.Errorf("signing a certificate request: %w", err)
	}
	if len(signature) != ed25519.SignatureSize || !ed25519.Verify(r.Address[:], message, signature) {
		return nil, errors.New("signing a certificate request: the signature is not by the key of the address")
	}
	return encode(message, signature)
}

// Signable reports whether message is what the identity key of address signs for
// a certificate request, and nothing else. Whoever keeps the key can ask it
// before signing, so that it is of no use for signing other things.
//
// The identity key signs more than requests in its life, and none of it must
// pass for another:
//
//   - a certificate of a descriptor-signing key, which is signed by a blinded key
//     of the identity key, begins with its version, the byte 1 (cert-spec);
//   - a CAA record set begins with "onion-caa|" (RFC 9799, section 6.4);
//   - what this program signs itself, at a ceremony for one, begins with a text in
//     letters that says what it is.
//
// A request begins with the tag of an ASN.1 SEQUENCE, 0x30, which none of these
// does, and all of it must parse, so that nothing hides behind the first byte.
func Signable(address descriptor.Address, message []byte) error {
	r, err := parseMessage(message)
	if err != nil {
		return fmt.Errorf("not the content of a certificate request: %w", err)
	}
	if r.Address != address {
		return fmt.Errorf("a certificate request for %s, not for %s", r.Address.Short(), address.Short())
	}
	return nil
}
