package descriptor

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"
)

// MaxIntroductionPoints is how many introduction points a descriptor may have.
// Clients refuse one with more, whatever its size.
const MaxIntroductionPoints = 20

// IntroductionPoint is a relay through which a service is reached, with what
// is needed to publish it again under another descriptor-signing key.
// Its slices may be shared between descriptors: they are read only.
type IntroductionPoint struct {
	LinkSpecifiers []LinkSpecifier // as they came, unknown types too
	OnionKey       [32]byte        // ntor key of the relay
	AuthKey        [32]byte        // Ed25519: names the circuit to the service
	EncKey         [32]byte        // curve25519: the client encrypts to it
	Expires        time.Time       // the earlier of the two certificates' expiry, a whole hour
	Legacy         bool            // had a legacy-key: never published again

	certs *pointCerts // as decoded; nil for a point made here
}

type pointCerts struct{ auth, enc Certificate }

// Certificates returns the certificates that the point was decoded with: its
// auth-key's (type 09) and its enc-key's (type 0B).
// Both are zero for a point that was made here.
func (p *IntroductionPoint) Certificates() (auth, enc Certificate) {
	if p.certs == nil {
		return Certificate{}, Certificate{}
	}
	return p.certs.auth, p.certs.enc
}

// Relay identifies the relay as clients do, who find the point of an open
// circuit by it: the first RSA fingerprint. It is zero for a point without one,
// which Decode leaves out.
func (p *IntroductionPoint) Relay() (f Fingerprint) {
	for _, l := range p.LinkSpecifiers {
		if l.Type == LinkRSA {
			copy(f[:], l.Data)
			break
		}
	}
	return f
}

// Fingerprint is the SHA-1 digest of a relay's RSA identity key.
type Fingerprint [20]byte

// String returns 40 upper-case hexadecimal digits.
func (f Fingerprint) String() string { return fmt.Sprintf("%X", f[:]) }

// ParseFingerprint reads the output of String.
func ParseFingerprint(s string) (Fingerprint, error) {
	raw, err := hex.DecodeString(s)
	if err == nil && len(raw) != len(Fingerprint{}) {
		err = fmt.Errorf("%d bytes, want %d", len(raw), len(Fingerprint{}))
	}
	if err != nil {
		return Fingerprint{}, fmt.Errorf("reading a relay's fingerprint: %w", err)
	}
	return Fingerprint(raw), nil
}

// Publishable returns p as it may be put in another descriptor: with only the
// fields that tor knows, in tor's order. So neither an instance's additions nor its
// encoding are published, and the size of a point is bounded, see MaxPoints.
func (p *IntroductionPoint) Publishable() IntroductionPoint {
	q := *p
	q.LinkSpecifiers = knownSpecifiers(p.LinkSpecifiers)
	return q
}

// Equal reports whether p and q are the same point, to be published in the
// same way: same relay and specifiers, same keys, same expiry. The signatures
// that the two came with do not matter.
func (p *IntroductionPoint) Equal(q *IntroductionPoint) bool {
	return p.OnionKey == q.OnionKey && p.AuthKey == q.AuthKey && p.EncKey == q.EncKey &&
		p.Expires.Equal(q.Expires) && p.Legacy == q.Legacy &&
		slices.EqualFunc(p.LinkSpecifiers, q.LinkSpecifiers, func(a, b LinkSpecifier) bool {
			return a.Type == b.Type && bytes.Equal(a.Data, b.Data)
		})
}

// Types of link specifiers (tor-spec, EXTEND2). Others are read, and never
// published again.
const (
	LinkIPv4    = 0 // address, then port; 6 bytes
	LinkIPv6    = 1 // address, then port; 18 bytes
	LinkRSA     = 2 // fingerprint of the relay's RSA identity; 20 bytes
	LinkEd25519 = 3 // the relay's Ed25519 identity; 32 bytes
)

// LinkSpecifier says one thing about where a relay is or who it is.
type LinkSpecifier struct {
	Type byte
	Data []byte // at most 255 bytes
}

// appendLinkSpecifiers writes the binary form: their number, then type, length
// and data of each.
func appendLinkSpecifiers(b []byte, specs []LinkSpecifier) []byte {
	b = append(b, byte(len(specs)))
	for _, l := range specs {
		b = append(b, l.Type, byte(len(l.Data)))
		b = append(b, l.Data...)
	}
	return b
}

// parseLinkSpecifiers reads the whole of raw; the result aliases it.
func parseLinkSpecifiers(raw []byte) ([]LinkSpecifier, error) {
	if len(raw) == 0 || raw[0] == 0 {
		return nil, errors.New("no link specifiers")
	}
	count, rest := int(raw[0]), raw[1:]
	if len(rest) < 2*count {
		return nil, errors.New("link specifiers are cut short")
	}
	specs := make([]LinkSpecifier, count)
	for i := range specs {
		if len(rest) < 2 || len(rest)-2 < int(rest[1]) {
			return nil, errors.New("link specifiers are cut short")
		}
		end := 2 + int(rest[1])
		specs[i] = LinkSpecifier{Type: rest[0], Data: rest[2:end:end]}
		rest = rest[end:]
	}
	if len(rest) != 0 {
		return nil, fmt.Errorf("%d bytes after the link specifiers", len(rest))
	}
	return specs, checkLinkSpecifiers(specs)
}

// linkLengths are the lengths in bytes of the link specifiers that tor knows.
var linkLengths = [...]int{LinkIPv4: 6, LinkIPv6: 18, LinkRSA: 20, LinkEd25519: 32}

// checkLinkSpecifiers refuses specifiers that leave a client without a relay to extend
// to, or that two readers may understand differently: of each type that tor
// knows there is one at most, and the IPv4 address and both identities are
// there. tor's clients extend to the last of two RSA identities and look for
// open circuits by the first.
func checkLinkSpecifiers(specs []LinkSpecifier) error {
	var seen [len(linkLengths)]bool
	for _, l := range specs {
		if int(l.Type) >= len(linkLengths) {
			continue
		}
		if want := linkLengths[l.Type]; len(l.Data) != want {
			return fmt.Errorf("link specifier of type %d and %d bytes, want %d", l.Type, len(l.Data), want)
		}
		if seen[l.Type] {
			return fmt.Errorf("two link specifiers of type %d", l.Type)
		}
		seen[l.Type] = true
		if l.Type == LinkIPv4 && ([4]byte(l.Data) == ([4]byte{}) || [2]byte(l.Data[4:]) == ([2]byte{})) {
			return errors.New("link specifiers with the IPv4 address or port 0")
		}
	}
	for _, want := range []byte{LinkIPv4, LinkRSA, LinkEd25519} {
		if !seen[want] {
			return fmt.Errorf("link specifiers lack one of type %d: an IPv4 address (%d), an RSA identity (%d) and an Ed25519 identity (%d) are needed",
				want, LinkIPv4, LinkRSA, LinkEd25519)
		}
	}
	return nil
}

// knownSpecifiers returns those of the specifiers that tor knows, in the order
// in which it writes them.
func knownSpecifiers(specs []LinkSpecifier) []LinkSpecifier {
	known := make([]LinkSpecifier, 0, len(linkLengths))
	for _, t := range []byte{LinkIPv4, LinkRSA, LinkEd25519, LinkIPv6} {
		for _, l := range specs {
			if l.Type == t {
				known = append(known, l)
			}
		}
	}
	return known
}

// introSection is one introduction point while it is read (rend-spec-v3,
// section 2.5.2.2).
type introSection struct {
	point   IntroductionPoint
	certs   pointCerts
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

// fail records an error of the point as a whole.
func (p *introSection) fail(keyword string, err error) {
	if p.fault == nil {
		p.fault = &ParseError{Layer: LayerSecond, Line: p.line, Keyword: keyword, Err: err}
	}
}

// finish checks the point as a whole.
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
	if !isEdwardsOf(p.certs.enc.Key(), p.point.EncKey) {
		p.fail(kwEncCert, errors.New("certifies another key than the enc-key"))
	}
	p.point.certs = &pointCerts{p.certs.auth, p.certs.enc}
	p.point.AuthKey = p.certs.auth.Key()
	p.point.Expires = p.certs.auth.Expires()
	if e := p.certs.enc.Expires(); e.Before(p.point.Expires) {
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
	p.certs.auth, err = it.introCertificate(CertIntroAuth)
	return err
}

func (p *introSection) takeEncCert(it *item) (err error) {
	p.certs.enc, err = it.introCertificate(CertIntroEnc)
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
