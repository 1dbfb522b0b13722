package sim

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"errors"
	"math"
	"testing"
	"time"

	"onionbalancer/descriptor"
)

// What tor 0.4.9.11's clients do, C1 to C9: one test for each rule.

// bench is a network with instances and a public service whose HSDirs are filled by
// hand.
type bench struct {
	*service
	instances []*Instance
	slots     []*Relay // that clients ask, replica by replica
	period    descriptor.Period
	dead      uint64 // dead points made so far
}

func onBench(t *testing.T, instances int, cfg Config, test func(t *testing.T, b *bench)) {
	t.Helper()
	inNetwork(t, cfg, func(t *testing.T, n *Network) {
		b := &bench{service: newService(t, n)}
		for range instances {
			b.instances = append(b.instances, n.AddInstance(InstanceConfig{PointLife: 96 * time.Hour}))
		}
		time.Sleep(time.Minute)
		ring := n.Consensus().current()
		b.period = ring.key.period
		b.slots = ring.fetch(&n.cfg, b.keys(b.period).Blinded)
		test(t, b)
	})
}

// put has an HSDir hold a descriptor of these points.
func (b *bench) put(slot int, revision uint64, points ...descriptor.IntroductionPoint) {
	b.t.Helper()
	b.net.lock()
	defer b.net.mu.Unlock()
	delete(b.slots[slot].store, b.keys(b.period).Blinded) // it may be given a lower counter
	if status := b.slots[slot].receive(b.encode(b.period, revision, points...), time.Now()); status != statusOK {
		b.t.Fatalf("an HSDir answers %d", status)
	}
}

// putAll is put for all of them.
func (b *bench) putAll(revision uint64, points ...descriptor.IntroductionPoint) {
	b.t.Helper()
	for k := range b.slots {
		b.put(k, revision, points...)
	}
}

// live are points of an instance.
func (b *bench) live(i int) []descriptor.IntroductionPoint {
	b.t.Helper()
	return decode(b.t, b.net, b.instances[i], nil).IntroductionPoints
}

// deadAt is a point that nobody keeps, at a relay.
func (b *bench) deadAt(r *Relay) descriptor.IntroductionPoint {
	b.dead++
	seed := b.net.cfg.derive("dead point", int8Bytes(b.dead))
	key := ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey)
	secret, err := ecdh.X25519().NewPrivateKey(seed[:])
	if err != nil {
		b.t.Fatal(err)
	}
	return descriptor.IntroductionPoint{LinkSpecifiers: r.LinkSpecifiers(), OnionKey: r.onionKey, AuthKey: [32]byte(key),
		EncKey: [32]byte(secret.PublicKey().Bytes()), Expires: time.Now().Truncate(time.Hour).Add(descriptor.CertLifetime)}
}

// corpses are count dead points, each at a relay that none of the others is at.
func (b *bench) corpses(count int, others ...descriptor.IntroductionPoint) []descriptor.IntroductionPoint {
	b.t.Helper()
	taken := make(map[descriptor.Fingerprint]bool)
	for _, p := range others {
		taken[p.Relay()] = true
	}
	var dead []descriptor.IntroductionPoint
	for _, r := range b.net.Relays() {
		if len(dead) < count && !taken[r.fingerprint] {
			dead = append(dead, b.deadAt(r))
		}
	}
	return dead
}

// client is a new client of the service.
func (b *bench) client() *Client { return b.net.NewClient(b.key.Address(), ClientConfig{}) }

// remembers is how many HSDirs the client will not ask again now.
func (b *bench) remembers(c *Client) int {
	b.net.lock()
	defer b.net.mu.Unlock()
	return len(c.asked)
}

// expire takes the client's descriptor away as a new time period does.
func (b *bench) expire(c *Client) {
	b.net.lock()
	defer b.net.mu.Unlock()
	c.cached = nil
}

// even fails unless each of n was counted about as often as the others.
func even(t *testing.T, what string, counts map[string]int, n int) {
	t.Helper()
	total, least, most := 0, math.MaxInt, 0
	for _, count := range counts {
		total += count
		least, most = min(least, count), max(most, count)
	}
	if mean := total / n; len(counts) != n || least < mean*6/10 || most > mean*14/10 {
		t.Errorf("%s: %d were counted, of %d, %d to %d times, want about %d", what, len(counts), n, least, most, mean)
	}
}

// C1: the HSDir is drawn over all six; the next one when it has nothing of use, in the
// same visit, and none twice; the request fails when all were asked.
func TestC1HSDirs(t *testing.T) {
	onBench(t, 6, Config{Seed: 4, Relays: 100}, func(t *testing.T, b *bench) {
		for k := range b.slots {
			b.put(k, 1, b.live(k)...)
		}
		first := make(map[string]int)
		for range 600 {
			r := b.client().Request()
			if r.Err != nil || r.Fetched != 1 || r.Directory != fetchTime {
				t.Fatalf("%+v", r)
			}
			first[r.Instance.Name()]++
		}
		even(t, "HSDirs", first, 6)

		for k, f := range []Faults{{Amnesia: true}, {RejectFetches: true}, {Forge: Garbage}, {Overloaded: true}, {Silent: true}} {
			b.slots[k].SetFaults(f)
		}
		asked := make(map[time.Duration]int) // HSDirs before the one that serves
		for range 600 {
			r := b.client().Request()
			if r.Err != nil || r.Instance != b.instances[5] {
				t.Fatalf("with one HSDir left: %+v", r)
			}
			asked[r.Directory%stallTime/fetchTime]++
		}
		if len(asked) != 5 {
			t.Errorf("HSDirs that answered a visit: %v, want 1 to 5, as one is silent", asked)
		}
		b.slots[5].SetFaults(Faults{Amnesia: true})
		c := b.client()
		if r := c.Request(); !errors.Is(r.Err, ErrNoDescriptor) || r.Directory != stallTime+5*fetchTime || b.remembers(c) != 0 {
			t.Errorf("with none: %+v", r)
		}
	})
}

// C1, C2: an HSDir that was asked is not asked again for a quarter of an hour, unless
// something wipes that: here a visitor who never gets through, and so wipes nothing.
func TestC1Requery(t *testing.T) {
	onBench(t, 1, Config{Seed: 4, Requery: 20 * time.Minute}, func(t *testing.T, b *bench) {
		b.putAll(1, b.live(0)...)
		b.instances[0].SetFrozen(true)
		c := b.client()
		for k := range b.slots {
			if r := c.Request(); !errors.Is(r.Err, ErrPatience) || r.Fetched != 1 || b.remembers(c) != k+1 {
				t.Fatalf("visit %d: %+v, %d HSDirs asked", k, r, b.remembers(c))
			}
			b.expire(c)
			time.Sleep(time.Minute)
		}
		if r := c.Request(); !errors.Is(r.Err, ErrNoDescriptor) || r.Took != 0 || b.remembers(c) != 0 {
			t.Errorf("with all asked lately: %+v", r)
		}
		if r := c.Request(); !errors.Is(r.Err, ErrPatience) || r.Fetched != 1 {
			t.Errorf("the next visit: %+v", r)
		}
		b.expire(c)
		time.Sleep(21 * time.Minute)
		c.Request()
		b.expire(c)
		c.Request()
		if b.remembers(c) < 2 {
			t.Error("what was asked is forgotten too early")
		}
	})
}

// C2: what was asked is forgotten with a visit that gets through, a descriptor that
// comes and is of no use, when no HSDir is left (C1), and with a new identity.
func TestC2Wiped(t *testing.T) {
	onBench(t, 1, Config{Seed: 4}, func(t *testing.T, b *bench) {
		b.putAll(1, b.corpses(2)...)
		dead := b.client()
		if r := dead.Request(); !errors.Is(r.Err, ErrNoPoint) || b.remembers(dead) != 0 {
			t.Errorf("of no use: %+v, %d asked", r, b.remembers(dead))
		}
		b.putAll(2, b.live(0)...)
		c := b.client()
		if r := c.Request(); r.Err != nil || b.remembers(c) != 0 {
			t.Errorf("served: %+v, %d asked", r, b.remembers(c))
		}
		b.instances[0].SetApplication(nil) // the stream reached tor
		b.expire(c)
		if r := c.Request(); !errors.Is(r.Err, ErrApplication) || b.remembers(c) != 0 {
			t.Errorf("served but for the application: %+v, %d asked", r, b.remembers(c))
		}
		b.instances[0].SetFrozen(true)
		b.expire(c)
		if c.Request(); b.remembers(c) != 1 {
			t.Errorf("%d asked by a visit that fails, want 1", b.remembers(c))
		}
		if c.Forget(); b.remembers(c) != 0 {
			t.Error("a new identity remembers")
		}
	})
}

// C3: a descriptor is kept until the client's consensus is of the next period, however
// old it is.
func TestC3KeptForThePeriod(t *testing.T) {
	inNetwork(t, Config{Seed: 4}, func(t *testing.T, n *Network) {
		i := n.AddInstance(InstanceConfig{PointLife: 48 * time.Hour})
		time.Sleep(time.Minute)
		c := n.NewClient(i.Address(), ClientConfig{ConsensusDelay: 30 * time.Minute})
		noon := time.Now().Truncate(24 * time.Hour).Add(12 * time.Hour) // when the period ends, by the clock
		for time.Until(noon) > -11*time.Hour {
			r := c.Request()
			want := 1
			if time.Since(noon) > 30*time.Minute {
				want = 2
			}
			if r.Err != nil || c.Fetches() != want {
				t.Fatalf("%s after noon: %d descriptors fetched, want %d; %+v", time.Since(noon), c.Fetches(), want, r)
			}
			time.Sleep(10 * time.Minute)
		}
	})
}

// C4: no descriptor is fetched while one point is not known to be bad.
func TestC4Refetch(t *testing.T) {
	onBench(t, 1, Config{Seed: 4}, func(t *testing.T, b *bench) {
		live := b.live(0)[:1]
		b.putAll(1, append(b.corpses(4, live...), live...)...)
		c := b.client()
		for range 50 {
			if r := c.Request(); r.Err != nil {
				t.Fatalf("%+v", r)
			}
			time.Sleep(time.Minute)
		}
		if c.Fetches() != 1 {
			t.Errorf("%d descriptors with a point that works", c.Fetches())
		}
		b.instances[0].ReplacePoints()
		time.Sleep(time.Minute)
		b.putAll(2, b.live(0)...)
		if r := c.Request(); r.Err != nil || r.Fetched != 1 || r.Tries < 2 {
			t.Errorf("without: %+v", r)
		}
	})
}

// C5: a fetched descriptor with a lower counter is dropped, and nobody is told; one with
// an equal or higher counter replaces the old one, whose introduction circuits end.
func TestC5Counters(t *testing.T) {
	onBench(t, 2, Config{Seed: 4}, func(t *testing.T, b *bench) {
		c := b.client()
		keys := b.keys(b.period)
		take := func(revision uint64, of int) {
			t.Helper()
			if !c.take(b.encode(b.period, revision, b.live(of)...), keys, time.Now()) {
				t.Fatal("a descriptor in order is none")
			}
		}
		holds := func(revision uint64, of int) {
			t.Helper()
			if got := c.cached; got.RevisionCounter != revision || b.net.Owner(&got.IntroductionPoints[0]) != b.instances[of] {
				t.Errorf("the client has number %d, want %d", got.RevisionCounter, revision)
			}
		}
		take(5, 0)
		holds(5, 0)
		take(4, 1)
		holds(5, 0)
		if c.Fetches() != 3-1 {
			t.Errorf("%d descriptors received", c.Fetches())
		}
		take(5, 1)
		holds(5, 1)
		take(6, 0)
		holds(6, 0)

		b.instances[0].SetOnline(false)
		var circuit introCircuit
		try := func(extended bool) {
			t.Helper()
			b.net.lock()
			defer b.net.mu.Unlock()
			if a := c.attempt(time.Now(), &circuit); a.err != nil || a.extended != extended {
				t.Errorf("%+v, want extended %t", a, extended)
			}
		}
		try(false)
		before := circuit.of
		take(7, 1)
		if circuit.of != before {
			t.Fatal("the circuit did not wait")
		}
		try(false)
	})
}

// C6: when what was fetched has no point to use, the visit fails, and no other HSDir is
// asked, though five have a good one.
func TestC6NoSecondHSDir(t *testing.T) {
	onBench(t, 1, Config{Seed: 4}, func(t *testing.T, b *bench) {
		dead := b.corpses(3)
		b.putAll(1, dead...)
		c := b.client()
		c.Request()
		b.putAll(1, b.live(0)...)
		b.put(0, 1, dead...)
		failed := 0
		for range 60 {
			c.take(b.encode(b.period, 1, dead...), b.keys(b.period), time.Now())
			switch r := c.Request(); {
			case errors.Is(r.Err, ErrNoPoint) && r.Fetched == 1 && r.Directory == fetchTime:
				failed++
			case r.Err != nil:
				t.Fatalf("%+v", r)
			}
		}
		if failed < 3 || failed > 20 {
			t.Errorf("%d of 60 visits drew the one HSDir of six that has dead points", failed)
		}
	})
}

// C7: the point is drawn over all that are not known to be bad. One that refuses is bad
// for two minutes and until that is looked up, one that no circuit reaches when the
// fifth has failed, and one that is silent never.
func TestC7Points(t *testing.T) {
	onBench(t, 4, Config{Seed: 4}, func(t *testing.T, b *bench) {
		points := []descriptor.IntroductionPoint{b.live(0)[0], b.live(1)[0], b.live(2)[0], b.live(3)[0]}
		b.putAll(1, points...)
		c := b.client()
		drawn := make(map[string]int)
		for range 600 {
			drawn[c.Request().Instance.Name()]++
		}
		even(t, "points", drawn, 4)

		b.instances[0].SetOnline(false)
		refused := func(visits int) (n int) {
			for range visits {
				n += c.Request().Refused
			}
			return n
		}
		if n := refused(50); n < 1 || n > 2 {
			t.Errorf("%d refusals in 50 visits at once, want one, and one of the point after it", n)
		}
		since := time.Now()
		time.Sleep(time.Until(since.Add(badFor)))
		if n := refused(50); n != 0 {
			t.Errorf("%d refusals within two minutes", n)
		}
		time.Sleep(cleanEvery + time.Second)
		if n := refused(50); n == 0 {
			t.Error("a bad point is never tried again")
		}

		b.instances[1].SetFrozen(true)
		silent := 0
		for range 50 {
			silent += c.Request().Silent
		}
		if silent < 10 {
			t.Errorf("a silent point was tried %d times in 50 visits: nothing marks it", silent)
		}
		b.instances[1].SetFrozen(false)
	})
}

func TestC7Unreachable(t *testing.T) {
	onBench(t, 1, Config{Seed: 4}, func(t *testing.T, b *bench) {
		live := b.live(0)[0]
		gone := b.corpses(1, live)[0]
		b.putAll(1, gone, live)
		b.net.Relay(gone.Relay().String()).Remove()
		c := b.client()
		failed := 0
		for range 100 {
			r := c.Request()
			if r.Err != nil || r.Refused != 0 {
				t.Fatalf("%+v", r)
			}
			failed += r.Tries - 1
		}
		if failed != maxUnreachable {
			t.Errorf("%d circuits failed before the point was bad, want %d", failed, maxUnreachable)
		}
	})
}

// C8: the key is the one of the descriptor's first point on the relay, from when the
// circuit is launched: so the point that the circuit goes on to after a refusal refuses
// as well, and is not blamed.
func TestC8KeyOfTheFirst(t *testing.T) {
	onBench(t, 1, Config{Seed: 4}, func(t *testing.T, b *bench) {
		live := b.live(0)
		b.putAll(1, append(b.corpses(1, live...), live...)...)
		met := 0
		for range 100 {
			r := b.client().Request()
			if r.Err != nil || r.Refused != 2*(r.Tries-1) {
				t.Fatalf("%+v, want two refusals for a dead point", r)
			}
			met += r.Tries - 1
		}
		if met == 0 {
			t.Fatal("no visit met the dead point")
		}
		// The live point is in the shadow of a dead one, and the other way round.
		shadow := b.deadAt(b.net.Relay(live[0].Relay().String()))
		b.putAll(2, live[0], shadow)
		for range 20 {
			if r := b.client().Request(); r.Err != nil || r.Tries != 1 {
				t.Errorf("the live one first: %+v", r)
			}
		}
		b.putAll(3, shadow, live[0])
		if r := b.client().Request(); !errors.Is(r.Err, ErrPatience) || r.Refused < 100 || r.Fetched != 1 {
			t.Errorf("the dead one first: %+v", r)
		}
	})
}

// C9: a request that lost its circuit waits for the next tick of a second, and two
// minutes end it.
func TestC9Tick(t *testing.T) {
	onBench(t, 1, Config{Seed: 4}, func(t *testing.T, b *bench) {
		b.putAll(1, b.corpses(1)...)
		var sum, longest time.Duration
		const visits = 200
		for range visits {
			r := b.client().Request()
			if wait := r.Took - 2*fetchTime - refusalTime; !errors.Is(r.Err, ErrNoPoint) || r.Refused != 1 || wait < 0 || wait > retryTick {
				t.Fatalf("%+v", r)
			} else {
				sum += wait
				longest = max(longest, wait)
			}
		}
		if mean := sum / visits; mean < retryTick*4/10 || mean > retryTick*6/10 || longest < retryTick*9/10 {
			t.Errorf("waits of %s on average, %s at most", mean, longest)
		}
		b.putAll(2, b.live(0)...)
		b.instances[0].SetFrozen(true)
		if r := b.client().Request(); !errors.Is(r.Err, ErrPatience) || r.Took <= socksTimeout || r.Took > socksTimeout+silenceTime {
			t.Errorf("with tor's patience: %+v", r)
		}
	})
}
