// Package csr makes certificate requests by which a CA lets an operator prove
// control of an onion address: PKCS #10 (RFC 2986), signed by the address's
// identity key, with two nonces among its attributes.
//
//   - CA/Browser Forum, Baseline Requirements, appendix B, item 2.b: the request
//     is signed with the onion service's private key and has the attributes
//     caSigningNonce, a random value that the CA made, and applicantSigningNonce.
//     Each is a single OCTET STRING. One request validates the address and every
//     name below it, wildcards too. The CA's value is good for 30 days at most.
//   - RFC 9799, section 3.2, challenge onion-csr-01: the same request, answered
//     to an ACME server. The nonce stands in the challenge in base64 and in the
//     request as raw bytes. The request's public key is that of the address, and
//     must not be the key that the certificate is for: that one has a request of
//     its own, which finalizes the order. The key authorization of other
//     challenges plays no part (section 8.3), and the subject means nothing.
//
// The subject is empty, so the extension subjectAltName is critical (RFC 5280,
// section 4.2.1.6); it names the address for people and for CAs without ACME.
package csr

import (
	"bytes"
	"crypto/ed25519"
	encodingasn1 "encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"onionbalancer/descriptor"
)

// Request is the content of a certificate request. New makes one, Verify reads one.
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

// check refuses requests that Verify would refuse.
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
// a certificate request, and nothing else. A custodian can check this
// before signing, so that it cannot be used for signing other things.
//
// The identity key signs more than requests in its life, and none of it must
// pass for another:
//
//   - a certificate of a descriptor-signing key, which is signed by a blinded key
//     of the identity key, begins with its version, the byte 1 (cert-spec);
//   - a CAA record set begins with "onion-caa|" (RFC 9799, section 6.4);
//   - messages that this program signs itself, at a ceremony, begin with a text in
//     letters that says what they are.
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

// The object identifiers of a request.
var (
	oidEd25519          = encodingasn1.ObjectIdentifier{1, 3, 101, 112}              // RFC 8410
	oidCANonce          = encodingasn1.ObjectIdentifier{2, 23, 140, 41}              // cabf-caSigningNonce
	oidApplicantNonce   = encodingasn1.ObjectIdentifier{2, 23, 140, 42}              // cabf-applicantSigningNonce
	oidExtensionRequest = encodingasn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 14} // RFC 2985
	oidAltName          = encodingasn1.ObjectIdentifier{2, 5, 29, 17}                // RFC 5280
)

// The tags of a request that are not universal.
var (
	tagAttributes = asn1.Tag(0).ContextSpecific().Constructed() // of CertificationRequestInfo, IMPLICIT
	tagDNSName    = asn1.Tag(2).ContextSpecific()               // of GeneralName, IMPLICIT
)

// message returns the CertificationRequestInfo (RFC 2986, section 4.1), which
// is the signed part.
func (r Request) message() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	attributes, err := r.attributes()
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(0)                                      // version: v1
		b.AddASN1(asn1.SEQUENCE, func(*cryptobyte.Builder) {}) // subject: none
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { // subjectPKInfo
			addAlgorithm(b)
			b.AddASN1BitString(r.Address[:])
		})
		b.AddASN1(tagAttributes, func(b *cryptobyte.Builder) {
			for _, attribute := range attributes {
				b.AddBytes(attribute)
			}
		})
	})
	return finish(&b)
}

// attributes returns the three attributes, each encoded, in the order that DER
// gives to a SET OF (X.690, section 11.6).
func (r Request) attributes() ([][]byte, error) {
	var list [][]byte
	for _, a := range []struct {
		oid   encodingasn1.ObjectIdentifier
		value func(*cryptobyte.Builder)
	}{
		{oidCANonce, func(b *cryptobyte.Builder) { b.AddASN1OctetString(r.CANonce) }},
		{oidApplicantNonce, func(b *cryptobyte.Builder) { b.AddASN1OctetString(r.ApplicantNonce) }},
		{oidExtensionRequest, r.addExtensions},
	} {
		var b cryptobyte.Builder
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(a.oid)
			b.AddASN1(asn1.SET, a.value)
		})
		attribute, err := finish(&b)
		if err != nil {
			return nil, err
		}
		list = append(list, attribute)
	}
	slices.SortFunc(list, bytes.Compare)
	return list, nil
}

// addExtensions adds the one extension that is asked for, subjectAltName.
func (r Request) addExtensions(b *cryptobyte.Builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidAltName)
			b.AddASN1Boolean(true) // critical
			b.AddASN1(asn1.OCTET_STRING, func(b *cryptobyte.Builder) {
				b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
					for _, name := range r.Names {
						b.AddASN1(tagDNSName, func(b *cryptobyte.Builder) { b.AddBytes([]byte(name)) })
					}
				})
			})
		})
	})
}

// encode puts the parts of a CertificationRequest together.
func encode(message, signature []byte) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(message)
		addAlgorithm(b)
		b.AddASN1BitString(signature)
	})
	return finish(&b)
}

// addAlgorithm adds the AlgorithmIdentifier of Ed25519, of keys as of
// signatures. It has no parameters (RFC 8410, section 3).
func addAlgorithm(b *cryptobyte.Builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidEd25519) })
}

func finish(b *cryptobyte.Builder) ([]byte, error) {
	der, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encoding it: %w", err)
	}
	return der, nil
}

const (
	minNonce = 8   // bytes: 64 bits, if they are random
	maxNonce = 256 // bytes; far above what CAs give
	ownNonce = 16  // bytes of the nonces made here
)

// ACMENonce reads the nonce of an onion-csr-01 challenge, base64 with padding
// (RFC 9799, section 3.2). The URL alphabet and missing padding are understood
// as well; no text means two things.
func ACMENonce(text string) ([]byte, error) {
	encoding := base64.RawStdEncoding
	if strings.ContainsAny(text, "-_") {
		encoding = base64.RawURLEncoding
	}
	bare := text
	if len(text)%4 == 0 {
		bare = strings.TrimSuffix(strings.TrimSuffix(text, "="), "=")
	}
	// The decoder passes over line ends.
	if strings.ContainsAny(text, "\r\n") {
		return nil, fmt.Errorf("nonce %q: not base64: a line end within it", text)
	}
	nonce, err := encoding.Strict().DecodeString(bare)
	if err != nil {
		return nil, fmt.Errorf("nonce %q: not base64: %w", text, err)
	}
	return nonce, nonceError(fmt.Sprintf("nonce %q", text), nonce)
}

// TextNonce takes a CA's random value that is text, character by character.
func TextNonce(text string) ([]byte, error) {
	if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, fmt.Errorf("CA nonce %q: there are spaces or control characters in it, was it copied well?", text)
	}
	return []byte(text), nonceError(fmt.Sprintf("CA nonce %q", text), []byte(text))
}

// HexNonce reads a CA's random value from its hexadecimal notation, which may
// have colons between the bytes.
func HexNonce(text string) ([]byte, error) {
	nonce, err := hex.DecodeString(strings.ReplaceAll(text, ":", ""))
	if err != nil {
		return nil, fmt.Errorf("CA nonce %q: not hexadecimal: %w", text, err)
	}
	return nonce, nonceError(fmt.Sprintf("CA nonce %q", text), nonce)
}

func nonceError(name string, nonce []byte) error {
	if err := checkNonce(nonce); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func checkNonce(nonce []byte) error {
	switch {
	case len(nonce) < minNonce:
		return fmt.Errorf("%d bytes, which cannot hold the 64 random bits that are required", len(nonce))
	case len(nonce) > maxNonce:
		return fmt.Errorf("%d bytes, want at most %d", len(nonce), maxNonce)
	}
	return nil
}
