package descriptor

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
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
	signed       []byte // the signed part, aliasing the input
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
	message := newBody(len(signaturePrefix) + len(o.signed))
	message = append(append(message, signaturePrefix...), o.signed...)
	defer Reuse(message)
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

// firstLayer is the parsed plaintext of the first layer (rend-spec-v3,
// section 2.5.1).
type firstLayer struct {
	ephemeral   [32]byte
	clients     []AuthClient
	caaCritical bool
	blob        []byte // the second layer, encrypted
	blobLine    int
}

var firstGrammar = grammar[firstLayer]{
	first: kwAuthType,
	rules: []rule[firstLayer]{
		{keyword: kwAuthType, required: true, take: (*firstLayer).takeAuthType},
		{keyword: kwAuthEphemeral, required: true, take: (*firstLayer).takeEphemeral},
		{keyword: kwAuthClient, required: true, repeats: true, take: (*firstLayer).takeClient},
		{keyword: kwCAACritical, repeats: true, take: (*firstLayer).takeCAACritical},
		{keyword: kwEncrypted, required: true, take: (*firstLayer).takeBlob},
	},
}

// parseFirst reads the plaintext of the first layer.
func parseFirst(text []byte) (*firstLayer, error) {
	f := new(firstLayer)
	if err := firstGrammar.parse(&scanner{layer: LayerFirst, text: text}, f); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *firstLayer) takeAuthType(it *item) error {
	var word []byte
	if _, err := it.firstArgs(&word); err != nil {
		return err
	}
	if string(word) != authTypeWord {
		return fmt.Errorf("unknown type, want %q", authTypeWord)
	}
	return nil
}

func (f *firstLayer) takeEphemeral(it *item) error {
	var key []byte
	if _, err := it.firstArgs(&key); err != nil {
		return err
	}
	return decodeValue(f.ephemeral[:], key)
}

// takeCAACritical takes any line of the keyword, as clients do, who ignore it.
func (f *firstLayer) takeCAACritical(it *item) error {
	f.caaCritical = true
	return it.checkUnknown()
}

func (f *firstLayer) takeClient(it *item) error {
	var id, iv, cookie []byte
	if _, err := it.firstArgs(&id, &iv, &cookie); err != nil {
		return err
	}
	var c AuthClient
	if err := errors.Join(decodeValue(c.ID[:], id), decodeValue(c.IV[:], iv), decodeValue(c.EncryptedCookie[:], cookie)); err != nil {
		return err
	}
	f.clients = append(f.clients, c)
	return nil
}

func (f *firstLayer) takeBlob(it *item) (err error) {
	f.blobLine = it.line
	f.blob, err = it.onlyObject(labelMessage)
	return err
}

// secondLayer is the parsed plaintext of the second layer (rend-spec-v3,
// section 2.5.2).
type secondLayer struct {
	contents Contents // without introduction points
	points   []placedPoint
	dropped  []*ParseError // of damaged points, at most maxDropped

	section introSection // the point that is being read, if inPoint
	inPoint bool
}

// placedPoint is an introduction point and the line at which it begins.
type placedPoint struct {
	IntroductionPoint
	line int
}

// secondGrammar holds for the whole text: its lines may stand after and even
// among the introduction points, as they may for tor.
var secondGrammar = grammar[secondLayer]{
	first: kwCreate2,
	rules: []rule[secondLayer]{
		{keyword: kwCreate2, required: true, take: (*secondLayer).takeCreate2},
		{keyword: kwIntroAuth, take: (*secondLayer).takeIntroAuth},
		{keyword: kwSingleOnion, take: (*secondLayer).takeSingleOnion},
		{keyword: kwFlowControl, take: (*secondLayer).takeFlowControl},
		{keyword: kwPowParams, repeats: true, take: (*secondLayer).takePow},
		{keyword: kwCAA, repeats: true, take: (*secondLayer).takeCAA},
	},
	other: (*secondLayer).takeOther,
}

// parseSecond reads the plaintext of the second layer. An error within an
// introduction point is kept with it, and does not fail the layer.
func parseSecond(text []byte) (*secondLayer, error) {
	points := bytes.Count(text, []byte("\n"+kwIntroPoint+" "))
	l := &secondLayer{points: make([]placedPoint, 0, min(points, MaxIntroductionPoints))}
	if err := secondGrammar.parse(&scanner{layer: LayerSecond, text: text}, l); err != nil {
		return nil, err
	}
	l.endSection()
	return l, nil
}

func (l *secondLayer) takeCreate2(it *item) error {
	formats, err := it.firstArgs()
	if err != nil {
		return err
	}
	ntor := false
	for {
		var word []byte
		if word, formats = cutArg(formats); word == nil {
			break
		}
		n, err := parseNumber(word, 1<<16-1)
		if err != nil {
			return err
		}
		ntor = ntor || n == ntorFormat
		l.contents.Create2Formats = append(l.contents.Create2Formats, int(n))
	}
	if !ntor {
		return fmt.Errorf("does not offer ntor (%d)", ntorFormat)
	}
	return nil
}

func (l *secondLayer) takeIntroAuth(it *item) error {
	args, err := it.firstArgs()
	if err != nil {
		return err
	}
	known := false
	words, err := splitArgs(args)
	if err != nil {
		return err
	}
	for _, word := range words {
		known = known || word == introAuthWord
		l.contents.IntroAuthRequired = append(l.contents.IntroAuthRequired, word)
	}
	if !known {
		return fmt.Errorf("does not offer %q", introAuthWord)
	}
	return nil
}

func (l *secondLayer) takeSingleOnion(it *item) error {
	l.contents.SingleOnion = true
	_, err := it.firstArgs()
	return err
}

func (l *secondLayer) takeFlowControl(it *item) error {
	var versions, inc []byte
	if _, err := it.firstArgs(&versions, &inc); err != nil {
		return err
	}
	n, err := parseNumber(inc, 255)
	if err != nil {
		return err
	}
	f := FlowControl{Versions: string(versions), SendmeInc: uint8(n)}
	l.contents.FlowControl = &f
	return f.check()
}

func (l *secondLayer) takePow(it *item) error {
	var scheme, seed, effort, expires []byte
	args, err := it.firstArgs(&scheme)
	if err != nil {
		return err
	}
	if len(l.contents.PowParams) == maxWords {
		return errTooMany
	}
	p := PowParams{Scheme: string(scheme)}
	if p.Scheme != powScheme {
		words, err := splitArgs(args)
		if err != nil {
			return err
		}
		p.Other = strings.Join(words, " ")
		l.contents.PowParams = append(l.contents.PowParams, p)
		return nil
	}
	for _, q := range l.contents.PowParams {
		if q.Scheme == powScheme {
			return errTwice
		}
	}
	if _, err := it.firstArgs(&scheme, &seed, &effort, &expires); err != nil {
		return err
	}
	if err := decodeValue(p.Seed[:], seed); err != nil {
		return err
	}
	n, err := parseNumber(effort, 1<<32-1)
	if err != nil {
		return err
	}
	p.Effort = uint32(n)
	if p.Expires, err = time.Parse(powTime, string(expires)); err != nil || p.Expires.Unix() < 0 {
		return errors.New("malformed expiry")
	}
	l.contents.PowParams = append(l.contents.PowParams, p)
	return nil
}

// takeCAA ignores a malformed record, or one too many: clients ignore
// them all, and the service is as reachable with them.
func (l *secondLayer) takeCAA(it *item) error {
	if r, err := ParseCAA(string(it.args)); err == nil && it.label == nil && len(l.contents.CAA) < maxWords {
		l.contents.CAA = append(l.contents.CAA, r)
	}
	return it.checkUnknown()
}

// takeOther begins an introduction point, or gives the line to the last one.
// Like tor it begins one at the very characters "introduction-point ".
func (l *secondLayer) takeOther(it *item) error {
	if it.keyword == kwIntroPoint && !it.opt && it.args != nil {
		l.endSection()
		l.section, l.inPoint = introSection{line: it.line}, true
	}
	// tor reads every object of the layer before it looks at single points.
	if err := it.checkUnknown(); err != nil {
		return err
	}
	if l.inPoint {
		l.section.take(it)
	}
	return nil
}

// endSection keeps the current point, or its error.
func (l *secondLayer) endSection() {
	if !l.inPoint {
		return
	}
	l.inPoint = false
	p := &l.section
	if p.finish(); p.fault == nil {
		l.points = append(l.points, placedPoint{p.point, p.line})
	} else {
		l.drop(p.fault)
	}
}

func (l *secondLayer) drop(fault *ParseError) {
	if len(l.dropped) < maxDropped {
		l.dropped = append(l.dropped, fault)
	}
}
