package balance

import (
	"cmp"
	"crypto/ecdh"
	"crypto/ed25519"
	"encoding/binary"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"

	"onionbalancer/bench/hosting"
	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/testnet/sim"
)

// fleetTally is what is measured of a fleet.
type fleetTally struct {
	failed, confirmed, ended, replicasFailed, torsFailed atomic.Int64

	mu          sync.Mutex
	oldest      time.Duration // of all
	recently    time.Duration // since the last sample
	samples     []hosting.Minute
	unreachable map[*customer]bool
	spell       time.Duration
	scarce      time.Duration // the longest that too few points of a descriptor lived
}

// aged notes the age of a descriptor that clients could get.
func (t *fleetTally) aged(age time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.oldest, t.recently = max(t.oldest, age), max(t.recently, age)
}

// coldFor is how long it takes to publish all services for the first time.
const coldFor = time.Hour

// readsAfter is how long after an hour everybody has its consensus.
const readsAfter = 2 * time.Minute

// run lets time pass.
func (f *fleet) run(long time.Duration, read func()) {
	for until := time.Now().Add(long); time.Now().Before(until); {
		time.Sleep(worldStep)
		now := time.Now()
		if c := f.net.Consensus(); now.Sub(c.ValidAfter) >= readsAfter && c.ValidAfter.After(f.consensus.ValidAfter) {
			read()
		}
		f.step(now)
		f.look(now)
	}
	synctest.Wait() // for what starts at the last moment, which the result counts
}

// step has happen what is due.
func (f *fleet) step(now time.Time) {
	down := 0
	for _, t := range f.tors {
		if t.dead.Load() {
			down++
		}
	}
	for _, t := range f.tors {
		switch dead := t.dead.Load(); {
		case now.Before(t.next):
		case dead:
			t.dead.Store(false)
			t.next = now.Add(f.within(f.torDies))
			down--
		case down < max(1, f.fleetConfig.tors/2):
			t.die()
			t.next = now.Add(cmp.Or(t.outage, min(2*time.Minute+f.within(time.Hour), 6*time.Hour)))
			down++
			f.tally.torsFailed.Add(1)
		}
	}
	if c := f.consensus; f.listed == nil || f.listedOf != c {
		f.relays, f.listedOf = f.net.Relays(), c
		f.listed = make(map[descriptor.Fingerprint]bool, len(f.relays))
		for _, r := range f.relays {
			f.listed[fingerprintOf(r)] = true
		}
	}
	for _, s := range f.shards {
		for _, r := range s.replicas {
			r.step(now)
		}
	}
}

// fails is how often a replica fails, one way or the other.
func (f *fleet) fails() time.Duration {
	return time.Duration(1 / (1/float64(f.crash) + 1/float64(f.freeze)))
}

func (t *fleetTor) die() {
	t.dead.Store(true)
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.conns {
		c.Close()
	}
	t.conns = nil
}

func fingerprintOf(r *sim.Relay) descriptor.Fingerprint {
	f, err := descriptor.ParseFingerprint(r.Fingerprint())
	if err != nil {
		panic("a relay without a fingerprint: " + err.Error())
	}
	return f
}

// step has happen what is due to a replica.
func (r *replica) step(now time.Time) {
	f := r.fleet
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.until.IsZero():
		r.until = now.Add(f.within(f.fails()))
	case now.Before(r.until):
	case r.state == replicaUp:
		r.state = replicaDead
		if f.random.Float64()*float64(f.crash+f.freeze) < float64(f.crash) { // the rarer, the less often
			r.state = replicaFrozen
		}
		r.until, r.upload, r.settled = now.Add(min(time.Minute+f.within(30*time.Minute), 6*time.Hour)), time.Time{}, time.Time{}
		f.tally.replicasFailed.Add(1)
		for p := range r.points {
			r.end(p, now)
		}
	default: // its tor starts anew
		r.state, r.until = replicaUp, now.Add(f.within(f.fails()))
	}
	if r.state != replicaUp {
		return
	}
	c := f.consensus
	both := []descriptor.Period{c.Period(hsdir.FirstRole), c.Period(hsdir.SecondRole)}
	for p := range r.points {
		if !slices.Contains(both, p) {
			r.end(p, now)
		}
	}
	maps.DeleteFunc(r.known, func(p descriptor.Period, _ *descriptor.Descriptor) bool { return !slices.Contains(both, p) })
	changed := false
	for _, p := range both {
		for n, point := range r.points[p] {
			if !now.Before(point.ends) || !f.listed[point.Relay()] {
				f.live.Delete(point.AuthKey)
				f.tally.ended.Add(1)
				r.shard.hot = now.Add(time.Hour)
				r.points[p][n] = r.point(now)
				changed = true
			}
		}
		for len(r.points[p]) < 3 {
			r.points[p] = append(r.points[p], r.point(now))
			changed = true
		}
	}
	if changed || !now.Before(r.upload) {
		r.publish(now, both)
	}
}

// restart has the replica's tor start anew at once: all of its points are others.
func (r *replica) restart() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range r.points {
		r.end(p, time.Now())
	}
}

// end ends the points of a period.
func (r *replica) end(p descriptor.Period, now time.Time) {
	for _, point := range r.points[p] {
		r.fleet.live.Delete(point.AuthKey)
	}
	delete(r.points, p)
	r.shard.hot = now.Add(time.Hour)
}

// point makes an introduction point.
func (r *replica) point(now time.Time) *fleetPoint {
	f := r.fleet
	relay := f.relays[f.random.IntN(len(f.relays))]
	p := &fleetPoint{ends: now.Add(18*time.Hour + time.Duration(f.random.Int64N(int64(6*time.Hour))))}
	p.LinkSpecifiers = relay.LinkSpecifiers()
	var seed [32]byte
	for n := 0; n < len(seed); n += 8 {
		binary.BigEndian.PutUint64(seed[n:], f.random.Uint64())
	}
	p.AuthKey = [32]byte(ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey))
	enc, err := ecdh.X25519().NewPrivateKey(seed[:])
	if err != nil {
		panic("an X25519 key has 32 bytes: " + err.Error())
	}
	p.EncKey, p.OnionKey = [32]byte(enc.PublicKey().Bytes()), [32]byte(enc.PublicKey().Bytes())
	f.live.Store(p.AuthKey, true)
	return p
}

// publish makes both descriptors known to HSDirs. The revision counter is the time.
func (r *replica) publish(now time.Time, both []descriptor.Period) {
	for _, p := range both {
		d := &descriptor.Descriptor{}
		d.RevisionCounter = uint64(now.Unix())
		d.FlowControl = &descriptor.FlowControl{Versions: "1-2", SendmeInc: 31}
		for _, point := range r.points[p] {
			is := point.IntroductionPoint
			is.Expires = now.Truncate(time.Hour).Add(54 * time.Hour)
			d.IntroductionPoints = append(d.IntroductionPoints, is)
		}
		r.known[p] = d
	}
	r.upload = now.Add(time.Hour + time.Duration(r.fleet.random.Int64N(int64(time.Hour))))
	if r.settled.IsZero() {
		r.settled = now.Add(time.Minute)
	}
}

// asksFor reports whether clients ask for a period's descriptors: those of the period that
// is on, or, as long as a consensus of before is valid, of the one before it.
func asksFor(p descriptor.Period, now time.Time) bool {
	start := p.Start(12 * time.Hour)
	return !now.Before(start) && now.Before(start.Add(p.Length+3*time.Hour))
}

// receive has an HSDir take a descriptor.
func (c *customer) receive(p descriptor.Period, at hsdir.Slot, h *holding) {
	now := time.Now()
	c.fleet.tally.confirmed.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.held[p]
	for n := range list {
		if list[n].hsdir == at.HSDir {
			if !at.Reserve && !list[n].left && asksFor(p, now) {
				c.fleet.tally.aged(now.Sub(list[n].at))
			}
			list[n] = fleetCopy{at.HSDir, h, now, false}
			return
		}
	}
	c.held[p] = append(list, fleetCopy{at.HSDir, h, now, false})
}

// look looks at what clients of the customers get: at all of them every ten minutes, and at
// those of a shard whose points changed in every step.
func (f *fleet) look(now time.Time) {
	all := now.Sub(f.began)%(hosting.StepMinutes*time.Minute) < worldStep
	for _, s := range f.shards {
		if !all && now.After(s.hot) {
			continue
		}
		lives := slices.ContainsFunc(s.replicas, func(r *replica) bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.state == replicaUp && !r.settled.IsZero() && !now.Before(r.settled)
		})
		for _, c := range s.customers {
			c.look(now, lives, all)
		}
	}
	if !all {
		return
	}
	t := &f.tally
	t.mu.Lock()
	defer t.mu.Unlock()
	t.samples = append(t.samples, hosting.Minute{Oldest: t.recently.Minutes()})
	t.recently = 0
}

// look looks at what clients of the customer get. lives says that a replica does.
func (c *customer) look(now time.Time, lives, age bool) {
	s := c.service
	s.mu.Lock()
	is := s.report.seen.current()
	slots, period := is.Slots, is.Keys.Period
	s.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	reached, scarce := false, false
	for n := range c.held[period] {
		copy := &c.held[period][n]
		at := slices.IndexFunc(slots, func(s hsdir.Slot) bool { return s.HSDir == copy.hsdir })
		if copy.left = copy.left || at < 0; at < 0 || slots[at].Reserve {
			continue
		}
		if age && !copy.left {
			c.fleet.tally.aged(now.Sub(copy.at))
		}
		living, points := 0, copy.holding.IntroductionPoints
		for n := range points {
			if _, lives := c.fleet.live.Load(points[n].AuthKey); lives {
				living++
			}
		}
		reached = reached || now.Sub(copy.at) < keptFor && living > 0
		scarce = scarce || !copy.left && 3*living < 2*len(points)
	}
	maps.DeleteFunc(c.held, func(p descriptor.Period, _ []fleetCopy) bool { return p.Number+2 < period.Number })
	switch {
	case reached || !lives || len(c.held[period]) == 0 && c.lost.IsZero() && now.Sub(c.fleet.began) < 3*time.Hour:
		c.lost = time.Time{}
	case c.lost.IsZero():
		c.lost = now
	}
	if !c.lost.IsZero() {
		c.fleet.tally.lost(c, now.Sub(c.lost)+worldStep)
	}
	switch {
	case !scarce || !lives || now.Sub(c.fleet.began) < coldFor: // then those go first that were never published
		c.scarce = time.Time{}
	case c.scarce.IsZero():
		c.scarce = now
	}
	if !c.scarce.IsZero() {
		c.fleet.tally.scarceFor(now.Sub(c.scarce) + worldStep)
	}
}

// scarceFor notes for how long an HSDir has had a descriptor of which fewer than two thirds
// of the points live.
func (t *fleetTally) scarceFor(long time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.scarce = max(t.scarce, long)
}

// lost notes that a customer has been unreachable for so long.
func (t *fleetTally) lost(c *customer, long time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.unreachable == nil {
		t.unreachable = map[*customer]bool{}
	}
	t.unreachable[c] = true
	t.spell = max(t.spell, long)
}

// result sums up.
func (f *fleet) result(cpu time.Duration) hosting.Result {
	long := time.Since(f.began)
	perHour := long.Hours() * float64(f.fleetConfig.customers)
	t := &f.tally
	r := hosting.Result{
		Customers: f.fleetConfig.customers, Shards: f.fleetConfig.shards, Tors: f.fleetConfig.tors, Days: long.Hours() / 24, Rate: f.rate,
		CPU: float64(cpu.Microseconds()) / 1000 / perHour, Oldest: t.oldest.Minutes(), Unreachable: len(t.unreachable), Spell: t.spell.Seconds(),
		ReplicaFailures: int(t.replicasFailed.Load()), TorFailures: int(t.torsFailed.Load()), PointsEnded: int(t.ended.Load()), Failed: int(t.failed.Load()),
	}
	for _, c := range f.customers {
		r.Rounds += float64(c.service.rounds) / perHour
	}
	sums := make([]float64, len(t.samples))
	total := 0
	for _, tor := range f.tors {
		minute := 0
		for second, n := range tor.launched {
			total += int(n)
			r.PerSecond = max(r.PerSecond, int(n))
			if minute += int(n); second%60 == 59 {
				r.PerMinute, minute = max(r.PerMinute, minute), 0
			}
			if step := second / (hosting.StepMinutes * 60); step < len(sums) {
				sums[step] += float64(n) / (hosting.StepMinutes * 60)
			}
		}
	}
	r.Uploads = float64(total) / perHour
	const day = 24 * 60 / hosting.StepMinutes
	midnight := (day - int(f.began.Sub(f.began.Truncate(24*time.Hour))/(hosting.StepMinutes*time.Minute))) % day
	for midnight+2*day <= len(sums) { // the last whole day
		midnight += day
	}
	for n := midnight; n < min(len(sums), midnight+day); n++ {
		r.Day = append(r.Day, hosting.Minute{Uploads: sums[n], Oldest: t.samples[n].Oldest})
	}
	return r
}

// ahead returns a second in which the tors together were ahead of their rate, if there is
// one. Each that comes back may have a burst.
func (f *fleet) ahead() (second int, is bool) {
	all := f.rate * len(f.tors)
	tokens, seconds := 10*all, 0
	for _, t := range f.tors {
		seconds = max(seconds, len(t.launched))
	}
	for second := range seconds {
		tokens = min(10*all, tokens+all)
		for _, t := range f.tors {
			if second < len(t.launched) {
				tokens -= int(t.launched[second])
			}
		}
		if tokens < -6*all {
			return second, true
		}
	}
	return 0, false
}
