package tell

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/tor/control"
	"onionbalancer/keystore"
	"onionbalancer/testnet"
)

// Of a network of real tors: how many run services, how many services each when a
// network is captured for the archive and when not, and at how many HSDirs each
// descriptor is read.
const (
	tors          = 4
	perTorArchive = 25
	perTorTest    = 10
	seenAt        = 3
	readers       = 2
	atOnce        = 16
	publishWithin = 4 * time.Minute
	fetchWithin   = 20 * time.Second
)

// observer reads the descriptors of a network's services.
type observer struct {
	clients   []*control.Client
	parser    hsdir.Parser
	consensus *hsdir.Consensus
}

// captureNetwork starts a network, and returns what HSDirs have of its services: of
// each the descriptor that clients fetch, and if both are wanted, after the next change
// of the period the one that they fetch then.
func captureNetwork(ctx context.Context, t *testing.T, perTor int, both bool) []capture {
	began := time.Now()
	note := func(what string) { t.Logf("%5.1f s: %s", time.Since(began).Seconds(), what) }
	var names []string
	for n := range readers {
		names = append(names, fmt.Sprint("reader", n))
	}
	n, err := testnet.Start(ctx, testnet.Config{Relays: 8, Clients: names})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Stop()
	note("the network is up")
	services := startServices(ctx, t, n, perTor)
	note("all services are published")

	var o observer
	running, stop := context.WithCancel(ctx)
	var group errgroup.Group
	defer func() { stop(); _ = group.Wait() }()
	for _, name := range names {
		c := control.New(control.Config{Dial: control.DialTarget(n.ControlTarget(name)), CookieFile: filepath.Join(n.Dir(), name, "control_auth_cookie")})
		group.Go(func() error { return c.Run(running) })
		if err := c.Ready(ctx); err != nil {
			t.Fatal(err)
		}
		o.clients = append(o.clients, c)
	}
	captures := make([]capture, len(services))
	for n, s := range services {
		captures[n].Address = s.Address()
	}
	o.refresh(ctx, t)
	if left := time.Until(o.consensus.NextPeriod()); left < fetchWithin {
		o.awaitPeriod(ctx, t)
	}
	o.fetchAll(ctx, t, services, captures, 0)
	note("read the first descriptors")
	if !both {
		return captures
	}
	o.awaitPeriod(ctx, t)
	note("the period has changed")
	o.fetchAll(ctx, t, services, captures, 1)
	note("read the second descriptors")
	return captures
}

// startServices returns once most of the services are published. tor does not retry
// an upload that failed, so that one of many may never have all.
func startServices(ctx context.Context, t *testing.T, n *testnet.Network, perTor int) []*testnet.Service {
	all := make([][]*testnet.Service, tors)
	group, starting := errgroup.WithContext(ctx)
	for v := range all {
		group.Go(func() (err error) {
			var configs []testnet.ServiceConfig
			for s := range perTor {
				configs = append(configs, testnet.ServiceConfig{Name: fmt.Sprintf("s%d-%d", v, s)})
			}
			all[v], err = n.Services(starting, fmt.Sprint("server", v), configs...)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	services := slices.Concat(all...)
	waiting, cancel := context.WithTimeout(ctx, publishWithin)
	defer cancel()
	published := make(chan error)
	for _, s := range services {
		go func() { published <- s.Published(waiting) }()
	}
	for count := range services {
		if err := <-published; err != nil {
			t.Logf("not published: %.100s", err.Error())
		}
		if count == len(services)*19/20 {
			cancel()
		}
	}
	return services
}

// refresh takes over the consensus of the first reader.
func (o *observer) refresh(ctx context.Context, t *testing.T) {
	t.Helper()
	consensus, err := o.clients[0].GetInfo(ctx, "dir/status-vote/current/consensus-microdesc")
	if err != nil {
		t.Fatal(err)
	}
	microdescs, err := o.clients[0].GetInfo(ctx, "md/all")
	if err != nil {
		t.Fatal(err)
	}
	if o.consensus, err = o.parser.Parse(consensus, microdescs, true); err != nil {
		t.Fatal(err)
	}
}

// awaitPeriod waits until the reader and the services know of the next period.
func (o *observer) awaitPeriod(ctx context.Context, t *testing.T) {
	t.Helper()
	for now := o.consensus.CurrentPeriod(); o.consensus.CurrentPeriod() == now; o.refresh(ctx, t) {
		select {
		case <-ctx.Done():
			t.Fatal(context.Cause(ctx))
		case <-time.After(time.Second):
		}
	}
	time.Sleep(10 * time.Second) // a voting interval, after which all tors have it
	o.refresh(ctx, t)
}

// fetchAll reads the current descriptors of all services.
func (o *observer) fetchAll(ctx context.Context, t *testing.T, services []*testnet.Service, captures []capture, which int) {
	t.Helper()
	var group errgroup.Group
	group.SetLimit(atOnce)
	for n, s := range services {
		group.Go(func() error {
			d, err := o.fetch(ctx, o.clients[n%len(o.clients)], s)
			if err != nil {
				t.Logf("left out: %.200s", err.Error())
			}
			captures[n].Descriptors[which] = d
			return nil
		})
	}
	_ = group.Wait()
}

// fetch reads the current descriptor of a service at several HSDirs. With an error
// there is none.
func (o *observer) fetch(ctx context.Context, client *control.Client, s *testnet.Service) (d capturedDescriptor, err error) {
	ring := o.consensus.Current()
	identity, err := keystore.Load(ctx, s.Dir())
	if err != nil {
		return d, err
	}
	defer identity.Wipe()
	blinded, err := identity.Blind(ring.Period)
	if err != nil {
		return d, err
	}
	defer blinded.Wipe()
	key := blinded.RevisionKey()
	d.Period, d.Counter = ring.Period, key.Bytes()
	for range 3 {
		d.raw, err = nil, nil
		for _, slot := range ring.Slots(blinded.Public()) {
			if len(d.raw) == seenAt {
				break
			}
			ctx, cancel := context.WithTimeout(ctx, fetchWithin)
			raw, failed := client.HSFetch(ctx, identity.Address().Label(), fmt.Sprintf("%X", slot.HSDir[:]))
			cancel()
			if err = errors.Join(err, failed); failed == nil {
				d.raw = append(d.raw, raw)
			}
		}
		if len(d.raw) == seenAt && d.runStart(o.consensus, key) {
			return d, nil
		}
		time.Sleep(2 * time.Second) // it was uploaded just now
	}
	d.raw = nil
	return d, fmt.Errorf("%s: too few HSDirs have it, or different ones, or of no moment: %w", s.Name(), err)
}

// runStart sets which run the counter counts from, and reports whether all HSDirs have
// the same.
func (d *capturedDescriptor) runStart(c *hsdir.Consensus, key descriptor.RevisionKey) bool {
	counters := make(map[string]bool)
	for _, raw := range d.raw {
		counters[revisionLine.FindString(string(raw))] = true
	}
	if len(counters) != 1 {
		return false
	}
	// The counter tells how long after, and not of which run.
	role := hsdir.FirstRole
	if c.Period(role) != d.Period {
		role = hsdir.SecondRole
	}
	d.RunStart = c.RunStart(role)
	s := &Sample{RunStart: d.RunStart, Counter: key}
	at, found := s.made(revision(d.raw[0]))
	return found && at.Before(time.Now().Add(time.Minute))
}

// TestRealTor: what a network of real tors publishes now is told neither from the
// archive nor from what we make.
func TestRealTor(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	live := captureNetwork(ctx, t, perTorTest, false)
	live = slices.DeleteFunc(live, func(c capture) bool { return len(c.Descriptors[0].raw) == 0 })
	seen, err := samples(live)
	if err != nil {
		t.Fatal(err)
	}
	if len(seen) < tors*perTorTest*3/4 {
		t.Fatalf("of %d descriptors %d could be read", tors*perTorTest, len(seen))
	}
	offers, err := offersOf(live)
	if err != nil {
		t.Fatal(err)
	}
	var before []Features
	for _, s := range archived(t).samples {
		alone := *s
		alone.Other = nil
		before = append(before, measureAll(t, []*Sample{&alone})...)
	}
	lot := measureAll(t, seen)
	for name, other := range map[string][]Features{
		"the archive": before,
		"ours":        measureAll(t, newOurs(t, offers, 3, recipe{}).samples(seen)),
	} {
		report := Compare(lot, other)
		t.Logf("from %s: %v", name, report[0])
		for _, f := range report.Tells(rare) {
			t.Errorf("real tor's descriptors are told from %s by %v", name, f)
		}
	}
}

// rare is how often TestRealTor, whose lots are new each time, may fail by chance.
const rare = 1e-6

// TestCapture writes the archive anew, when it is told to.
func TestCapture(t *testing.T) {
	if os.Getenv("BALANCER_CAPTURE") == "" {
		t.Skip("BALANCER_CAPTURE=1 reads the descriptors of a network of real tors anew")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	captures := slices.DeleteFunc(captureNetwork(ctx, t, perTorArchive, true), func(c capture) bool {
		return len(c.Descriptors[0].raw) == 0 || len(c.Descriptors[1].raw) == 0
	})
	if err := os.MkdirAll(filepath.Dir(capturedFile), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := writeCaptures(capturedFile, captures); err != nil {
		t.Fatal(err)
	}
	again, err := readCaptures(capturedFile)
	if err != nil || len(again) != len(captures) {
		t.Fatal(err)
	}
}
