package csr

import (
	"bytes"
	encodingasn1 "encoding/asn1"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

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
// is what is signed.
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
