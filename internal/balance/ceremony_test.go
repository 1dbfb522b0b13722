package balance

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/status"
	"onionbalancer/keystore/offline"
	"onionbalancer/testnet/sim"
)

// ceremonies are those for a scene's service: the manager's directory, and a
// clock of the offline machine that is wrong.
type ceremonies struct {
	s      *scene
	dir    string
	behind time.Duration
}

// newCeremonies makes the directory, and starts the service again with it.
func newCeremonies(s *scene) *ceremonies {
	c := &ceremonies{s: s, dir: filepath.Join(s.t.TempDir(), "front.offline"), behind: 37 * time.Minute}
	c.prepare(1)
	s.custody = func(cfg *Config) {
		custodian, err := offline.Open(c.dir)
		if err != nil {
			s.t.Fatal(err)
		}
		cfg.Keys, cfg.FetchEvery = credential.Keys{Custodian: custodian, Signing: custodian, Reference: c.dir, Form: "offline"}, time.Hour
	}
	return c
}

func (c *ceremonies) prepare(periods int) *offline.Request {
	c.s.t.Helper()
	now := c.s.now()
	first := offline.Public.InUse(now).Number
	wanted, err := offline.Prepare(context.Background(), offline.Preparation{
		Dir: c.dir, Address: c.s.custodian.Address(), Schedule: offline.Public, First: first, Count: periods,
	})
	if err != nil {
		c.s.t.Fatal(err)
	}
	request, err := offline.NewRequest(now, offline.Public, first, []offline.Wanted{wanted})
	if err != nil {
		c.s.t.Fatal(err)
	}
	return request
}

// hold is a whole ceremony, with the files carried to and fro.
func (c *ceremonies) hold(periods int) offline.Installed {
	c.s.t.Helper()
	paper, err := c.prepare(periods).Encode()
	if err != nil {
		c.s.t.Fatal(err)
	}
	request, err := offline.ParseRequest(paper)
	if err != nil {
		c.s.t.Fatal(err)
	}
	bundle, err := request.Sign([]*descriptor.IdentityKey{c.s.custodian.key}, c.s.now().Add(-c.behind))
	if err != nil {
		c.s.t.Fatal(err)
	}
	if paper, err = bundle.Encode(); err == nil {
		bundle, err = offline.ParseBundle(paper)
	}
	if err != nil {
		c.s.t.Fatal(err)
	}
	list, err := offline.Install([]string{c.dir}, []*offline.Bundle{bundle}, c.s.now())
	if err != nil {
		c.s.t.Fatal(err)
	}
	return list[0]
}

// ceremonyNetwork is small, for two months to take less than a minute.
func ceremonyNetwork(seed uint64) sim.Config {
	few := map[string]int32{"hsdir_n_replicas": 1, "hsdir_spread_store": 1, "hsdir_spread_fetch": 1}
	return sim.Config{Seed: seed, Relays: 14, Params: few, Tor: sim.TorConfig{ConsensusDelay: 3 * time.Minute}}
}

// Two months on one ceremony of 60 periods and another before it ran out. Our
// clock is wrong by hours, and so are the clients', some of which keep the
// descriptor that they have as long as they can.
func TestCeremonyTwoMonths(t *testing.T) {
	if !soaking() {
		t.Skip("two months are for make soak")
	}
	onSceneOf(t, ceremonyNetwork(61), []sim.InstanceConfig{{IntroductionPoints: 2, PointLife: 60 * time.Hour}}, func(t *testing.T, s *scene) {
		s.stop()
		c := newCeremonies(s)
		if got := c.hold(60); got.New != 60 || len(got.Warnings) > 0 {
			t.Fatalf("installed %+v", got)
		}
		s.start()
		s.settle(time.Minute)
		var clients []*sim.Client
		for _, ahead := range []time.Duration{0, 14*time.Hour + 30*time.Minute, -3 * time.Hour, -20 * time.Hour} {
			clients = append(clients, s.net.NewClient(s.custodian.Address(), sim.ClientConfig{ClockOffset: ahead}))
		}
		forgetful := s.client() // fetches for each request
		// How far our clock is ahead from a day on. Two hours are what the
		// certificates' life allows for.
		ahead := map[int]time.Duration{5: 110 * time.Minute, 12: -110 * time.Minute, 18: -5 * time.Hour, 26: 5 * time.Hour, 32: 3 * time.Hour, 34: -3 * time.Hour, 44: 30 * time.Minute, 52: -30 * time.Minute}
		lost, requests := 0, 0
		for day := range 62 {
			s.step(ahead[day])
			switch day {
			case 3, 41:
				s.restart()
			case 42:
				if warnings := s.service.Status().Warnings; len(warnings) == 0 {
					t.Error("no warning though less than a third is left")
				}
				if got := c.hold(60); got.New == 0 || got.Through-offline.Public.At(s.now()).Number < 58 {
					t.Errorf("installed %+v", got)
				}
			case 10, 17, 43, 60:
				s.want("in the midst of it", status.StateOK)
			}
			for range 8 {
				forgetful.Forget()
				for i, client := range append(clients, forgetful) {
					requests++
					if r := client.Request(); r.Err != nil {
						lost++
						t.Logf("%s, client %d: %v", time.Now().Format("2006-01-02 15:04"), i, r.Err)
					}
				}
				s.settle(3*time.Hour + 7*time.Second)
			}
		}
		counts := s.net.Tor().Counts()
		t.Logf("%d requests, %d lost; %d uploads of which %d refused", requests, lost, counts.Posts, counts.Rejected)
		if lost > 0 {
			t.Errorf("%d of %d requests lost", lost, requests)
		}
		if counts.Rejected > 0 {
			t.Errorf("%d uploads were refused", counts.Rejected)
		}
		// Two descriptors of two slots, made again every one to two hours, and
		// whenever relays change.
		if counts.Posts > 62*24*4*2 {
			t.Errorf("%d uploads", counts.Posts)
		}
		c.wantPruned()
		s.want("in the end", status.StateOK)
	})
}

// wantPruned fails unless the keys and certificates of the past are gone.
func (c *ceremonies) wantPruned() {
	c.s.t.Helper()
	d, err := offline.Describe(c.dir)
	if err != nil {
		c.s.t.Fatal(err)
	}
	oldest := offline.Public.InUse(time.Now()).Number
	if len(d.Keys) != 1 || d.Keys[0].First != oldest || len(d.Certified) != 1 || d.Certified[0].First != oldest {
		c.s.t.Errorf("in use since %d, kept are keys %+v and certificates %+v", oldest, d.Keys, d.Certified)
	}
}

// Without a ceremony in time the last descriptor stays in place, loudly, and
// the next ceremony fixes it.
func TestCeremonyForgotten(t *testing.T) {
	t.Parallel()
	onSceneOf(t, ceremonyNetwork(62), []sim.InstanceConfig{{IntroductionPoints: 2, PointLife: 60 * time.Hour}}, func(t *testing.T, s *scene) {
		s.stop()
		c := newCeremonies(s)
		s.start()
		s.settle(time.Minute)
		s.wantWarning("before the first ceremony", "no certificates are installed")
		got := c.hold(2)
		s.settle(10 * time.Minute)
		s.want("after the first ceremony", status.StateOK)
		s.reach("after the first ceremony", 3)
		// The next period's descriptor cannot be made, and clients need none yet.
		last := offline.Public.Period(got.Through)
		s.settle(time.Until(offline.Public.FirstUse(last.Number + 1).Add(time.Hour)))
		s.wantWarning("half a period before the end", "ended with period")
		s.want("half a period before the end", status.StateDegraded)
		s.reach("half a period before the end", 3)
		s.settle(time.Until(got.Until.Add(-time.Minute)))
		s.reach("a minute before the end", 3)
		// The end: HSDirs keep what they have, and we keep it there.
		s.settle(6 * time.Hour)
		s.wantWarning("after the end", "ended with period")
		s.want("after the end", status.StateFailed)
		if held := s.holders(last); held == 0 {
			t.Error("the last descriptor was taken away")
		}
		if r := s.client().Request(); r.Err == nil {
			t.Error("a client found a descriptor of a period without certificates")
		}
		s.settle(12 * time.Hour)
		s.wantWarning("long after the end", "ended with period")
		if got := c.hold(4); len(got.Warnings) > 0 {
			t.Errorf("installed %+v", got)
		}
		s.settle(6 * time.Minute) // it tries every five
		s.want("after another ceremony", status.StateOK)
		s.reach("after another ceremony", 5)
		if counts := s.net.Tor().Counts(); counts.Rejected > 0 {
			t.Errorf("%d uploads were refused", counts.Rejected)
		}
	})
}

// wantWarning fails unless a warning says the words.
func (s *scene) wantWarning(when, words string) {
	s.t.Helper()
	if warnings := s.service.Status().Warnings; !strings.Contains(strings.Join(warnings, "\n"), words) {
		s.t.Errorf("%s: the warnings are %q", when, warnings)
	}
}

// holders counts the relays that have a descriptor of p.
func (s *scene) holders(p descriptor.Period) (n int) {
	s.t.Helper()
	blinded, err := s.custodian.Address().Blind(p)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, r := range s.net.Relays() {
		if body, _ := r.Stored(blinded); body != nil {
			n++
		}
	}
	return n
}
