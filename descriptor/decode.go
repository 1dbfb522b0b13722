package descriptor

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// MaxSize is the length in bytes that a descriptor must stay below, unless the
// consensus parameter HSV3MaxDescriptorSize says otherwise.
const MaxSize = 50000

// Bounds of a Decoder's caches.
const (
	memoSize   = 256 // descriptors, some 10 kB each at most
	maxDropped = 3 * MaxIntroductionPoints
)

// Decoder decodes descriptors, and remembers, within bounds, what it verified,
// so that the same bytes are not verified twice. The zero value is ready; it
// is safe for concurrent use.
type Decoder struct {
	// MaxSize is the limit in bytes; 0 stands for the constant MaxSize. It is
	// set before the first Decode.
	MaxSize int

	once  sync.Once
	certs certCache
	memo  recent[[sha256.Size]byte, *opened]
}

// opened is a descriptor that was verified in every respect but time.
type opened struct {
	descriptor Descriptor // without introduction points
	certLine   int
	points     []placedPoint // intact ones, expired ones too
}

// Decode verifies and decrypts raw as a client of the service would that keys
// belong to, at the moment now. client is nil, or the key of an authorized
// client. raw is not kept. Errors are of type *ParseError; errors.Is tells
// ErrClientKey, ErrNotOurs, ErrExpired and ErrTooLarge.
func (d *Decoder) Decode(raw []byte, keys PeriodKeys, client *ClientKey, now time.Time) (*Descriptor, error) {
	d.once.Do(d.init)
	if err := checkSize(len(raw), d.MaxSize); err != nil {
		return nil, &ParseError{Layer: LayerOuter, Err: err}
	}
	name := memoName(raw, &keys, client)
	o, ok := d.memo.get(name)
	if !ok {
		var err error
		if o, err = d.open(raw, &keys, client); err != nil {
			return nil, err
		}
		d.memo.put(name, o)
	}
	return o.at(now)
}

// DecodeOuter verifies the outer layer of raw, which tells who signed it, and leaves
// out what is encrypted: AuthEphemeralKey, AuthClients, Contents and Dropped. It takes
// a fraction of the time of Decode, has the same errors, and remembers nothing but the
// certificate.
func (d *Decoder) DecodeOuter(raw []byte, keys PeriodKeys, now time.Time) (*Descriptor, error) {
	d.once.Do(d.init)
	if err := checkSize(len(raw), d.MaxSize); err != nil {
		return nil, &ParseError{Layer: LayerOuter, Err: err}
	}
	outer, err := d.openOuter(raw, &keys)
	if err != nil {
		return nil, err
	}
	o := &opened{certLine: outer.certLine, descriptor: outer.descriptor()}
	return o.at(now)
}

func (d *Decoder) init() { d.certs.good.limit, d.memo.limit = certCacheSize, memoSize }

func checkSize(n, limit int) error {
	if limit <= 0 {
		limit = MaxSize
	}
	if n >= limit {
		return fmt.Errorf("%w: %d bytes, want less than %d", ErrTooLarge, n, limit)
	}
	return nil
}

// memoName stands for everything that a decoding depends on, time excepted.
func memoName(raw []byte, keys *PeriodKeys, client *ClientKey) (name [sha256.Size]byte) {
	h := sha256.New()
	h.Write(keys.Blinded[:])
	h.Write(keys.Subcredential[:])
	var public [32]byte // zero, which is no key, for no client
	if client != nil {
		public = client.Client().PublicKey
	}
	h.Write(public[:])
	h.Write(raw)
	h.Sum(name[:0])
	return name
}

// open does all that does not depend on the time.
func (d *Decoder) open(raw []byte, keys *PeriodKeys, client *ClientKey) (*opened, error) {
	outer, err := d.openOuter(raw, keys)
	if err != nil {
		return nil, err
	}
	first, err := outer.openFirst(keys)
	if err != nil {
		return nil, err
	}
	second, needsKey, err := first.openSecond(keys, outer.revision, client)
	if err != nil {
		return nil, err
	}
	second.verifyPoints(outer.cert.Key(), &d.certs)
	o := &opened{certLine: outer.certLine, points: second.points, descriptor: outer.descriptor()}
	o.descriptor.AuthEphemeralKey, o.descriptor.AuthClients = first.ephemeral, first.clients
	o.descriptor.NeedsClientKey, o.descriptor.Contents, o.descriptor.Dropped = needsKey, second.contents, second.dropped
	o.descriptor.CAACritical = first.caaCritical
	return o, nil
}

// openOuter reads and verifies the outer layer.
func (d *Decoder) openOuter(raw []byte, keys *PeriodKeys) (*outer, error) {
	o, err := parseOuter(raw)
	if err != nil {
		return nil, err
	}
	return o, o.verify(keys.Blinded, &d.certs)
}

// descriptor returns the contents of the outer layer.
func (o *outer) descriptor() Descriptor {
	return Descriptor{Lifetime: o.lifetime, RevisionCounter: o.revision, SigningCert: o.cert}
}

// openFirst decrypts and reads the first layer. It decrypts in place.
func (o *outer) openFirst(keys *PeriodKeys) (*firstLayer, error) {
	text, err := layerSecret{keys: keys, revision: o.revision, constant: firstConstant}.open(o.blob)
	if err != nil {
		return nil, &ParseError{Layer: LayerOuter, Line: o.blobLine, Keyword: kwSuperencrypted, Err: err}
	}
	return parseFirst(text)
}

// openSecond decrypts and reads the second layer, with the cookie that client
// is given if there is one. It decrypts in place.
func (f *firstLayer) openSecond(keys *PeriodKeys, revision uint64, client *ClientKey) (l *secondLayer, needsKey bool, err error) {
	secret := layerSecret{keys: keys, revision: revision, constant: secondConstant}
	if client != nil {
		secret.cookie = client.cookieFor(keys.Subcredential, f.ephemeral, f.clients)
	}
	text, err := secret.open(f.blob)
	needsKey = secret.cookie != nil
	if needsKey && errors.Is(err, errMAC) {
		// An entry bears our name by chance.
		secret.cookie, needsKey = nil, false
		text, err = secret.open(f.blob)
	}
	if errors.Is(err, errMAC) {
		err = fmt.Errorf("%w: %w", ErrClientKey, err)
	}
	if err != nil {
		return nil, false, &ParseError{Layer: LayerFirst, Line: f.blobLine, Keyword: kwEncrypted, Err: err}
	}
	l, err = parseSecond(text)
	return l, needsKey, err
}

// verifyPoints drops the points whose certificates the descriptor-signing key
// did not sign.
func (l *secondLayer) verifyPoints(signer [32]byte, verified *certCache) {
	l.points = slices.DeleteFunc(l.points, func(p placedPoint) bool {
		keyword, err := kwAuthKey, verified.verify(p.certs.auth, signer)
		if err == nil {
			keyword, err = kwEncCert, verified.verify(p.certs.enc, signer)
		}
		if err != nil {
			l.drop(&ParseError{Layer: LayerSecond, Line: p.line, Keyword: keyword, Err: err})
		}
		return err != nil
	})
}

// at returns the descriptor as it is at the moment now.
func (o *opened) at(now time.Time) (*Descriptor, error) {
	if err := o.descriptor.SigningCert.VerifyTime(now); err != nil {
		return nil, &ParseError{Layer: LayerOuter, Line: o.certLine, Keyword: kwSigningCert, Err: err}
	}
	d := o.descriptor
	d.Dropped = append([]*ParseError(nil), o.descriptor.Dropped...)
	d.IntroductionPoints = make([]IntroductionPoint, 0, len(o.points))
	for _, p := range o.points {
		if !now.After(p.Expires) {
			d.IntroductionPoints = append(d.IntroductionPoints, p.IntroductionPoint)
			continue
		}
		if len(d.Dropped) < maxDropped {
			d.Dropped = append(d.Dropped, &ParseError{Layer: LayerSecond, Line: p.line, Keyword: kwIntroPoint,
				Err: fmt.Errorf("%w at %s", ErrExpired, p.Expires.Format(time.RFC3339))})
		}
	}
	if n := len(d.IntroductionPoints); n > MaxIntroductionPoints {
		return nil, &ParseError{Layer: LayerSecond, Keyword: kwIntroPoint,
			Err: fmt.Errorf("%d introduction points, want at most %d", n, MaxIntroductionPoints)}
	}
	return &d, nil
}

// recent remembers values by key, at least the last limit/2 that were put or
// got and at most limit. The zero value with a limit set is ready; it is safe
// for concurrent use.
type recent[K comparable, V any] struct {
	limit int

	mu         sync.Mutex
	young, old map[K]V
}

func (r *recent[K, V]) get(k K) (V, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v, ok := r.young[k]; ok {
		return v, true
	}
	v, ok := r.old[k]
	if ok {
		r.putLocked(k, v)
	}
	return v, ok
}

func (r *recent[K, V]) put(k K, v V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.putLocked(k, v)
}

// putLocked starts a new generation when the young one has half of the limit:
// what nobody asked for since is forgotten then.
func (r *recent[K, V]) putLocked(k K, v V) {
	if r.young == nil || len(r.young) >= r.limit/2 {
		r.old, r.young = r.young, make(map[K]V)
	}
	r.young[k] = v
}

// certCache remembers the certificates whose signature was right, so that the
// same bytes are verified once. They name their signer, so that what was true
// of the bytes stays true; only time is to be checked again.
type certCache struct{ good recent[string, struct{}] }

// certCacheSize holds the certificates of about 100 full descriptors; half a
// megabyte.
const certCacheSize = 4096

func (v *certCache) verify(c Certificate, signer [32]byte) error {
	if named, ok := c.SigningKey(); !ok || named != signer {
		return errSigner
	}
	if _, ok := v.good.get(c.raw); ok {
		return nil
	}
	if err := c.verifySignature(signer); err != nil {
		return err
	}
	v.good.put(c.raw, struct{}{})
	return nil
}
