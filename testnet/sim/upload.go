package sim

import (
	"crypto/ed25519"
	"math/rand/v2"
	"slices"
	"time"

	"onionbalancer/descriptor"
)

// How often tor uploads a descriptor that did not change.
const (
	minUploadGap = 60 * time.Minute
	maxUploadGap = 120 * time.Minute
)

// published is one of the two descriptors of a service.
type published struct {
	instance *Instance
	period   descriptor.Period
	blinded  *descriptor.BlindedKey
	public   descriptor.BlindedPublicKey
	made     time.Time // by the service's clock

	points  []*introPoint
	serial  uint64 // of points
	watches int    // outdates planned expiries
	uploads int    // outdates planned uploads
	hsdirs  []*Relay
	ended   bool
	overdue bool // an upload fell due while the instance could not make it

	encoder *descriptor.Encoder // made when somebody wants to see a descriptor
	keys    descriptor.PeriodKeys
	signer  ed25519.PrivateKey
	cert    descriptor.Certificate
}

// upload is one version of a descriptor, as it went to all its HSDirs.
type upload struct {
	of       *published
	at       time.Time // by the service's clock
	runStart time.Time
	points   []*introPoint
	garbage  bool
	alter    func(*descriptor.Contents) // what is in it, if not nil
	revision uint64
}

// publish plans an upload after a delay, which takes the place of the one that
// was planned.
func (d *published) publish(now time.Time, delay time.Duration) {
	d.uploads++
	count := d.uploads
	d.instance.net.agenda.plan(now.Add(delay), func(now time.Time) {
		switch {
		case count != d.uploads || d.ended || !d.instance.online:
		case d.instance.awake():
			d.upload(now)
		default:
			d.overdue = true
		}
	})
}

// upload sends the descriptor to the HSDirs that are responsible by the
// service's consensus.
func (d *published) upload(now time.Time) {
	i := d.instance
	d.overdue = false
	d.publish(now, between(i.random, minUploadGap, maxUploadGap))
	c := i.view.live(now)
	if c == nil || len(d.points) == 0 {
		return
	}
	u := &upload{of: d, at: i.clock(now), runStart: c.RunStart(), points: slices.Clone(d.points), garbage: i.garbage, alter: i.alter}
	if d == i.first {
		u.runStart = u.runStart.Add(-i.net.cfg.run())
	}
	d.hsdirs = i.responsible(d, c)
	for _, r := range d.hsdirs {
		if r.answers() && r.circuit(i.cfg.Name, now) != unheard {
			r.keep(d.public, &stored{received: now, lifetime: uploadLifetime, upload: u})
		}
	}
}

// uploadLifetime is descriptor-lifetime as tor writes it.
const uploadLifetime = 180 * time.Minute

// movedFrom says whether one of hsdirs has not got the descriptor yet.
func (d *published) movedFrom(hsdirs []*Relay) bool {
	return d.hsdirs != nil && slices.ContainsFunc(hsdirs, func(r *Relay) bool { return !slices.Contains(d.hsdirs, r) })
}

// end gives the descriptor up.
func (d *published) end() {
	if d != nil {
		d.ended = true
		d.close()
	}
}

// sameSeries says whether the counters of u and v compare as their times do.
func (u *upload) sameSeries(v *upload) bool {
	return u.of.public == v.of.public && u.runStart.Equal(v.runStart)
}

// counter is the revision counter, computed when needed.
func (u *upload) counter() uint64 {
	if u.revision == 0 {
		revision, err := u.of.blinded.RevisionKey().RevisionCounter(u.runStart, u.at)
		if err != nil {
			revision = 1 // a clock that far off gives tor's lowest
		}
		u.revision = revision
	}
	return u.revision
}

// encode makes the bytes that went to one HSDir.
func (u *upload) encode(r *Relay) []byte {
	d := u.of
	cfg := &r.net.cfg
	random := rand.NewChaCha8(cfg.derive("salts", d.public[:], r.fingerprint[:], timeBytes(u.at)))
	d.prepare(cfg)
	if u.garbage {
		junk := make([]byte, 10000)
		_, _ = random.Read(junk) // never fails
		return signWrapper(d.cert, d.signer, u.counter(), junk)
	}
	body, err := d.encoder.Encode(u.contents(), u.counter(), random)
	if err == nil && d.instance.cfg.LegacyPoint {
		body, err = d.legacy(body, d.keys, u.counter())
	}
	if err != nil {
		panic("sim: encoding an instance's descriptor: " + err.Error())
	}
	return body
}

// prepare makes the descriptor-signing key and what is made once with it.
func (d *published) prepare(cfg *Config) {
	if d.encoder != nil {
		return
	}
	seed := cfg.derive("descriptor-signing key", d.public[:], int8Bytes(d.instance.starts))
	d.signer = ed25519.NewKeyFromSeed(seed[:])
	var err error
	d.keys, err = d.instance.Address().Keys(d.period)
	if err == nil {
		d.cert, err = certify(d.blinded, d.signer, d.made)
	}
	if err == nil {
		d.encoder, err = descriptor.NewEncoder(d.keys, d.cert, d.signer)
	}
	if err != nil {
		panic("sim: preparing an instance's descriptor: " + err.Error())
	}
}

// contents is the inner layer of u.
func (u *upload) contents() *descriptor.Contents {
	i := u.of.instance
	cfg := &i.net.cfg
	c := &descriptor.Contents{Create2Formats: []int{2}, SingleOnion: i.cfg.SingleOnion, Clients: i.cfg.Clients}
	if !i.cfg.NoFlowControl {
		c.FlowControl = &descriptor.FlowControl{Versions: "1-2", SendmeInc: uint8(cfg.param("cc_sendme_inc", 31))}
	}
	if i.cfg.ProofOfWork {
		seed := cfg.derive("proof of work", u.of.public[:], timeBytes(u.at.Truncate(2*time.Hour)))
		c.PowParams = []descriptor.PowParams{{Scheme: "v1", Seed: seed, Expires: u.at.Truncate(2 * time.Hour).Add(2 * time.Hour)}}
	}
	for _, p := range u.points {
		c.IntroductionPoints = append(c.IntroductionPoints, p.describe(u.at))
	}
	if u.alter != nil {
		u.alter(c)
	}
	return c
}
