package descriptor

import (
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
)

// Shape of the descriptors that tor makes.
const (
	padMultiple  = 10000 // bytes; the first layer is filled up to a multiple
	lifetimeWord = "180" // minutes
	keptPoints   = 16 * MaxIntroductionPoints
	pointRoom    = 1 << 10 // bytes; more than a point of usual specifiers takes
	wrapperRoom  = 1 << 10 // bytes; more than all but the first layer takes
)

// Encoder makes the descriptors of one service and period, signed with one
// descriptor-signing key. It keeps what stays the same from one descriptor to
// the next: the certificates of introduction points, and the section that
// authorizes clients. It is safe for concurrent use.
type Encoder struct {
	// MaxSize is the limit in bytes; 0 stands for the constant MaxSize. It is
	// set before the first Encode.
	MaxSize int

	keys   PeriodKeys
	cert   string // the wrapper's text from its first line to the certificate
	public [32]byte
	signer crypto.Signer
	secret sealed[signingSecret] // the signer's; nil if it is not in our memory

	mu     sync.Mutex
	points map[string]string // texts with certificates, see appendPointName
	auth   *authSection
}

// NewEncoder takes the certificate of type 08 by which the blinded key of keys
// certifies the descriptor-signing key, and the signer of that key. The
// signer's public key is an ed25519.PublicKey.
func NewEncoder(keys PeriodKeys, cert Certificate, signer crypto.Signer) (*Encoder, error) {
	public, ok := signer.Public().(ed25519.PublicKey)
	if !ok || len(public) != ed25519.PublicKeySize {
		return nil, errors.New("making a descriptor encoder: the signer's key is not of Ed25519")
	}
	e := &Encoder{keys: keys, public: [32]byte(public), signer: signer, points: make(map[string]string)}
	named, hasSigner := cert.SigningKey()
	switch {
	case cert.Type() != CertHSDescSigning:
		return nil, fmt.Errorf("making a descriptor encoder: certificate of type %02X, want %02X", byte(cert.Type()), byte(CertHSDescSigning))
	case cert.Key() != e.public:
		return nil, errors.New("making a descriptor encoder: the certificate is for another key than the signer's")
	case !hasSigner || named != keys.Blinded:
		return nil, errors.New("making a descriptor encoder: the certificate is not by the blinded key of this service and period")
	}
	if err := cert.verifySignature(keys.Blinded); err != nil {
		return nil, fmt.Errorf("making a descriptor encoder: %w", err)
	}
	if key, ok := signer.(ed25519.PrivateKey); ok {
		var err error
		if e.secret, err = newSigningSecret(key); err != nil {
			return nil, fmt.Errorf("making a descriptor encoder: %w", err)
		}
	}
	b := append([]byte(nil), kwDescriptor+" "+versionWord+"\n"+kwLifetime+" "+lifetimeWord+"\n"+kwSigningCert+"\n"...)
	e.cert = string(append(appendObject(b, labelCert, []byte(cert.raw)), '\n'))
	return e, nil
}

// Encode makes one descriptor, encrypted with fresh salts from random: every
// upload gets one of its own. Only clients can read it, if there are any.
// It refuses what a client would refuse: see Contents, MaxIntroductionPoints
// and MaxSize. The introduction points' order is kept.
func (e *Encoder) Encode(c *Contents, revision uint64, clients []AuthorizedClient, random io.Reader) ([]byte, error) {
	raw, err := e.encode(c, revision, clients, random)
	if err != nil {
		return nil, fmt.Errorf("encoding a descriptor: %w", err)
	}
	return raw, nil
}

func (e *Encoder) encode(c *Contents, revision uint64, clients []AuthorizedClient, random io.Reader) ([]byte, error) {
	return e.encodeSigned(c, revision, clients, random, e.signWith(random))
}

func (e *Encoder) encodeSigned(c *Contents, revision uint64, clients []AuthorizedClient, random io.Reader, sign signFunc) ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	auth, err := e.authFor(clients, random)
	if err != nil {
		return nil, err
	}
	room := layerRooms.Get().(*layerRoom)
	defer layerRooms.Put(room)
	if err := e.sealSecond(room, c, revision, auth.cookie, sign, random); err != nil {
		return nil, err
	}
	if err := e.sealFirst(room, auth, revision, random); err != nil {
		return nil, err
	}
	first := room.first
	if err := checkSize(len(first)/3*4, e.MaxSize); err != nil { // before a slow signer is asked
		return nil, err
	}
	return e.signWhole(first, revision, sign, random)
}

// signWhole writes the wrapper around the encrypted first layer.
func (e *Encoder) signWhole(first []byte, revision uint64, sign signFunc, random io.Reader) ([]byte, error) {
	b := make([]byte, 0, len(signaturePrefix)+wrapperRoom+objectLength(labelMessage, len(first)))
	b = append(append(b, signaturePrefix...), e.cert...)
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
	b = b[len(signaturePrefix):]
	return b, checkSize(len(b), e.MaxSize)
}

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
	if b, err = e.appendPoints(appendContents(b, c), c.IntroductionPoints, sign); err != nil {
		return err
	}
	room.second = append(b, make([]byte, macSize)...)
	return layerSecret{keys: &e.keys, cookie: cookie, revision: revision, constant: secondConstant}.seal(room.second)
}

// sealFirst writes, pads and encrypts the first layer around the second.
func (e *Encoder) sealFirst(room *layerRoom, auth *authSection, revision uint64, random io.Reader) error {
	b, err := startLayer(room.first, random)
	if err != nil {
		return err
	}
	b = append(append(b, auth.text...), kwEncrypted+"\n"...)
	b = appendObject(b, labelMessage, room.second)
	padding := (padMultiple - (len(b)-saltSize)%padMultiple) % padMultiple
	room.first = append(b, make([]byte, padding+macSize)...)
	return layerSecret{keys: &e.keys, revision: revision, constant: firstConstant}.seal(room.first)
}

// MaxPoints returns how many introduction points a descriptor has room for,
// whichever they are, that must stay below limit bytes: what Publishable
// returns has at most four link specifiers. 0 stands for MaxSize.
func MaxPoints(limit int) int {
	w := widest()
	for n := MaxIntroductionPoints; n > 1; n-- {
		second := saltSize + w.head + n*w.point + macSize
		first := w.auth + len(kwEncrypted+"\n") + objectLength(labelMessage, second)
		first += (padMultiple-first%padMultiple)%padMultiple + saltSize + macSize
		if checkSize(wrapperRoom+objectLength(labelMessage, first), limit) == nil {
			return n
		}
	}
	return 1
}

// widths are the most bytes that parts of a descriptor have.
type widths struct {
	head  int // of the second layer, before its points
	point int
	auth  int // of the first layer, before the second
}

var widest = sync.OnceValue(func() widths {
	p := IntroductionPoint{}
	for t, n := range linkLengths {
		p.LinkSpecifiers = append(p.LinkSpecifiers, LinkSpecifier{Type: byte(t), Data: make([]byte, n)})
	}
	cert := Certificate{raw: string(make([]byte, certLength))}
	contents := Contents{SingleOnion: true, FlowControl: &FlowControl{Versions: "1-2", SendmeInc: 255}}
	return widths{
		head:  len(appendContents(nil, &contents)),
		point: len(appendPoint(nil, &p, cert, cert)),
		auth:  len(appendAuth(nil, [32]byte{}, make([]AuthClient, authMultiple))),
	}
})
