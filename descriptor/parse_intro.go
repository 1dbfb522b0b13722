package descriptor

import (
	"crypto/x509"
	"errors"
	"fmt"
)

// introSection is one introduction point while it is read (rend-spec-v3,
// section 2.5.2.2).
type introSection struct {
	point   IntroductionPoint
	line    int
	seen    int
	fault   *ParseError // the first one; the point is dropped
	hasNtor bool
}

var introRules = []rule[introSection]{
	{keyword: kwIntroPoint, required: true, take: (*introSection).takeSpecifiers},
	{keyword: kwOnionKey, required: true, repeats: true, take: (*introSection).takeOnionKey},
	{keyword: kwAuthKey, required: true, take: (*introSection).takeAuthCert},
	{keyword: kwEncKey, required: true, take: (*introSection).takeEncKey},
	{keyword: kwEncCert, required: true, take: (*introSection).takeEncCert},
	{keyword: kwLegacyKey, take: (*introSection).takeLegacyKey},
	{keyword: kwLegacyCert, take: (*introSection).takeLegacyCert},
}

var introGrammar = grammar[introSection]{rules: introRules}

// take reads one line of the point; a fault ends the reading.
func (p *introSection) take(it *item) {
	if p.fault != nil {
		return
	}
	if err := introGrammar.take(p, it, &p.seen); err != nil {
		p.fault = &ParseError{Layer: LayerSecond, Line: it.line, Keyword: it.keyword, Err: err}
	}
}

// fail records a fault of the point as a whole.
func (p *introSection) fail(keyword string, err error) {
	if p.fault == nil {
		p.fault = &ParseError{Layer: LayerSecond, Line: p.line, Keyword: keyword, Err: err}
	}
}

// finish checks what only the whole point shows.
func (p *introSection) finish() {
	if p.fault != nil {
		return
	}
	for i, r := range introRules {
		if r.required && p.seen&(1<<i) == 0 {
			p.fail(r.keyword, errMissing)
		}
	}
	if !p.hasNtor {
		p.fail(kwOnionKey, fmt.Errorf("no key of type %q", ntorWord))
	}
	if p.fault != nil {
		return
	}
	if !isEdwardsOf(p.point.encCert.Key(), p.point.EncKey) {
		p.fail(kwEncCert, errors.New("certifies another key than the enc-key"))
	}
	p.point.AuthKey = p.point.authCert.Key()
	p.point.Expires = p.point.authCert.Expires()
	if e := p.point.encCert.Expires(); e.Before(p.point.Expires) {
		p.point.Expires = e
	}
}

func (p *introSection) takeSpecifiers(it *item) error {
	var text []byte
	if err := it.exactArgs(&text); err != nil {
		return err
	}
	raw := make([]byte, base64Raw.DecodedLen(len(text)))
	n, err := base64Raw.Decode(raw, trimPadding(text))
	if err != nil {
		return errors.New("link specifiers are not base64")
	}
	p.point.LinkSpecifiers, err = parseLinkSpecifiers(raw[:n])
	return err
}

func (p *introSection) takeOnionKey(it *item) error {
	// An object is allowed here: keys of other types may need one.
	bare := *it
	bare.label = nil
	var kind, key []byte
	if _, err := bare.firstArgs(&kind, &key); err != nil {
		return err
	}
	if string(kind) != ntorWord {
		return nil
	}
	if p.hasNtor {
		return errTwice
	}
	p.hasNtor = true
	if err := decodeValue(p.point.OnionKey[:], key); err != nil {
		return err
	}
	return checkX25519(p.point.OnionKey)
}

func (p *introSection) takeEncKey(it *item) error {
	bare := *it
	bare.label = nil
	var kind, key []byte
	if _, err := bare.firstArgs(&kind, &key); err != nil {
		return err
	}
	if string(kind) != ntorWord {
		return fmt.Errorf("not of type %q", ntorWord)
	}
	if err := decodeValue(p.point.EncKey[:], key); err != nil {
		return err
	}
	return checkX25519(p.point.EncKey)
}

func (p *introSection) takeAuthCert(it *item) (err error) {
	if more, _ := cutArg(it.args); more != nil {
		return errArgs
	}
	p.point.authCert, err = it.introCertificate(CertIntroAuth)
	return err
}

func (p *introSection) takeEncCert(it *item) (err error) {
	p.point.encCert, err = it.introCertificate(CertIntroEnc)
	return err
}

func (it *item) introCertificate(want CertType) (Certificate, error) {
	raw, err := it.decodeObject(labelCert)
	if err != nil {
		return Certificate{}, err
	}
	c, err := parseCertificate(raw)
	if err != nil {
		return Certificate{}, err
	}
	if c.Type() != want {
		return Certificate{}, fmt.Errorf("certificate of type %02X, want %02X", byte(c.Type()), byte(want))
	}
	if _, ok := c.SigningKey(); !ok {
		return Certificate{}, errors.New("the certificate does not name its signer")
	}
	return c, nil
}

func (p *introSection) takeLegacyKey(it *item) error {
	p.point.Legacy = true
	der, err := it.decodeObject(labelLegacyKey)
	if err != nil {
		return err
	}
	key, err := x509.ParsePKCS1PublicKey(der)
	if err != nil || key.N.BitLen() != 1024 {
		return errors.New("not an RSA key of 1024 bits")
	}
	return nil
}

func (p *introSection) takeLegacyCert(it *item) error {
	_, err := it.decodeObject(labelCrossCert)
	return err
}
