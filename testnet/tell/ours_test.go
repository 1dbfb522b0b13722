package tell

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/selection"
)

// recipe is how descriptors are made: as the ordinary profile has them, or with a
// fault.
type recipe struct {
	points     func(*rand.Rand) int // in a descriptor
	alike      bool                 // both descriptors have the same points
	copied     bool                 // points' expiries are those of the instances
	oneExpiry  bool                 // of the signing key's certificate, for as long as the period is published
	ownCounter bool                 // an HSDir has a counter of its own
	byInstance bool                 // points in the order of instances
	unpadded   bool
	noFlow     bool
	hourEarly  bool // a certificate that expires within 54 hours rather than after
}

// ours makes descriptors of services whose instances are the captured ones.
type ours struct {
	t      *testing.T
	random *rand.Rand
	bytes  *rand.ChaCha8
	offers offers
	recipe recipe
}

// offers is what instances offer.
type offers struct {
	points []selection.Candidate
	flow   *descriptor.FlowControl
}

// made is a descriptor that is being made.
type made struct {
	identity *descriptor.IdentityKey
	period   descriptor.Period
	runStart time.Time
	at       time.Time
	contents descriptor.Contents
}

func newOurs(t *testing.T, offers offers, seed byte, r recipe) *ours {
	return &ours{t: t, random: rand.New(rand.NewChaCha8([32]byte{seed})), bytes: rand.NewChaCha8([32]byte{seed, 1}), offers: offers, recipe: r}
}

// offersOf takes the captured services for instances.
func offersOf(captures []capture) (o offers, err error) {
	var decoder descriptor.Decoder
	for _, c := range captures {
		address, err := descriptor.ParseAddress(c.Address)
		if err != nil {
			return o, err
		}
		for _, d := range c.Descriptors {
			if len(d.raw) == 0 {
				continue
			}
			keys, err := address.Keys(d.Period)
			if err != nil {
				return o, err
			}
			got, err := decoder.Decode(d.raw[0], keys, nil, d.RunStart)
			if err != nil {
				return o, err
			}
			o.flow = got.FlowControl
			for _, p := range got.IntroductionPoints {
				point := p.Publishable()
				o.points = append(o.points, selection.Candidate{Instance: c.Address, Weight: 1, Point: &point})
			}
		}
	}
	return o, nil
}

// samples makes descriptors of as many services as there are captured ones, as many of
// each and at the moments at which those were made.
func (o *ours) samples(captured []*Sample) (list []*Sample) {
	for len(captured) > 0 {
		n := 1
		if captured[0].Other != nil {
			n = 2
		}
		list = append(list, o.service(captured[:n])...)
		captured = captured[n:]
	}
	return list
}

func (o *ours) service(like []*Sample) []*Sample {
	var seed [32]byte
	_, _ = o.bytes.Read(seed[:])
	identity, err := descriptor.IdentityKeyFromSeed(seed[:])
	if err != nil {
		o.t.Fatal(err)
	}
	defer identity.Wipe()
	pool := o.pool()
	var list []*Sample
	var published []selection.Candidate
	for _, s := range like {
		at, _ := s.made(revision(s.Bodies[0]))
		count := 3
		if o.recipe.points != nil {
			count = o.recipe.points(o.random)
		}
		r := selection.Request{Now: at, Candidates: pool, Slots: make([]selection.Slot, 8), Room: selection.Room{Points: count}, Seed: seed}
		var other [][32]byte
		if !o.recipe.alike {
			other = keysOf(published)
		}
		published = selection.Ordinary(selection.Spread{}, r, other).Points[0]
		d := &made{identity: identity, period: s.Period, runStart: s.RunStart, at: at}
		d.contents = descriptor.Contents{FlowControl: o.offers.flow, Made: at}
		if o.recipe.byInstance {
			slices.SortFunc(published, func(a, b selection.Candidate) int { return bytes.Compare(a.Point.AuthKey[:], b.Point.AuthKey[:]) })
		}
		for _, c := range published {
			d.contents.IntroductionPoints = append(d.contents.IntroductionPoints, *c.Point)
		}
		list = append(list, o.sample(d, len(s.Bodies)))
	}
	if len(list) == 2 {
		for n, s := range list {
			s.Other, s.OtherPeriod = list[1-n].Bodies[0], list[1-n].Period
		}
	}
	return list
}

func keysOf(points []selection.Candidate) (keys [][32]byte) {
	for _, c := range points {
		keys = append(keys, c.Point.AuthKey)
	}
	return keys
}

// pool is what twelve instances offer, which renewed their certificates at some time.
func (o *ours) pool() (pool []selection.Candidate) {
	instances := make(map[string]time.Duration)
	for len(instances) < 12 {
		instances[o.offers.points[o.random.IntN(len(o.offers.points))].Instance] = time.Duration(o.random.IntN(3)) * time.Hour
	}
	for _, c := range o.offers.points {
		if age, ok := instances[c.Instance]; ok {
			point := *c.Point
			point.Expires = point.Expires.Add(-age)
			c.Point = &point
			pool = append(pool, c)
		}
	}
	return pool
}

// sample encodes a descriptor for several HSDirs.
func (o *ours) sample(d *made, hsdirs int) *Sample {
	blinded, err := d.identity.Blind(d.period)
	if err != nil {
		o.t.Fatal(err)
	}
	defer blinded.Wipe()
	keys, err := d.identity.Address().Keys(d.period)
	if err != nil {
		o.t.Fatal(err)
	}
	var seed [ed25519.SeedSize]byte
	_, _ = o.bytes.Read(seed[:])
	signer := ed25519.NewKeyFromSeed(seed[:])
	// As a credential has them: certified some time before, for this hour and others.
	expiries := descriptor.SigningCertExpiries(d.at.Add(-time.Duration(o.random.IntN(24))*time.Hour), d.at.Add(time.Hour))
	switch {
	case o.recipe.oneExpiry:
		expiries.Count = 1
	case o.recipe.hourEarly:
		expiries.First, expiries.Count = descriptor.SigningCertExpiry(d.at).Add(-time.Hour), 1
	}
	certs, err := blinded.CertifyHours([32]byte(signer.Public().(ed25519.PublicKey)), expiries)
	if err != nil {
		o.t.Fatal(err)
	}
	encoder, err := descriptor.NewHourlyEncoder(keys, certs, signer)
	if err != nil {
		o.t.Fatal(err)
	}
	s := &Sample{Address: keys.Address, Period: d.period, RunStart: d.runStart, Counter: blinded.RevisionKey()}
	if o.recipe.copied {
		d.contents.Made = time.Time{}
	}
	if o.recipe.noFlow {
		d.contents.FlowControl = nil
	}
	for n := range hsdirs {
		at := d.at
		if o.recipe.ownCounter {
			at = at.Add(time.Duration(n) * time.Second)
		}
		counter, err := s.Counter.RevisionCounter(d.runStart, at)
		if err != nil {
			o.t.Fatal(err)
		}
		raw, err := encoder.Encode(&d.contents, counter, o.bytes)
		if err != nil {
			o.t.Fatal(err)
		}
		if o.recipe.unpadded {
			raw = o.unpad(raw, keys, signer)
		}
		s.Bodies = append(s.Bodies, raw)
	}
	return s
}

// unpad takes the padding out of a descriptor, and signs it again.
func (o *ours) unpad(raw []byte, keys descriptor.PeriodKeys, signer ed25519.PrivateKey) []byte {
	l, err := openLayers(raw, keys)
	if err != nil {
		o.t.Fatal(err)
	}
	l.padding = nil
	text, _, _ := strings.Cut(string(l.seal(keys)), "\nsignature ")
	text += "\n"
	return []byte(text + "signature " + base64.RawStdEncoding.EncodeToString(ed25519.Sign(signer, []byte("Tor onion service descriptor sig v3"+text))) + "\n")
}
