package csr

import (
	"bytes"
	"crypto/ed25519"
	encodingasn1 "encoding/asn1"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"onionbalancer/descriptor"
)

// Verify checks a request as a CA would, and more strictly: that der is one in
// the form that Sign gives it and nothing else, that its key is that of address,
// that this key signed it, and that it answers caNonce. It returns its content.
func Verify(der []byte, address descriptor.Address, caNonce []byte) (Request, error) {
	message, signature, err := split(der)
	if err != nil {
		return Request{}, fmt.Errorf("checking a certificate request: %w", err)
	}
	r, err := parseMessage(message)
	if err != nil {
		return Request{}, fmt.Errorf("checking a certificate request: %w", err)
	}
	switch {
	case r.Address != address:
		return Request{}, fmt.Errorf("checking a certificate request: its key is that of %s, want %s", r.Address.Short(), address.Short())
	case !ed25519.Verify(address[:], message, signature):
		return Request{}, errors.New("checking a certificate request: wrong signature")
	case !bytes.Equal(r.CANonce, caNonce):
		return Request{}, errors.New("checking a certificate request: it holds another nonce than the CA's")
	}
	return r, nil
}

// split splits a CertificationRequest. Its results alias der.
func split(der []byte) (message, signature []byte, err error) {
	input := cryptobyte.String(der)
	var request, info, algorithm cryptobyte.String
	switch {
	case !input.ReadASN1(&request, asn1.SEQUENCE) || !input.Empty():
		return nil, nil, errors.New("not one ASN.1 sequence")
	case !request.ReadASN1Element(&info, asn1.SEQUENCE):
		return nil, nil, errors.New("nothing to sign")
	case !request.ReadASN1(&algorithm, asn1.SEQUENCE) || !isEd25519(algorithm):
		return nil, nil, errors.New("the signature is not of Ed25519")
	case !request.ReadASN1BitStringAsBytes(&signature) || !request.Empty() || len(signature) != ed25519.SignatureSize:
		return nil, nil, errors.New("no signature of 64 bytes at the end")
	}
	return info, signature, nil
}

// parseMessage reads a CertificationRequestInfo, the whole of message. It accepts
// only the output of Request.message, which it verifies by encoding it
// again: so each request has exactly one encoding, without hidden content.
func parseMessage(message []byte) (Request, error) {
	input := cryptobyte.String(bytes.Clone(message)) // as the nonces alias it
	var info, subject, key, algorithm, attributes cryptobyte.String
	var version int
	var public []byte
	switch {
	case !input.ReadASN1(&info, asn1.SEQUENCE) || !input.Empty():
		return Request{}, errors.New("not one ASN.1 sequence")
	case !info.ReadASN1Integer(&version) || version != 0:
		return Request{}, errors.New("another version than 1")
	case !info.ReadASN1(&subject, asn1.SEQUENCE) || !subject.Empty():
		return Request{}, errors.New("a subject that is not empty")
	case !info.ReadASN1(&key, asn1.SEQUENCE) || !key.ReadASN1(&algorithm, asn1.SEQUENCE) || !isEd25519(algorithm):
		return Request{}, errors.New("the public key is not of Ed25519")
	case !key.ReadASN1BitStringAsBytes(&public) || !key.Empty() || len(public) != ed25519.PublicKeySize:
		return Request{}, errors.New("a public key that has not 32 bytes")
	case !info.ReadASN1(&attributes, tagAttributes) || !info.Empty():
		return Request{}, errors.New("no attributes at the end")
	}
	r := Request{Address: descriptor.Address(public)}
	if err := r.readAttributes(attributes); err != nil {
		return Request{}, err
	}
	if again, err := r.message(); err != nil || !bytes.Equal(again, message) {
		return Request{}, errors.Join(errors.New("not in the form that it has to have"), err)
	}
	return r, nil
}

// readAttributes reads each attribute once, in any order.
func (r *Request) readAttributes(attributes cryptobyte.String) error {
	for !attributes.Empty() {
		var attribute, values cryptobyte.String
		var oid encodingasn1.ObjectIdentifier
		if !attributes.ReadASN1(&attribute, asn1.SEQUENCE) || !attribute.ReadASN1ObjectIdentifier(&oid) ||
			!attribute.ReadASN1(&values, asn1.SET) || !attribute.Empty() {
			return errors.New("a malformed attribute")
		}
		var ok bool
		switch {
		case oid.Equal(oidCANonce) && r.CANonce == nil:
			ok = values.ReadASN1Bytes(&r.CANonce, asn1.OCTET_STRING)
		case oid.Equal(oidApplicantNonce) && r.ApplicantNonce == nil:
			ok = values.ReadASN1Bytes(&r.ApplicantNonce, asn1.OCTET_STRING)
		case oid.Equal(oidExtensionRequest) && r.Names == nil:
			ok = r.readExtensions(&values)
		}
		if !ok || !values.Empty() {
			return fmt.Errorf("attribute %s: unknown, or there twice, or without the one value that it has to have", oid)
		}
	}
	return nil
}

// readExtensions reads the names from the one extension that is asked for.
func (r *Request) readExtensions(values *cryptobyte.String) bool {
	var extensions, extension, content, names cryptobyte.String
	var oid encodingasn1.ObjectIdentifier
	var critical bool
	if !values.ReadASN1(&extensions, asn1.SEQUENCE) ||
		!extensions.ReadASN1(&extension, asn1.SEQUENCE) || !extensions.Empty() ||
		!extension.ReadASN1ObjectIdentifier(&oid) || !oid.Equal(oidAltName) ||
		!extension.ReadASN1Boolean(&critical) || !critical ||
		!extension.ReadASN1(&content, asn1.OCTET_STRING) || !extension.Empty() ||
		!content.ReadASN1(&names, asn1.SEQUENCE) || !content.Empty() {
		return false
	}
	for !names.Empty() {
		var name cryptobyte.String
		if !names.ReadASN1(&name, tagDNSName) {
			return false
		}
		r.Names = append(r.Names, string(name))
	}
	return true
}

func isEd25519(algorithm cryptobyte.String) bool {
	var oid encodingasn1.ObjectIdentifier
	return algorithm.ReadASN1ObjectIdentifier(&oid) && oid.Equal(oidEd25519) && algorithm.Empty()
}
