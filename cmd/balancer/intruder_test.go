package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/status"
	"onionbalancer/internal/tor/control"
	"onionbalancer/testnet"
	"onionbalancer/testnet/lab"
	"onionbalancer/testnet/lab/labtest"
)

// breakIn breaks into one backend, first the first of the file and then the last.
// It publishes, through the backend's own tor, its points and the other's keys, or
// its points where the other's are; then 60 visitors come.
func (c *custodians) breakIn(ctx context.Context) {
	i := newIntruder(ctx, c, c.Instances[0])
	i.publish(ctx, i.withStolenKeys)
	name := "instance " + i.service.Name() + " offers keys"
	c.await(ctx, "a warning that names the intruder", func(s status.Service) bool {
		return s.State == status.StateDegraded && slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.Contains(w, name) })
	})
	i.visits(ctx, "first in the file, with stolen keys")

	i = newIntruder(ctx, c, c.Instances[1])
	i.publish(ctx, i.onTheirRelays)
	i.visits(ctx, "last in the file, on the other's relays")
}

// intruder is someone who broke into a backend: they have its tor and its key.
type intruder struct {
	*custodians
	service  *testnet.Service
	key      *descriptor.IdentityKey
	tor      *control.Client
	fetcher  *hsdir.Fetcher
	parser   hsdir.Parser
	revision uint64
	uploaded time.Time
	before   map[string]float64 // each instance's expected share when uploaded
}

func newIntruder(ctx context.Context, c *custodians, s *testnet.Service) *intruder {
	c.Helper()
	i := &intruder{custodians: c, service: s, revision: 1 << 41}
	raw, err := os.ReadFile(filepath.Join(s.Dir(), "hs_ed25519_secret_key"))
	if err != nil {
		c.Fatal(err)
	}
	if i.key, err = descriptor.NewIdentityKey(raw[32:]); err != nil {
		c.Fatal(err)
	}
	i.tor = control.New(control.Config{
		Dial: control.DialTarget(s.ControlTarget()), CookieFile: filepath.Join(filepath.Dir(s.Dir()), "control_auth_cookie"),
	})
	go func() { _ = i.tor.Run(ctx) }()
	if err := i.tor.Ready(ctx); err != nil {
		c.Fatal(err)
	}
	i.fetcher = hsdir.NewFetcher(hsdir.FetchConfig{Getter: i.tor})
	return i
}

// settle waits until no change of the period is near, with which the backend's
// own tor would publish over the intruder.
func (i *intruder) settle(ctx context.Context) {
	i.Helper()
	for ctx.Err() == nil {
		c := i.consensus(ctx)
		left := time.Until(c.NextPeriod())
		// Whoever comes in the first half minute of a period counts as there from its
		// beginning, of which the balancer hears an interval later.
		if left > 90*time.Second && left < c.CurrentPeriod().Length-50*time.Second {
			return
		}
		time.Sleep(time.Second)
	}
}

func (i *intruder) consensus(ctx context.Context) *hsdir.Consensus {
	i.Helper()
	text, err := i.tor.GetInfo(ctx, "dir/status-vote/current/consensus-microdesc")
	if err != nil {
		i.Fatal(err)
	}
	microdescs, err := i.tor.GetInfo(ctx, "md/all")
	if err != nil {
		i.Fatal(err)
	}
	consensus, err := i.parser.Parse(text, microdescs, true)
	if err != nil {
		i.Fatal(err)
	}
	return consensus
}

func (i *intruder) points(ctx context.Context, c *hsdir.Consensus, address string) []descriptor.IntroductionPoint {
	i.Helper()
	a, err := descriptor.ParseAddress(address)
	if err != nil {
		i.Fatal(err)
	}
	keys, err := a.Keys(c.CurrentPeriod())
	if err != nil {
		i.Fatal(err)
	}
	got, err := i.fetcher.Fetch(ctx, c, keys, nil, 0, time.Now())
	if err != nil {
		i.Fatal(err)
	}
	return got.Descriptor.IntroductionPoints
}

// withStolenKeys is what the backend has, less one point, and the other's keys at
// the relay of that one.
func (i *intruder) withStolenKeys(own, theirs []descriptor.IntroductionPoint) []descriptor.IntroductionPoint {
	last := len(own) - 1
	points := slices.Clone(own[:last])
	for _, p := range theirs {
		q := own[last]
		q.AuthKey = p.AuthKey
		points = append(points, q)
	}
	return points
}

// onTheirRelays is what the backend has, said to be where the other's points are.
func (i *intruder) onTheirRelays(own, theirs []descriptor.IntroductionPoint) []descriptor.IntroductionPoint {
	points := slices.Clone(own)
	for n, p := range theirs {
		q := own[n%len(own)]
		q.LinkSpecifiers = p.LinkSpecifiers
		points = append(points, q)
	}
	return points
}

// publish has the backend's tor upload a descriptor of the intruder's making, until
// the balancer has it: when the period changes, the tor publishes over it.
func (i *intruder) publish(ctx context.Context, change func(own, theirs []descriptor.IntroductionPoint) []descriptor.IntroductionPoint) {
	i.Helper()
	for seen := false; !seen; {
		i.settle(ctx)
		i.upload(ctx, change)
		i.await(ctx, "the intruder's descriptor at the balancer", func(s status.Service) bool {
			seen = slices.ContainsFunc(s.Instances, func(n status.Instance) bool { return n.Revision == i.revision })
			return seen || time.Since(i.uploaded) > time.Minute
		})
	}
}

func (i *intruder) upload(ctx context.Context, change func(own, theirs []descriptor.IntroductionPoint) []descriptor.IntroductionPoint) {
	i.Helper()
	c := i.consensus(ctx)
	var own []descriptor.IntroductionPoint
	theirs := i.points(ctx, c, i.address) // the public descriptor has both
	for _, p := range i.points(ctx, c, i.key.Address().String()) {
		at := slices.IndexFunc(theirs, func(q descriptor.IntroductionPoint) bool { return q.AuthKey == p.AuthKey && q.Relay() == p.Relay() })
		if at >= 0 {
			own, theirs = append(own, p), slices.Delete(theirs, at, at+1)
		}
	}
	if len(own) == 0 || len(theirs) == 0 {
		i.Fatalf("%d points of the intruder are published, and %d of the other", len(own), len(theirs))
	}
	keys, err := i.key.Address().Keys(c.CurrentPeriod())
	if err != nil {
		i.Fatal(err)
	}
	blinded, err := i.key.Blind(c.CurrentPeriod())
	if err != nil {
		i.Fatal(err)
	}
	public, signing, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		i.Fatal(err)
	}
	cert, err := blinded.Certify([32]byte(public), descriptor.SigningCertExpiry(time.Now()))
	if err != nil {
		i.Fatal(err)
	}
	encoder, err := descriptor.NewEncoder(keys, cert, signing)
	if err != nil {
		i.Fatal(err)
	}
	i.before = make(map[string]float64)
	for _, instance := range i.await(ctx, "status", func(status.Service) bool { return true }).Instances {
		i.before[instance.Name] = instance.Share
	}
	i.revision++
	var group errgroup.Group
	for _, slot := range c.Current().Slots(keys.Blinded) {
		contents := &descriptor.Contents{Create2Formats: []int{2}, IntroductionPoints: change(own, theirs)}
		raw, err := encoder.Encode(contents, i.revision, rand.Reader)
		if err != nil {
			i.Fatal(err)
		}
		group.Go(func() error {
			return i.tor.HSPost(ctx, i.key.Address().Label(), hsdir.Relay{Fingerprint: slot.HSDir}.Hex(), raw)
		})
	}
	if err := group.Wait(); err != nil {
		i.Fatalf("the intruder's upload: %v", err)
	}
	i.uploaded = time.Now()
}

// visits sends 60 visitors who know nothing of the service yet, and wants the other
// instance to have what it had before the intruder came: by the status exactly, and
// by the visits within three standard deviations.
func (i *intruder) visits(ctx context.Context, when string) {
	i.Helper()
	i.await(ctx, "confirmations", func(s status.Service) bool {
		return !slices.ContainsFunc(s.Descriptors, func(d status.Descriptor) bool { return d.Confirmed < len(d.Slots) })
	})
	visitor := control.New(control.Config{Dial: control.DialTarget(i.Net.Client(lab.Client).ControlAddress()),
		CookieFile: filepath.Join(i.Net.Dir(), lab.Client, "control_auth_cookie")})
	running, end := context.WithCancel(ctx)
	defer end()
	go func() { _ = visitor.Run(running) }()
	if err := visitor.Ready(ctx); err != nil {
		i.Fatal(err)
	}
	if err := visitor.Signal(ctx, "NEWNYM"); err != nil {
		i.Fatal(err)
	}
	time.Sleep(time.Second)
	const visits = 60
	counts := labtest.Serve(ctx, i.T, i.Lab, i.address, visits, 6)
	s := i.await(ctx, "status", func(status.Service) bool { return true })
	i.Logf("%s: %v; %s", when, counts, s.State)
	for _, instance := range s.Instances {
		before, share := i.before[instance.Name], float64(counts[instance.Name])/visits
		chance := 3 * math.Sqrt(before*(1-before)/visits)
		if instance.Name != i.service.Name() && (before == 0 || instance.Share < before-0.01 || share < before-chance) {
			i.Errorf("%s: %s answered %d of %d visits, the status says %.0f %%, and %.0f %% before", when, instance.Name, counts[instance.Name], visits, 100*instance.Share, 100*before)
		}
	}
}
