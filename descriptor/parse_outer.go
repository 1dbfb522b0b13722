package descriptor

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"
)

// The lifetimes that the specification allows.
const (
	minLifetime = 30  // minutes
	maxLifetime = 720 // minutes
)

// outer is the parsed outer wrapper (rend-spec-v3, section 2.4).
type outer struct {
	lifetime     time.Duration
	cert         Certificate
	certLine     int
	revision     uint64
	blob         []byte // the first layer, encrypted
	blobLine     int
	signed       []byte // what the signature covers, aliasing the input
	signedLength int
	signature    [ed25519.SignatureSize]byte
	signedLine   int
}

var outerGrammar = grammar[outer]{
	first: kwDescriptor,
	last:  kwSignature,
	rules: []rule[outer]{
		{keyword: kwDescriptor, required: true, take: (*outer).takeVersion},
		{keyword: kwLifetime, required: true, take: (*outer).takeLifetime},
		{keyword: kwSigningCert, required: true, take: (*outer).takeCert},
		{keyword: kwRevision, required: true, take: (*outer).takeRevision},
		{keyword: kwSuperencrypted, required: true, take: (*outer).takeBlob},
		{keyword: kwSignature, required: true, take: (*outer).takeSignature},
	},
}

// parseOuter reads the outer wrapper. It verifies nothing.
func parseOuter(raw []byte) (*outer, error) {
	if bytes.IndexByte(raw, 0) >= 0 {
		return nil, &ParseError{Layer: LayerOuter, Err: errors.New("contains a NUL")}
	}
	o := new(outer)
	if err := outerGrammar.parse(&scanner{layer: LayerOuter, text: raw}, o); err != nil {
		return nil, err
	}
	o.signed = raw[:o.signedLength]
	return o, nil
}

func (o *outer) takeVersion(it *item) error {
	var version []byte
	if err := it.exactArgs(&version); err != nil {
		return err
	}
	if string(version) != versionWord {
		return fmt.Errorf("version is not %s", versionWord)
	}
	return nil
}

func (o *outer) takeLifetime(it *item) error {
	var arg []byte
	if err := it.exactArgs(&arg); err != nil {
		return err
	}
	minutes, err := parseNumber(arg, maxLifetime)
	if err == nil && minutes < minLifetime {
		err = fmt.Errorf("%d minutes, want at least %d", minutes, minLifetime)
	}
	o.lifetime = time.Duration(minutes) * time.Minute
	return err
}

func (o *outer) takeRevision(it *item) (err error) {
	var arg []byte
	if err := it.exactArgs(&arg); err != nil {
		return err
	}
	o.revision, err = parseNumber(arg, 1<<64-1)
	return err
}

func (o *outer) takeCert(it *item) error {
	raw, err := it.onlyObject(labelCert)
	if err != nil {
		return err
	}
	o.certLine = it.line
	o.cert, err = parseCertificate(raw)
	return err
}

func (o *outer) takeBlob(it *item) (err error) {
	o.blobLine = it.line
	o.blob, err = it.onlyObject(labelMessage)
	return err
}

func (o *outer) takeSignature(it *item) error {
	var arg []byte
	if err := it.exactArgs(&arg); err != nil {
		return err
	}
	o.signedLength, o.signedLine = it.start, it.line
	if want := base64Raw.EncodedLen(len(o.signature)); len(arg) != want {
		return fmt.Errorf("%d characters, want %d", len(arg), want)
	}
	return decodeValue(o.signature[:], arg)
}

// verify checks that the blinded key certified the key that signed the
// descriptor, and the signature. Time is left to the caller.
func (o *outer) verify(blinded BlindedPublicKey, verified *certCache) error {
	if err := o.verifyCert(blinded, verified); err != nil {
		return &ParseError{Layer: LayerOuter, Line: o.certLine, Keyword: kwSigningCert, Err: err}
	}
	key := o.cert.Key()
	message := make([]byte, 0, len(signaturePrefix)+len(o.signed))
	message = append(append(message, signaturePrefix...), o.signed...)
	if !ed25519.Verify(key[:], message, o.signature[:]) {
		return &ParseError{Layer: LayerOuter, Line: o.signedLine, Keyword: kwSignature, Err: errors.New("wrong signature")}
	}
	return nil
}

func (o *outer) verifyCert(blinded BlindedPublicKey, verified *certCache) error {
	if o.cert.Type() != CertHSDescSigning {
		return fmt.Errorf("certificate of type %02X, want %02X", byte(o.cert.Type()), byte(CertHSDescSigning))
	}
	signer, ok := o.cert.SigningKey()
	if !ok {
		return errors.New("the certificate does not name its signer")
	}
	if signer != blinded {
		return ErrNotOurs
	}
	return verified.verify(o.cert, blinded)
}
