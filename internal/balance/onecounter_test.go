package balance

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/testnet/sim"
)

// ordeal is a service to which things happen, with what was seen of its uploads.
type ordeal struct {
	*scene
	given  map[which]map[[20]byte]bool // which HSDirs each edition was handed to the queue for
	halves []string                    // editions that some slots of the ring did not get
	off    []bool                      // instances
}

// watch is an Uploader that sees for which slots each edition is.
type watch struct {
	Uploader
	of *ordeal
}

// Upload is called by the loop of the service, which holds its lock.
func (w watch) Upload(u hsdir.Upload) {
	o := w.of
	e := o.service.state.Editions[u.Period]
	given := o.given[e.which()]
	if given == nil {
		given = map[[20]byte]bool{}
		o.given[e.which()] = given
	}
	for _, at := range u.Slots {
		given[at.HSDir] = true
	}
	for _, t := range o.service.plan.Targets {
		for _, at := range t.Slots {
			if t.Keys.Period == u.Period && e.slot(at.HSDir) != nil && !given[at.HSDir] {
				o.halves = append(o.halves, fmt.Sprintf("the edition of %q is not for %x", e.Reason, at.HSDir[:3]))
			}
		}
	}
	w.Uploader.Upload(u)
}

// A trial is something that happens to a service, and how long until the next.
type trial struct {
	What  string
	N     int
	After time.Duration
}

// of returns the nth HSDir of the service, of both descriptors.
func (o *ordeal) of(n int) *sim.Relay {
	var all []hsdir.Slot
	for _, t := range o.service.Plan().Targets {
		all = append(all, t.Slots...)
	}
	if len(all) == 0 {
		return nil
	}
	return o.net.Relay(hsdir.Relay{Fingerprint: all[n%len(all)].HSDir}.Hex())
}

var trials = map[string]func(o *ordeal, n int){
	"points": func(o *ordeal, n int) { o.instances[n%len(o.instances)].ReplacePoints() },
	"instance": func(o *ordeal, n int) {
		n %= len(o.instances)
		o.off[n] = !o.off[n]
		o.instances[n].SetOnline(!o.off[n])
	},
	"silent":  func(o *ordeal, n int) { o.fault(n, sim.Faults{Silent: true}) },
	"refuses": func(o *ordeal, n int) { o.fault(n, sim.Faults{RejectUploads: true}) },
	"refused": func(o *ordeal, n int) {
		o.fault(n, sim.Faults{RejectUploads: true})
		o.instances[n%len(o.instances)].ReplacePoints()
		o.settle(2 * time.Minute)
	},
	"mended": func(o *ordeal, n int) { o.fault(n, sim.Faults{}) },
	"wiped": func(o *ordeal, n int) {
		if r := o.of(n); r != nil {
			r.Wipe()
		}
	},
	"leaves": func(o *ordeal, n int) {
		if r := o.of(n); r != nil {
			r.Remove()
		}
	},
	"hour":    func(o *ordeal, _ int) { o.settle(time.Hour) },
	"restart": func(o *ordeal, _ int) { o.restart() },
	"record lost": func(o *ordeal, n int) {
		o.broken = errors.New("the store does not answer")
		o.restart()
		o.broken = nil
		o.settle(time.Duration(n%200) * time.Second)
		o.store.fail(nil)
	},
	"store hangs": func(o *ordeal, n int) {
		release := o.store.hang()
		o.instances[n%len(o.instances)].ReplacePoints()
		o.settle(time.Duration(n%100) * time.Second)
		release()
	},
	"store fails": func(o *ordeal, n int) {
		o.store.fail(errors.New("the disk is full"))
		o.instances[n%len(o.instances)].ReplacePoints()
		o.settle(time.Duration(n%100) * time.Second)
		o.store.fail(nil)
	},
	"clock": func(o *ordeal, n int) { o.step(time.Duration(n%301-150) * time.Minute) },
	"other manager": func(o *ordeal, n int) {
		a := o.custodian.Address()
		stored, version, err := o.store.DB.Service(a)
		if err != nil {
			o.t.Fatal(err)
		}
		for k := range stored.Ceilings {
			stored.Ceilings[k].Counter += uint64(n) << 14
		}
		if _, err := o.store.DB.SwapService(o.t.Context(), a, version, stored); err != nil {
			o.t.Fatal(err)
		}
	},
	"tor": func(o *ordeal, n int) { o.net.Tor().Restart(time.Duration(n%300)*time.Second, time.Minute) },
}

func (o *ordeal) fault(n int, f sim.Faults) {
	if r := o.of(n); r != nil {
		r.SetFaults(f)
	}
}

// errGone says that the consensus has an HSDir that is gone.
var errGone = errors.New("an HSDir is gone, and the consensus does not say so")

// rest mends everything, and waits until all HSDirs of each descriptor hold the
// counter of the last edition: not for so long that a refresh would do that. An HSDir
// that refuses is left alone for half an hour.
func (o *ordeal) rest() error {
	for _, r := range o.net.Relays() {
		r.SetFaults(sim.Faults{})
	}
	for _, i := range o.instances {
		i.SetOnline(true)
	}
	o.step(-o.skew)
	var why error
	for waited := 0; waited < 35; waited++ {
		if why = o.atRest(); why == nil {
			return nil
		}
		if errors.Is(why, errGone) {
			waited = 0
		}
		o.settle(time.Minute)
	}
	return why
}

func (o *ordeal) atRest() error {
	s := o.service
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.plan.Targets) != 2 {
		return errors.New("there is no plan")
	}
	for _, t := range s.plan.Targets {
		e := s.state.Editions[t.Keys.Period]
		if e == nil {
			return fmt.Errorf("the %s descriptor is not published", t.Role)
		}
		for _, at := range t.Slots {
			is := e.slot(at.HSDir)
			r := o.net.Relay(hsdir.Relay{Fingerprint: at.HSDir}.Hex())
			if r == nil || !r.Running() {
				return errGone
			}
			_, revision := r.Stored(t.Keys.Blinded)
			wiped := revision == 0 // which a single one may say that lies
			if is == nil || is.confirmed.IsZero() || revision != e.Revision && !wiped {
				return fmt.Errorf("slot %x of the %s descriptor has counter %d, and the edition %d for %q (%+v)", at.HSDir[:3], t.Role, revision, e.Revision, e.Reason, is)
			}
		}
	}
	return nil
}

// undergo runs trials on a service, which may reserve its counters, and says what is wrong
// afterwards.
func undergo(t *testing.T, seed uint64, reserve time.Duration, list []trial) (wrong error) {
	fewer := map[string]int32{"hsdir_spread_store": 3, "hsdir_spread_fetch": 2}
	onSceneOf(t, sim.Config{Seed: seed, Relays: 24, Params: fewer, Tor: sim.TorConfig{ConsensusDelay: 2 * time.Minute}}, make([]sim.InstanceConfig, 5), func(t *testing.T, s *scene) {
		o := &ordeal{scene: s, given: map[which]map[[20]byte]bool{}, off: make([]bool, len(s.instances))}
		s.stop()
		s.custody = func(cfg *Config) { cfg.Room.Points, cfg.Resume = 4, reserve > 0 } // of 15: slots hold different ones
		s.prepare = func() {
			x := watch{s.env.Uploads(descriptor.Address{}), o}
			s.env.Uploads = func(descriptor.Address) Uploader { return x }
			s.env.Reserve = reserve
		}
		s.start()
		s.fetchEvery(10 * time.Minute)
		s.settle(20 * time.Second)
		for _, tr := range list {
			trials[tr.What](o, tr.N)
			s.settle(tr.After)
		}
		wrong = o.rest()
		if len(o.halves) > 0 {
			wrong = errors.New(o.halves[0])
		}
		if len(o.given) == 0 && reserve == 0 { // else it may go on from the record all the time
			t.Error("nothing was uploaded: the test shows nothing")
		}
	})
	return wrong
}

// Whatever happens, and in whatever order: every edition is for all slots, and in the
// end all of them hold the counter of the last one.
func TestOneCounter(t *testing.T) {
	t.Parallel()
	for _, reserve := range []time.Duration{0, time.Hour} {
		t.Run(reserve.String(), func(t *testing.T) { oneCounter(t, reserve) })
	}
}

func oneCounter(t *testing.T, reserve time.Duration) {
	t.Helper()
	kinds := make([]string, 0, len(trials))
	for what := range trials {
		kinds = append(kinds, what)
	}
	slices.Sort(kinds)
	cases := 30
	if soaking() {
		cases = 3000
	}
	checks := flag.Lookup("rapid.checks")
	before := checks.Value.String()
	_ = checks.Value.Set(fmt.Sprint(cases))
	defer func() { _ = checks.Value.Set(before) }()
	rapid.Check(t, func(rt *rapid.T) {
		list := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) trial {
			return trial{rapid.SampledFrom(kinds).Draw(rt, "what"), rapid.IntRange(0, 9999).Draw(rt, "n"),
				time.Duration(rapid.IntRange(0, 3000).Draw(rt, "seconds")) * time.Second / time.Duration(rapid.IntRange(1, 300).Draw(rt, "part"))}
		}), 1, 12).Draw(rt, "trials")
		if err := undergo(t, rapid.Uint64Range(1, 1000).Draw(rt, "seed"), reserve, list); err != nil {
			rt.Fatalf("%v: %v", list, err)
		}
	})
}

// An HSDir that lost what the others hold confirms a counter that is too low for them. Here
// they hold one that is far ahead, of which the store did not hear.
func TestLowCounterConfirmedOnce(t *testing.T) {
	t.Parallel()
	list := []trial{
		{"clock", 0, 15 * time.Second}, {"wiped", 4692, 39 * time.Second}, {"wiped", 20, 18 * time.Second},
		{"store fails", 1, 142 * time.Second}, {"clock", 6178, 20 * time.Second}, {"instance", 217, 0},
		{"record lost", 1141, 0}, {"silent", 745, time.Second}, {"refused", 328, 25 * time.Second},
		{"record lost", 13, 4 * time.Second}, {"clock", 4575, 5 * time.Second}, {"wiped", 77, 0},
	}
	if err := undergo(t, 1, 0, list); err != nil {
		t.Error(err)
	}
}
