package sim

import (
	"errors"
	"slices"
	"testing"
	"time"

	"onionbalancer/descriptor"
)

// A frozen instance's points acknowledge for ever and are never found bad, and it
// goes on with them when it thaws.
func TestFrozen(t *testing.T) {
	inNetwork(t, Config{Seed: 4}, func(t *testing.T, n *Network) {
		i := n.AddInstance(InstanceConfig{})
		time.Sleep(time.Minute)
		patient := n.NewClient(i.Address(), ClientConfig{})
		visitor := n.NewClient(i.Address(), ClientConfig{Patience: 30 * time.Second})
		for _, c := range []*Client{patient, visitor} {
			if r := c.Request(); r.Err != nil || r.Took > 3*time.Second {
				t.Fatalf("at first: %+v", r)
			}
		}
		before := decode(t, n, i, nil).RevisionCounter
		i.SetFrozen(true)
		for range 2 { // the second time as the first
			if r := visitor.Request(); !errors.Is(r.Err, ErrPatience) || r.Silent != 4 || r.Took > 45*time.Second {
				t.Errorf("with 30 s of patience: %+v", r)
			}
			if r := patient.Request(); !errors.Is(r.Err, ErrPatience) || r.Silent < 10 || r.Fetched != 0 {
				t.Errorf("with tor's patience: %+v", r)
			}
		}
		time.Sleep(150 * time.Minute)
		if now := decode(t, n, i, nil).RevisionCounter; now != before {
			t.Error("a frozen instance uploads")
		}
		i.SetFrozen(false)
		if r := visitor.Request(); r.Err != nil || r.Tries != 1 || r.Fetched != 0 {
			t.Errorf("when it thaws: %+v", r)
		}
		time.Sleep(time.Minute)
		if now := decode(t, n, i, nil).RevisionCounter; now == before {
			t.Error("no upload makes up for the one it missed")
		}
	})
}

// A day and a half of sleep leaves neither descriptor of use: there are new ones
// soon after.
func TestFrozenForLong(t *testing.T) {
	inNetwork(t, Config{Seed: 4}, func(t *testing.T, n *Network) {
		i := n.AddInstance(InstanceConfig{})
		for _, hours := range []time.Duration{13, 30, 60} {
			time.Sleep(time.Minute)
			i.SetFrozen(true)
			time.Sleep(hours * time.Hour)
			i.SetFrozen(false)
			time.Sleep(10 * time.Minute)
			if r := n.NewClient(i.Address(), ClientConfig{}).Request(); r.Err != nil || r.Tries != 1 {
				t.Errorf("after %d hours: %+v", hours, r)
			}
		}
	})
}

// A lost network is as good as a freeze until relays notice; then they refuse, and
// the instance that comes back needs new points.
func TestCut(t *testing.T) {
	inNetwork(t, Config{Seed: 4}, func(t *testing.T, n *Network) {
		i := n.AddInstance(InstanceConfig{})
		time.Sleep(time.Minute)
		client := n.NewClient(i.Address(), ClientConfig{Patience: 30 * time.Second})
		first, _ := i.descriptors()
		points := authKeys(first)
		i.SetCut(true)
		time.Sleep(14 * time.Minute)
		if r := client.Request(); !errors.Is(r.Err, ErrPatience) || r.Silent != 4 {
			t.Errorf("before relays notice: %+v", r)
		}
		i.SetCut(false)
		if r := client.Request(); r.Err != nil || r.Tries != 1 || !slices.Equal(authKeys(first), points) {
			t.Errorf("after a short cut: %+v, want the same points", r)
		}
		i.SetCut(true)
		time.Sleep(16 * time.Minute)
		if r := client.Request(); !errors.Is(r.Err, ErrNoPoint) || r.Tries != 3 || r.Silent != 0 || r.Took > 6*time.Second {
			t.Errorf("when relays have noticed: %+v", r)
		}
		i.SetCut(false)
		time.Sleep(time.Minute)
		if r := client.Request(); r.Err != nil || r.Fetched != 1 || slices.Contains(authKeys(first), points[0]) {
			t.Errorf("after a long cut: %+v, want new points", r)
		}
		i.SetCut(true)
		i.SetOnline(false)
		i.SetOnline(true)
		time.Sleep(time.Hour)
		if r := client.Request(); !errors.Is(r.Err, ErrNoPoint) {
			t.Errorf("started without a network: %+v", r)
		}
		i.SetCut(false)
		time.Sleep(time.Minute)
		if r := client.Request(); r.Err != nil {
			t.Errorf("and with one: %+v", r)
		}
	})
}

// Clients of the public address meet what is wrong with an instance; those of its
// own address need not.
func TestUnlistedAndWithoutApplication(t *testing.T) {
	inNetwork(t, Config{Seed: 4}, func(t *testing.T, n *Network) {
		i := n.AddInstance(InstanceConfig{})
		time.Sleep(time.Minute)
		c := &copier{service: newService(t, n), instances: []*Instance{i}}
		c.round()
		own := n.NewClient(i.Address(), ClientConfig{})
		public := n.NewClient(c.key.Address(), ClientConfig{})
		check := func(what string, wantOwn, wantPublic error) {
			t.Helper()
			if r := own.Request(); !errors.Is(r.Err, wantOwn) {
				t.Errorf("%s, at its own address: %+v", what, r)
			}
			if r := public.Request(); !errors.Is(r.Err, wantPublic) {
				t.Errorf("%s, at the public address: %+v", what, r)
			}
		}
		check("at first", nil, nil)
		i.SetListed(c.key.Address(), false)
		check("without its line", nil, ErrPatience)
		i.SetListed(c.key.Address(), true)
		i.SetApplication(nil)
		check("without its application", ErrApplication, ErrApplication)
		i.SetApplication(Web)
		check("in the end", nil, nil)
	})
}

// The wait for HSDirs is told apart from that for the service.
func TestSilentHSDirs(t *testing.T) {
	inNetwork(t, Config{Seed: 4}, func(t *testing.T, n *Network) {
		i := n.AddInstance(InstanceConfig{})
		time.Sleep(time.Minute)
		dirs, _, err := n.Responsible(i.Address())
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range slices.Concat(dirs[:3], dirs[4:7])[1:] { // all but one that clients ask
			d.SetFaults(Faults{Silent: true})
		}
		for range 20 {
			r := n.NewClient(i.Address(), ClientConfig{Patience: 5 * time.Second, ConsensusDelay: time.Minute}).Request()
			switch stalls := int(r.Directory / stallTime); {
			case stalls < 4 && r.Err != nil && !errors.Is(r.Err, ErrNoPoint):
				t.Errorf("with %d HSDirs that do not answer: %+v", stalls, r)
			case stalls >= 4 && !errors.Is(r.Err, ErrPatience):
				t.Errorf("with %d HSDirs that do not answer: %+v, want more than tor waits", stalls, r)
			}
		}
	})
}

// pointsOf are the points of an instance's descriptor by relay.
func pointsOf(t *testing.T, n *Network, i *Instance) map[descriptor.Fingerprint]bool {
	t.Helper()
	relays := make(map[descriptor.Fingerprint]bool)
	for _, p := range decode(t, n, i, nil).IntroductionPoints {
		relays[p.Relay()] = true
	}
	return relays
}
