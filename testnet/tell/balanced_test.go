package tell

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/daemon"
	"onionbalancer/internal/event"
	"onionbalancer/internal/state"
	"onionbalancer/internal/tor"
	"onionbalancer/internal/tor/control"
	"onionbalancer/keystore"
	"onionbalancer/selection"
	"onionbalancer/testnet/sim"
)

// simulation is a network with services of a balancer beside ordinary ones, whose
// descriptors are followed when it has run for some hours.
type simulation struct {
	days, services, plain, instances int
	fetchEvery                       time.Duration // of the instances
	consensus                        time.Duration // the delay of our tor's; 0: as any tor
	ordinary                         bool

	from, to time.Time
	ours     []*followed // of one service each
	tor      *followed
}

const simChurn = 0.01 // of the relays, in an hour

func (s *simulation) run(t *testing.T, seed uint64) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := sim.New(sim.Config{Seed: seed, Relays: 150, Churn: 24 * simChurn, Tor: sim.TorConfig{ConsensusDelay: s.consensus}})
		defer n.Close()
		var backends []*sim.Instance
		for range s.instances {
			backends = append(backends, n.AddInstance(sim.InstanceConfig{}))
		}
		s.tor = &followed{simulated: true}
		for range s.plain {
			s.tor.add(n.AddInstance(sim.InstanceConfig{}).Key())
		}
		time.Sleep(2 * time.Minute) // until the instances are published
		defer s.start(t, n, backends)()
		n.OnUpload(func(r sim.Received) {
			s.tor.note(t, r)
			for _, f := range s.ours {
				f.note(t, r)
			}
		})
		s.from = time.Now().Truncate(time.Hour).Add(6 * time.Hour)
		s.to = s.from.Add(time.Duration(s.days) * 24 * time.Hour)
		time.Sleep(time.Until(s.to))
	})
}

// followed are services whose uploads are noted.
type followed struct {
	simulated   bool // services, whose descriptors are made when somebody looks at them
	keys        []*descriptor.IdentityKey
	descriptors map[descriptor.BlindedPublicKey]*followedDescriptor // of all periods so far
	until       time.Time                                           // for which there are descriptors
	uploads     []Upload
	samples     []*Sample // of each version, once 8 HSDirs have it
	decoder     descriptor.Decoder
}

// followedDescriptor is one of them, with its last version.
type followedDescriptor struct {
	key    *descriptor.IdentityKey
	keys   descriptor.PeriodKeys
	at     time.Time // of its first upload
	bodies [][]byte  // as they were uploaded
	points []string
	before []byte // the version before it
}

func (f *followed) add(key *descriptor.IdentityKey) { f.keys = append(f.keys, key) }

// note takes an upload, if it is of one of the services.
func (f *followed) note(t *testing.T, r sim.Received) {
	d := f.find(t, r.Blinded, r.At)
	if d == nil {
		return
	}
	u := Upload{At: r.At, Descriptor: string(r.Blinded[:]), HSDir: r.By.Fingerprint()}
	if f.simulated && len(d.bodies) > 0 && r.At.Sub(d.at) < together {
		u.Bytes, u.Points = len(d.bodies[0]), d.points // the same again
		f.uploads = append(f.uploads, u)
		return
	}
	body := bytes.Clone(r.Body())
	if len(d.bodies) > 0 && revision(d.bodies[0]) != revision(body) {
		d.before, d.bodies = d.bodies[0], nil
	}
	if d.bodies = append(d.bodies, body); len(d.bodies) == 1 {
		d.at, d.points = r.At, nil
		got, err := f.decoder.Decode(body, d.keys, nil, r.At)
		if err != nil {
			t.Error(err)
			return
		}
		for _, p := range got.IntroductionPoints {
			d.points = append(d.points, string(p.AuthKey[:]))
		}
	}
	u.Bytes, u.Points = len(body), d.points
	f.uploads = append(f.uploads, u)
	if len(d.bodies) == 8 {
		f.samples = append(f.samples, f.sample(t, d))
	}
}

func (f *followed) find(t *testing.T, b descriptor.BlindedPublicKey, at time.Time) *followedDescriptor {
	if f.descriptors == nil {
		f.descriptors, f.until = make(map[descriptor.BlindedPublicKey]*followedDescriptor), at.Add(-72*time.Hour)
	}
	for ; f.until.Before(at.Add(72 * time.Hour)); f.until = f.until.Add(24 * time.Hour) {
		for _, key := range f.keys {
			keys, err := key.Address().Keys(descriptor.PeriodAt(f.until, descriptor.DefaultPeriodLength, 12*time.Hour))
			if err != nil {
				t.Fatal(err)
			}
			f.descriptors[keys.Blinded] = &followedDescriptor{key: key, keys: keys}
		}
	}
	return f.descriptors[b]
}

// sample is the last version of a descriptor.
func (f *followed) sample(t *testing.T, d *followedDescriptor) *Sample {
	blinded, err := d.key.Blind(d.keys.Period)
	if err != nil {
		t.Fatal(err)
	}
	defer blinded.Wipe()
	// Its shared-random run begins half a day before its period.
	run := d.keys.Period.Start(12 * time.Hour).Add(-12 * time.Hour)
	s := &Sample{Address: d.keys.Address, Period: d.keys.Period, RunStart: run, Counter: blinded.RevisionKey(), Bodies: d.bodies, Before: d.before}
	for _, p := range []descriptor.Period{d.keys.Period.Previous(), d.keys.Period.Next()} { // the next, once there is one
		keys, err := d.keys.Address.Keys(p)
		if err != nil {
			t.Fatal(err)
		}
		if other := f.descriptors[keys.Blinded]; other != nil && len(other.bodies) > 0 {
			s.Other, s.OtherPeriod = other.bodies[0], p
		}
	}
	return s
}

// start starts the balancer.
func (s *simulation) start(t *testing.T, n *sim.Network, backends []*sim.Instance) (stop func()) {
	store, err := state.Open(t.TempDir(), state.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	client := control.New(control.Config{Dial: n.Dial})
	rooms := daemon.NewRooms(tor.NewPool(tor.New("tor", client)), nil, store, nil, func(event.Event) {}, 0)
	env := rooms.Env(store, func(event.Event) {})
	var services []*balance.Service
	for number := range s.services {
		identity, keys := diskKeys(t, number)
		s.ours = append(s.ours, new(followed))
		s.ours[number].add(identity)
		cfg := balance.Config{Keys: keys, FetchEvery: s.fetchEvery, Strategy: selection.Spread{}, Room: selection.Room{Points: 20, PerInstance: 3}}
		for i, b := range backends {
			cfg.Instances = append(cfg.Instances, balance.Instance{Name: fmt.Sprintf("web%d", i+1), Address: b.Address(), Weight: 1})
		}
		if s.ordinary {
			cfg.Ordinary, cfg.Room.Points = true, selection.OrdinaryPoints
		}
		services = append(services, balance.NewService(cfg, env))
	}
	ctx, cancel := context.WithCancel(t.Context())
	var shared, running sync.WaitGroup
	shared.Go(func() {
		rooms.Run(ctx, func() {
			for _, service := range services {
				service.Moved()
			}
		})
	})
	for _, service := range services {
		running.Go(func() { service.Run(ctx) })
	}
	return func() {
		cancel()
		running.Wait()
		rooms.Close()
		shared.Wait()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}
}

// diskKeys are those of the service of a number, its identity in a file.
func diskKeys(t *testing.T, number int) (*descriptor.IdentityKey, credential.Keys) {
	identity, err := descriptor.IdentityKeyFromSeed(binary.BigEndian.AppendUint64(make([]byte, 24), uint64(number)+1))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "hs_ed25519_secret_key")
	if err := os.WriteFile(path, append([]byte("== ed25519v1-secret: type0 ==\x00\x00\x00"), identity.Expanded()...), 0o600); err != nil {
		t.Fatal(err)
	}
	disk, err := keystore.OpenDisk(path)
	if err != nil {
		t.Fatal(err)
	}
	return identity, credential.Keys{Custodian: disk, Signing: credential.Memory{}, Reference: "disk"}
}

// habits are those of the ordinary services together and of each of ours.
func (s *simulation) habits() (tor Habits, ours []Habits) {
	for _, f := range s.ours {
		ours = append(ours, HabitsOf(f.uploads, s.from, s.to))
	}
	return HabitsOf(s.tor.uploads, s.from, s.to), ours
}

// versionsOfTor are the features of two versions of a descriptor, which the archive does
// not have: its keys and what authorizes clients are made once, and the certificates and
// the counter for each version (hs_service.c, refresh_service_descriptor).
var versionsOfTor = func() Features {
	f := make(Features)
	for name, value := range map[string]bool{
		"one signing key": true, "one first layer": true, "a higher counter": true, "an earlier expiry": false,
		"another certificate of one expiry": false, "one salt": false, "one number of points": true, "what stays keeps its order": true,
	} {
		f.word("versions: "+name, value)
	}
	return f
}()

// departures counts, for each feature that real tor's descriptors have with one value
// alone, how many of ours have another.
func (s *simulation) departures(t *testing.T) (counts map[string]int, measured int) {
	constants := Constants(archived(t).lot)
	maps.Copy(constants, versionsOfTor)
	counts = make(map[string]int)
	var measure []*Sample
	for _, f := range s.ours {
		measure = append(measure, f.samples...)
	}
	if !soaking() {
		measure = measure[:min(len(measure), 30)]
	}
	lot := measureAll(t, measure)
	for _, f := range lot {
		for _, name := range f.Departures(constants) {
			counts[name]++
		}
	}
	return counts, len(lot)
}

// TestOrdinaryMonth: with the profile, nothing but the points' lives tells a balancer's
// service, which is followed for a month at all of its HSDirs, from ordinary ones: not when
// it uploads, and not what, in any version. Without make soak, the month is a day.
//
// Lives of points are left out: instances show clients the points of one of their two
// descriptors alone, which is half a day old when that begins. So of the points that are
// to be had, fewer live on for 18 hours than of those that a tor makes when it needs one.
// So there are some more versions, too: a month of several services together may show it
// in the hours between versions.
func TestOrdinaryMonth(t *testing.T) {
	for name, delay := range map[string]time.Duration{"a tor as any": 0, "a tor that fetches the consensus early": 3 * time.Minute} {
		if delay == 0 && !soaking() {
			continue
		}
		t.Run(name, func(t *testing.T) {
			s := simulation{days: 1, services: 1, plain: 2, instances: 8, fetchEvery: 15 * time.Minute, consensus: delay, ordinary: true}
			if soaking() {
				s.days, s.services, s.plain, s.instances, s.fetchEvery = 30, 3, 6, 12, 5*time.Minute
			}
			s.run(t, 4)
			tor, ours := s.habits()
			pooled := make(Habits)
			for n, habits := range ours {
				t.Logf("service %d: points that lived for 18 hours: %.0f %% of tor's, %.0f %% of its", n+1, 100*long(tor), 100*long(habits))
				report := CompareHabits(tor, habits)
				for _, f := range report {
					t.Log(f)
				}
				for _, f := range report.Tells(habitAlpha / float64(len(ours))) {
					if f.Feature != "hours of a point" {
						t.Errorf("service %d is told by %v", n+1, f)
					}
				}
				for name, values := range habits {
					pooled[name] = append(pooled[name], values...)
				}
			}
			t.Logf("who knew that all of them are balancers would tell them by %v", CompareHabits(tor, pooled).Tells(habitAlpha))
			if counts, measured := s.departures(t); len(counts) > 0 || measured < 15 {
				t.Errorf("of %d versions, so many differ from real tor's: %v", measured, counts)
			}
		})
	}
}

// long is the part of the points that lived for 18 hours or more.
func long(h Habits) float64 {
	n := 0
	for _, hours := range h["hours of a point"] {
		if hours >= 18 {
			n++
		}
	}
	return float64(n) / float64(len(h["hours of a point"]))
}

// TestBalancedIsTold: without the profile, a balancer is told by its uploads, and by what
// is in them.
func TestBalancedIsTold(t *testing.T) {
	s := simulation{days: 2, services: 1, plain: 2, instances: 5, fetchEvery: 30 * time.Minute}
	s.run(t, 1)
	told := make(map[string]bool)
	tor, ours := s.habits()
	for _, f := range CompareHabits(tor, ours[0]).Tells(habitAlpha) {
		told[f.Feature] = true
	}
	for _, want := range []string{"bytes", "points", "hours between versions"} {
		if !told[want] {
			t.Errorf("not told by %s", want)
		}
	}
	counts, measured := s.departures(t)
	for _, want := range []string{"points", "outer: bytes", "pair: points in both"} {
		if counts[want] == 0 {
			t.Errorf("no descriptor of %d differs in %q: %v", measured, want, counts)
		}
	}
}
