package descriptor

import (
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"
)

// Shape of the descriptors that tor makes.
const (
	padMultiple  = 10000                     // bytes; the first layer is filled up to a multiple
	lifetimeWord = "180"                     // minutes
	maxCached    = 8 * MaxIntroductionPoints // of one revision: more than a descriptor in each slot needs
	pointRoom    = 1 << 10                   // bytes; more than a point of usual specifiers takes
	wrapperRoom  = 1 << 10                   // bytes; more than all but the first layer takes
)

// Encoder makes the descriptors of one service and period, signed with one
// descriptor-signing key. It caches the parts that stay the same from one descriptor to
// the next: the section that authorizes clients and, until Release, the
// introduction points with their certificates. It is safe for concurrent use.
type Encoder struct {
	// MaxSize is the limit in bytes; 0 stands for the constant MaxSize. It is
	// set before the first Encode.
	MaxSize int

	keys   PeriodKeys
	public [32]byte
	signer crypto.Signer
	secret sealed[signingSecret] // the signer's; nil if it is not in our memory

	hours sync.Mutex // protects certs, and is never held for long
	certs HourlyCertificates

	mu     sync.Mutex // protects the fields below, also while the signer is asked
	points pointCache
	auth   *authSection
}

// pointCache holds the texts of the introduction points of one revision, and of
// the one before it. Descriptors that are uploaded together have the same.
type pointCache struct {
	revision      uint64
	texts, before map[string]string // with certificates, by the output of appendPointName
}

// NewEncoder makes an Encoder as NewHourlyEncoder does, with one certificate for all
// descriptors.
func NewEncoder(keys PeriodKeys, cert Certificate, signer crypto.Signer) (*Encoder, error) {
	return NewHourlyEncoder(keys, Hourly(cert), signer)
}

// NewHourlyEncoder takes the certificates of type 08 by which the blinded key of keys
// certifies the descriptor-signing key, and the signer of that key. It verifies them
// all. The signer's public key is an ed25519.PublicKey.
func NewHourlyEncoder(keys PeriodKeys, certs HourlyCertificates, signer crypto.Signer) (*Encoder, error) {
	public, ok := signer.Public().(ed25519.PublicKey)
	if !ok || len(public) != ed25519.PublicKeySize {
		return nil, errors.New("making a descriptor encoder: the signer's key is not of Ed25519")
	}
	e := &Encoder{keys: keys, certs: certs, public: [32]byte(public), signer: signer}
	cert := certs.First()
	named, hasSigner := cert.SigningKey()
	switch {
	case cert.Type() != CertHSDescSigning:
		return nil, fmt.Errorf("making a descriptor encoder: certificate of type %02X, want %02X", byte(cert.Type()), byte(CertHSDescSigning))
	case cert.Key() != e.public:
		return nil, errors.New("making a descriptor encoder: the certificate is for another key than the signer's")
	case !hasSigner || named != keys.Blinded:
		return nil, errors.New("making a descriptor encoder: the certificate is not by the blinded key of this service and period")
	}
	if err := certs.verifySignatures(keys.Blinded); err != nil {
		return nil, fmt.Errorf("making a descriptor encoder: %w", err)
	}
	if key, ok := signer.(ed25519.PrivateKey); ok {
		var err error
		if e.secret, err = newSigningSecret(key); err != nil {
			return nil, fmt.Errorf("making a descriptor encoder: %w", err)
		}
	}
	return e, nil
}

// Encode makes one descriptor, encrypted with fresh salts from random: every
// upload gets one of its own. It refuses contents that a client would refuse, or that
// Decode would not return: see Contents, MaxIntroductionPoints and MaxSize.
// The introduction points' order is kept.
func (e *Encoder) Encode(c *Contents, revision uint64, random io.Reader) ([]byte, error) {
	raw, err := e.encodeSigned(c, revision, random, e.signWith(random))
	if err != nil {
		return nil, fmt.Errorf("encoding a descriptor: %w", err)
	}
	return raw, nil
}

func (e *Encoder) encodeSigned(c *Contents, revision uint64, random io.Reader, sign signFunc) ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	auth, err := e.authFor(c.Clients, random)
	if err != nil {
		return nil, err
	}
	room := layerRooms.Get().(*layerRoom)
	defer layerRooms.Put(room)
	if err := e.sealSecond(room, c, revision, auth.cookie, sign, random); err != nil {
		return nil, err
	}
	if err := e.sealFirst(room, auth, c.CAACritical, revision, random); err != nil {
		return nil, err
	}
	first := room.first
	if err := checkSize(len(first)/3*4, e.MaxSize); err != nil { // before a slow signer is asked
		return nil, err
	}
	return e.signWhole(first, c.Made, revision, sign, random)
}

// signWhole writes the wrapper around the encrypted first layer.
func (e *Encoder) signWhole(first []byte, made time.Time, revision uint64, sign signFunc, random io.Reader) ([]byte, error) {
	b := newBody(len(signaturePrefix) + wrapperRoom + objectLength(labelMessage, len(first)))
	b = append(append(b, signaturePrefix...), kwDescriptor+" "+versionWord+"\n"+kwLifetime+" "+lifetimeWord+"\n"+kwSigningCert+"\n"...)
	b = append(appendObject(b, labelCert, e.certificates().appendAt(make([]byte, 0, certLength), made)), '\n')
	b = append(strconv.AppendUint(append(b, kwRevision+" "...), revision, 10), "\n"+kwSuperencrypted+"\n"...)
	nonce, err := nonceOf(b, first, random)
	if err != nil {
		return nil, err
	}
	b = append(appendObject(b, labelMessage, first), '\n')
	signature, err := sign(b, nonce...)
	if err != nil {
		return nil, err
	}
	b = append(appendBareValue(append(b, kwSignature+" "...), signature), '\n')
	b = b[:copy(b, b[len(signaturePrefix):])] // not sliced, for Reuse to find all of it
	return b, checkSize(len(b), e.MaxSize)
}

// bodies holds memory for descriptors. A manager of thousands of services makes
// dozens of them a second, which are most of its garbage.
var bodies sync.Pool

// newBody returns an empty slice of that capacity at least.
func newBody(room int) []byte {
	if b, ok := bodies.Get().(*[]byte); ok && cap(*b) >= room {
		return (*b)[:0]
	}
	return make([]byte, 0, room)
}

// Reuse gives the memory of a descriptor that Encode made to one made later. The
// caller must not use raw any more. It is never necessary.
func Reuse(raw []byte) { bodies.Put(&raw) }

// layerRoom holds the two encrypted layers while a descriptor is made.
type layerRoom struct{ first, second []byte }

var layerRooms = sync.Pool{New: func() any { return new(layerRoom) }}

// startLayer empties b and begins it with a fresh salt.
func startLayer(b []byte, random io.Reader) ([]byte, error) {
	b = append(b[:0], make([]byte, saltSize)...)
	_, err := io.ReadFull(random, b)
	return b, err
}

// sealSecond writes and encrypts the second layer.
func (e *Encoder) sealSecond(room *layerRoom, c *Contents, revision uint64, cookie []byte, sign signFunc, random io.Reader) error {
	b, err := startLayer(room.second, random)
	if err != nil {
		return err
	}
	if b, err = e.appendPoints(appendContents(b, c), c, revision, sign); err != nil {
		return err
	}
	room.second = append(b, make([]byte, macSize)...)
	return layerSecret{keys: &e.keys, cookie: cookie, revision: revision, constant: secondConstant}.seal(room.second)
}

// sealFirst writes, pads and encrypts the first layer around the second.
func (e *Encoder) sealFirst(room *layerRoom, auth *authSection, caaCritical bool, revision uint64, random io.Reader) error {
	b, err := startLayer(room.first, random)
	if err != nil {
		return err
	}
	b = appendAuth(b, auth.ephemeral, auth.lines())
	if caaCritical {
		b = append(b, kwCAACritical+"\n"...)
	}
	b = append(b, kwEncrypted+"\n"...)
	b = appendObject(b, labelMessage, room.second)
	padding := (padMultiple - (len(b)-saltSize)%padMultiple) % padMultiple
	room.first = append(b, make([]byte, padding+macSize)...)
	return layerSecret{keys: &e.keys, revision: revision, constant: firstConstant}.seal(room.first)
}

// MaxPoints returns how many introduction points a descriptor of c's clients and
// CAA records has room for, whichever they are, that must stay below limit bytes:
// the points of Publishable have at most four link specifiers. 0 stands for MaxSize.
// It is never below 1: CheckRoom tells whether even one fits.
func (c *Contents) MaxPoints(limit int) int {
	n := MaxIntroductionPoints
	for n > 1 && !c.fits(n, len(c.Clients), limit) {
		n--
	}
	return n
}

// widths are the most bytes that parts of a descriptor have.
type widths struct {
	head   int // of the second layer, before its points
	point  int
	auth   int // of the first layer, before the second, with the fewest entries
	client int // of an auth-client entry
}

var widest = sync.OnceValue(func() widths {
	p := IntroductionPoint{}
	for t, n := range linkLengths {
		p.LinkSpecifiers = append(p.LinkSpecifiers, LinkSpecifier{Type: byte(t), Data: make([]byte, n)})
	}
	cert := Certificate{raw: string(make([]byte, certLength))}
	contents := Contents{SingleOnion: true, FlowControl: &FlowControl{Versions: "1-2", SendmeInc: 255}}
	return widths{
		head:   len(appendContents(nil, &contents)),
		point:  len(appendPoint(nil, &p, cert, cert)),
		auth:   len(appendAuth(nil, [32]byte{}, make([]AuthClient, authMultiple))),
		client: len(appendAuth(nil, [32]byte{}, make([]AuthClient, 1))) - len(appendAuth(nil, [32]byte{}, nil)),
	}
})

// Check returns the error that Encode would give of c itself, and asks the
// signer for nothing: a slow one is called only when the rest is valid.
func (e *Encoder) Check(c *Contents, revision uint64, random io.Reader) error {
	blank := func([]byte, ...[]byte) ([]byte, error) { return make([]byte, ed25519.SignatureSize), nil }
	trial := &Encoder{MaxSize: e.MaxSize, keys: e.keys, certs: e.certificates(), public: e.public}
	if _, err := trial.encodeSigned(c, revision, random, blank); err != nil {
		return fmt.Errorf("encoding a descriptor: %w", err)
	}
	return nil
}

// appendPointName writes a cache key of everything that goes into the text of an
// introduction point.
func appendPointName(b []byte, p *IntroductionPoint, expires time.Time) []byte {
	b = append(append(append(b, p.OnionKey[:]...), p.AuthKey[:]...), p.EncKey[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(expires.Unix()))
	return appendLinkSpecifiers(b, p.LinkSpecifiers)
}

// Release frees the cached introduction points: 1 KiB each. It is for an edition
// that all HSDirs have confirmed. The next Encode certifies its points again.
func (e *Encoder) Release() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.points = pointCache{}
}

func (e *Encoder) certificates() HourlyCertificates {
	e.hours.Lock()
	defer e.hours.Unlock()
	return e.certs
}

// Forget frees the certificates for descriptors made before the given time, once there
// are some, and returns the others, the last two at least. A descriptor made
// before gets the first of these.
func (e *Encoder) Forget(before time.Time) HourlyCertificates {
	e.hours.Lock()
	defer e.hours.Unlock()
	if n := min(e.certs.index(before), e.certs.Count()-2); n >= forgottenAtOnce {
		e.certs = e.certs.from(n)
	}
	return e.certs
}

// forgottenAtOnce is how many certificates go together, as the others are copied.
const forgottenAtOnce = 4

// appendPoints writes the introduction points, each with certificates that the
// descriptor-signing key signed: now, or for an earlier descriptor.
func (e *Encoder) appendPoints(b []byte, c *Contents, revision uint64, sign signFunc) ([]byte, error) {
	points := c.IntroductionPoints
	e.mu.Lock()
	defer e.mu.Unlock()
	cache := &e.points
	if cache.texts == nil || cache.revision != revision || len(cache.texts) > maxCached {
		*cache = pointCache{revision: revision, texts: make(map[string]string, len(points)), before: cache.texts}
	}
	var name []byte
	for i := range points {
		p := &points[i]
		expires := p.Expires
		if !c.Made.IsZero() {
			expires = PointExpiry(c.Made)
		}
		name = appendPointName(name[:0], p, expires)
		text, ok := cache.texts[string(name)]
		if !ok {
			if text, ok = cache.before[string(name)]; !ok {
				var err error
				if text, err = e.certify(p, expires, sign); err != nil {
					return nil, fmt.Errorf("introduction point %d: %w", i+1, err)
				}
			}
			cache.texts[string(name)] = text
		}
		b = append(b, text...)
	}
	return b, nil
}

// certify makes the text of a point, its two certificates signed.
func (e *Encoder) certify(p *IntroductionPoint, expires time.Time, sign signFunc) (string, error) {
	if err := p.check(); err != nil {
		return "", err
	}
	plain := func(message []byte) ([]byte, error) { return sign(message) }
	auth, err := NewCertificate(CertIntroAuth, p.AuthKey, e.public, expires, plain)
	if err != nil {
		return "", err
	}
	enc, err := NewCertificate(CertIntroEnc, p.edwardsEncKey(), e.public, expires, plain)
	if err != nil {
		return "", err
	}
	return string(appendPoint(make([]byte, 0, pointRoom), p, auth, enc)), nil
}

// check refuses a point that clients could not use.
func (p *IntroductionPoint) check() error {
	if p.Legacy {
		return errors.New("has a legacy key")
	}
	if len(p.LinkSpecifiers) > 255 {
		return fmt.Errorf("%d link specifiers", len(p.LinkSpecifiers))
	}
	for _, l := range p.LinkSpecifiers {
		if len(l.Data) > 255 {
			return fmt.Errorf("a link specifier of %d bytes", len(l.Data))
		}
	}
	if err := checkLinkSpecifiers(p.LinkSpecifiers); err != nil {
		return err
	}
	if err := checkX25519(p.OnionKey); err != nil {
		return fmt.Errorf("%s: %w", kwOnionKey, err)
	}
	if err := checkX25519(p.EncKey); err != nil {
		return fmt.Errorf("%s: %w", kwEncKey, err)
	}
	// The certificate that the point was decoded with was accepted with its key.
	if p.certs == nil || p.certs.auth.key != p.AuthKey {
		if err := checkEd25519(p.AuthKey); err != nil {
			return fmt.Errorf("%s: %w", kwAuthKey, err)
		}
	}
	return nil
}

// edwardsEncKey returns the Ed25519 form of the enc-key with sign bit 0.
func (p *IntroductionPoint) edwardsEncKey() [32]byte {
	if p.certs != nil && isEdwardsOf(p.certs.enc.key, p.EncKey) {
		known := p.certs.enc.key
		known[31] &= 0x7f
		return known
	}
	return edwardsFromX25519(p.EncKey)
}

// appendValue writes raw in base64 with padding.
func appendValue(b, raw []byte) []byte { return base64.StdEncoding.AppendEncode(b, raw) }

// appendBareValue writes raw in base64 without padding.
func appendBareValue(b, raw []byte) []byte { return base64.RawStdEncoding.AppendEncode(b, raw) }

// appendObject writes raw as an object, without a newline after its END line.
func appendObject(b []byte, label string, raw []byte) []byte {
	b = append(append(append(b, objectBegin...), label...), "-----\n"...)
	b = appendLines(b, raw)
	return append(append(append(b, objectEnd...), label...), objectDashes...)
}

// objectLength is how many bytes appendObject writes for n bytes.
func objectLength(label string, n int) int {
	return len(objectBegin) + len(objectEnd) + 2*len(label) + len("-----\n") + len(objectDashes) + linesLength(n)
}

// appendContents writes the second layer up to its introduction points, in the
// order in which tor does.
func appendContents(b []byte, c *Contents) []byte {
	b = append(b, kwCreate2...)
	formats := c.Create2Formats
	if len(formats) == 0 {
		formats = []int{ntorFormat}
	}
	for _, f := range formats {
		b = strconv.AppendInt(append(b, ' '), int64(f), 10)
	}
	b = append(b, '\n')
	if len(c.IntroAuthRequired) > 0 {
		b = append(b, kwIntroAuth...)
		for _, word := range c.IntroAuthRequired {
			b = append(append(b, ' '), word...)
		}
		b = append(b, '\n')
	}
	if c.SingleOnion {
		b = append(b, kwSingleOnion+"\n"...)
	}
	if len(c.CAA) > 0 {
		b = append(append(b, CAAText(c.CAA)...), '\n')
	}
	if f := c.FlowControl; f != nil {
		b = append(append(append(b, kwFlowControl+" "...), f.Versions...), ' ')
		b = append(strconv.AppendUint(b, uint64(f.SendmeInc), 10), '\n')
	}
	for _, p := range c.PowParams {
		b = append(append(append(b, kwPowParams+" "...), p.String()...), '\n')
	}
	return b
}

// appendPoint writes an introduction point with its certificates.
func appendPoint(b []byte, p *IntroductionPoint, auth, enc Certificate) []byte {
	b = append(b, kwIntroPoint+" "...)
	b = append(appendValue(b, appendLinkSpecifiers(nil, p.LinkSpecifiers)), '\n')
	b = append(b, kwOnionKey+" "+ntorWord+" "...)
	b = append(appendValue(b, p.OnionKey[:]), '\n')
	b = append(b, kwAuthKey+"\n"...)
	b = append(appendObject(b, labelCert, []byte(auth.raw)), '\n')
	b = append(b, kwEncKey+" "+ntorWord+" "...)
	b = append(appendValue(b, p.EncKey[:]), '\n')
	b = append(b, kwEncCert+"\n"...)
	return append(appendObject(b, labelCert, []byte(enc.raw)), '\n')
}

// appendAuth writes the first layer up to its encrypted line, caa-critical aside.
func appendAuth(b []byte, ephemeral [32]byte, clients []AuthClient) []byte {
	b = append(b, kwAuthType+" "+authTypeWord+"\n"...)
	b = append(b, kwAuthEphemeral+" "...)
	b = append(appendValue(b, ephemeral[:]), '\n')
	for i := range clients {
		c := &clients[i]
		b = append(b, kwAuthClient+" "...)
		b = append(appendBareValue(b, c.ID[:]), ' ')
		b = append(appendBareValue(b, c.IV[:]), ' ')
		b = append(appendBareValue(b, c.EncryptedCookie[:]), '\n')
	}
	return b
}
