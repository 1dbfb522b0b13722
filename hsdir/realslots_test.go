package hsdir_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/backoff"
	"onionbalancer/internal/tor/control"
	"onionbalancer/testnet"
	"onionbalancer/testnet/lab"
	"onionbalancer/testnet/lab/labtest"
)

const (
	askedSlots    = 6  // of a descriptor, 3 for each of 2 replicas
	slotsVisitors = 12 // tors of visitors
	// slotPatience is for one visit: tor waits half a minute for a dead HSDir.
	slotPatience = 75 * time.Second
)

// TestRealSlots shows what real clients do when the HSDirs of one descriptor hold distinct
// contents: here slot k leads to instance web(k+1) alone.
func TestRealSlots(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	s := startSlots(ctx, t)
	t.Run("distinct", func(t *testing.T) { s.testDistinct(ctx, t) })
	t.Run("a slot dies", func(t *testing.T) { s.testSlotDies(ctx, t) })
	t.Run("a slot dies, ahead of the others", func(t *testing.T) { s.testSlotAhead(ctx, t) })
	t.Run("an HSDir dies", func(t *testing.T) { s.testHSDirDies(ctx, t) })
}

// slotVisitor is a tor of visitors, one at a time.
type slotVisitor struct {
	*testnet.Client
	forgot time.Time
}

// slots is a network with six instances of a public address, whose descriptors the test
// makes and uploads itself.
type slots struct {
	*lab.Lab
	identity *descriptor.IdentityKey
	reader   *lab.Reader
	poster   *control.Client
	tors     []string // of visitors and the reader
	visitors []*slotVisitor
	revision uint64
	gone     int // slot whose HSDir is; none: -1

	slots  []hsdir.Slot // of the current descriptor, those asked first
	points [askedSlots][]descriptor.IntroductionPoint
}

func startSlots(ctx context.Context, t *testing.T) *slots {
	seed := make([]byte, 32)
	_, _ = rand.Read(seed) // it never fails
	identity, err := descriptor.IdentityKeyFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	tors := []string{lab.Manager}
	for i := range slotsVisitors {
		tors = append(tors, fmt.Sprintf("visitor%d", i+1))
	}
	s := &slots{identity: identity, tors: tors, revision: 1000, gone: -1}
	s.Lab = labtest.Start(ctx, t, lab.Config{
		Network:  testnet.Config{Relays: 18, VotingInterval: time.Minute},
		Managers: tors, Masters: []string{s.address()}, Instances: askedSlots, PerTor: 3,
	})
	for _, name := range tors[1:] {
		s.visitors = append(s.visitors, &slotVisitor{Client: s.Net.Client(name)})
	}
	running, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	t.Cleanup(func() { stop(); wg.Wait() })
	s.poster = s.Control(lab.Manager)
	wg.Go(func() { _ = s.poster.Run(running) })
	if err := s.poster.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	if s.reader, err = s.NewReader(ctx, lab.Manager); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.reader.Close)
	s.read(ctx, t, 150*time.Second)
	return s
}

func (s *slots) address() string { return s.identity.Address().String() }

// awaitRoom waits until neither the period nor the shared random value changes for so
// long, and all tors have heard of the last change: clients' descriptors end with the
// period.
func (s *slots) awaitRoom(ctx context.Context, t *testing.T, long time.Duration) {
	for {
		c, err := s.Net.Consensus(ctx)
		if err != nil {
			t.Fatal(err)
		}
		soonest := min(time.Until(c.NextPeriod()), time.Until(c.NextSharedRandom()))
		late := s.late(c)
		if soonest > long && len(late) == 0 {
			return
		}
		t.Logf("the network changes in %v, and has not changed yet for %q", soonest.Round(time.Second), late)
		wait := 5 * time.Second
		if soonest <= long {
			wait += max(soonest, 0)
		}
		if !backoff.Sleep(ctx, wait) {
			t.Fatal(context.Cause(ctx))
		}
	}
}

// late lists the tors whose consensus is of another period or shared random value.
func (s *slots) late(c *testnet.Consensus) (names []string) {
	for _, name := range s.tors {
		at := s.Net.Client(name).ValidAfter()
		has := testnet.Consensus{ValidAfter: at, FreshUntil: at.Add(c.VotingInterval())}
		if !has.NextPeriod().Equal(c.NextPeriod()) || !has.NextSharedRandom().Equal(c.NextSharedRandom()) {
			names = append(names, name)
		}
	}
	return names
}

// read reads where descriptors go, and the instances' introduction points, when they stay
// the same for so long.
func (s *slots) read(ctx context.Context, t *testing.T, long time.Duration) {
	t.Helper()
	for {
		s.awaitRoom(ctx, t, long)
		err := s.readOnce(ctx)
		if err == nil {
			return
		}
		t.Logf("reading again: %v", err) // an instance's tor may be late
		if !backoff.Sleep(ctx, 5*time.Second) {
			t.Fatal(err)
		}
	}
}

func (s *slots) readOnce(ctx context.Context) error {
	if err := s.reader.Refresh(ctx); err != nil {
		return err
	}
	ring := s.reader.Consensus().Current()
	blinded, err := s.identity.Address().Blind(ring.Period)
	if err != nil {
		return err
	}
	s.slots = ring.Slots(blinded)
	if len(s.slots) != 8 || s.slots[askedSlots-1].Reserve || !s.slots[askedSlots].Reserve {
		return fmt.Errorf("the slots are %+v", s.slots)
	}
	for i, instance := range s.Instances {
		own, err := descriptor.ParseAddress(instance.Address())
		if err != nil {
			return err
		}
		d, err := s.reader.Fetch(ctx, own)
		if err != nil {
			return err
		}
		s.points[i] = s.points[i][:0]
		for _, p := range d.IntroductionPoints {
			s.points[i] = append(s.points[i], p.Publishable())
		}
	}
	return nil
}

// publish uploads distinct contents to all slots. Slot 0 has a revision counter that is
// greater than the others' by ahead. The reserve slots get what slots 0 and 1 have, and a
// slot whose HSDir is gone gets nothing.
func (s *slots) publish(ctx context.Context, t *testing.T, ahead uint64, points [askedSlots][]descriptor.IntroductionPoint) {
	t.Helper()
	s.revision += 1000
	e, _ := newEncoder(t, s.identity, s.reader.Consensus().Current().Period)
	group, ctx := errgroup.WithContext(ctx)
	for k, slot := range s.slots {
		if k == s.gone {
			continue
		}
		revision := s.revision
		if k == 0 {
			revision += ahead
		}
		body, err := e.Encode(&descriptor.Contents{IntroductionPoints: points[k%askedSlots]}, revision, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		group.Go(func() error {
			return s.poster.HSPost(ctx, s.identity.Address().Label(), fmt.Sprintf("%X", slot.HSDir), body)
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	s.revision += ahead
}

// deadSlot0 is what is to be published, with points in slot 0 at which nobody waits: they
// answer that they do not know the service.
func (s *slots) deadSlot0(t *testing.T) [askedSlots][]descriptor.IntroductionPoint {
	t.Helper()
	points := s.points
	points[0] = slices.Clone(points[0])
	for i := range points[0] {
		auth, _, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		points[0][i].AuthKey = [32]byte(auth)
		_, _ = rand.Read(points[0][i].EncKey[:])
	}
	return points
}

// slotVisit is a visit that is over.
type slotVisit struct {
	asked []int // slots, in order; -1 for an HSDir that is none
	name  string
	took  time.Duration
	err   error
}

func (v slotVisit) String() string {
	return fmt.Sprintf("asked %v, answered by %q after %.1f s, %v", v.asked, v.name, v.took.Seconds(), v.err)
}

// last is the slot that was asked last, whose descriptor the visitor got.
func (v slotVisit) last() int {
	if len(v.asked) == 0 {
		return -1
	}
	return v.asked[len(v.asked)-1]
}

// served reports whether the instance of the slot asked last answered.
func (v slotVisit) served() bool { return v.err == nil && v.name == fmt.Sprintf("web%d", v.last()+1) }

// visit has each visitor do some visits, one after the other, each after prepare, and
// returns all of them.
func (s *slots) visit(ctx context.Context, t *testing.T, times int, prepare func(context.Context, *slotVisitor) error) (all []slotVisit) {
	t.Helper()
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	for _, c := range s.visitors {
		group.Go(func() error {
			for range times {
				if err := prepare(ctx, c); err != nil {
					return err
				}
				v := s.visitOnce(ctx, c)
				mu.Lock()
				all = append(all, v)
				mu.Unlock()
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	return all
}

func (s *slots) visitOnce(ctx context.Context, c *slotVisitor) (v slotVisit) {
	ctx, cancel := context.WithTimeout(ctx, slotPatience)
	defer cancel()
	before := len(c.Asked(s.address()))
	began := time.Now()
	v.name, v.err = c.Get(ctx, fmt.Sprint("user", began.UnixNano()), "http://"+s.address()+"/")
	v.name, v.took = strings.TrimSpace(v.name), time.Since(began)
	// Each of these visits asks, and tor's event may come a little after its answer.
	for until := time.Now().Add(5 * time.Second); len(c.Asked(s.address())) == before && time.Now().Before(until); {
		backoff.Sleep(ctx, 10*time.Millisecond)
	}
	backoff.Sleep(ctx, 100*time.Millisecond) // of more than one HSDir, likewise
	for _, h := range c.Asked(s.address())[before:] {
		v.asked = append(v.asked, slices.IndexFunc(s.slots, func(slot hsdir.Slot) bool { return fmt.Sprintf("%X", slot.HSDir) == h }))
	}
	return v
}

// forget makes a client a new visitor. Tor does that once in 10 seconds, and otherwise
// later.
func (s *slots) forget(ctx context.Context, c *slotVisitor) error {
	if !backoff.Sleep(ctx, time.Until(c.forgot.Add(10500*time.Millisecond))) {
		return context.Cause(ctx)
	}
	c.forgot = time.Now()
	return c.Forget()
}

// hold has a client hold the descriptor of slot 0.
func (s *slots) hold(ctx context.Context, c *slotVisitor) error {
	return c.Refetch(ctx, s.address(), fmt.Sprintf("%X", s.slots[0].HSDir))
}

// testDistinct: every new visitor is served by the instance of the slot that it asked, and
// draws one of six evenly.
func (s *slots) testDistinct(ctx context.Context, t *testing.T) {
	s.publish(ctx, t, 0, s.points)
	visits := s.visit(ctx, t, 2, s.forget)
	first, even := map[string]int{}, map[string]float64{}
	for k := range askedSlots {
		even[fmt.Sprint(k)] = 1. / askedSlots
	}
	for _, v := range visits {
		if !v.served() {
			t.Error(v)
		}
		if len(v.asked) == 0 {
			t.Fatalf("a new visitor asked no HSDir: %v", v)
		}
		first[fmt.Sprint(v.asked[0])]++
	}
	t.Logf("of %d visits asked slot: %v", len(visits), first)
	if p := lab.Chance(first, even); p < 1e-4 {
		t.Errorf("visitors draw slots as unevenly as this with probability %v only: %v", p, first)
	}
}

// testSlotDies: with one counter at all HSDirs, a visitor whose descriptor is all dead is
// served in the same visit by any other slot that it draws.
func (s *slots) testSlotDies(ctx context.Context, t *testing.T) {
	s.publish(ctx, t, 0, s.deadSlot0(t))
	others, again := 0, 0
	var slowest time.Duration
	for _, v := range s.visit(ctx, t, 2, s.hold) {
		switch {
		case v.last() == 0:
			again++ // the dead slot was drawn once more
			if v.err == nil {
				t.Errorf("a dead slot answered: %v", v)
			}
		case !v.served():
			t.Error(v)
		default:
			others++
			slowest = max(slowest, v.took)
		}
	}
	t.Logf("%d visits drew another slot, the slowest took %v; %d drew the dead slot again", others, slowest, again)
	if others == 0 {
		t.Error("no visit drew another slot: nothing is shown")
	}
}

// testSlotAhead: with a lower counter at the other HSDirs nobody is served. So the test
// before depends on the counter, and not on something that clients do anyway.
func (s *slots) testSlotAhead(ctx context.Context, t *testing.T) {
	s.publish(ctx, t, 500, s.deadSlot0(t))
	others := 0
	for _, v := range s.visit(ctx, t, 1, s.hold) {
		if v.err == nil {
			t.Errorf("a lower counter was accepted: %v", v)
		}
		if v.last() > 0 {
			others++
		}
	}
	t.Logf("%d visits drew another slot in vain", others)
	if others == 0 {
		t.Error("no visit drew another slot: nothing is shown")
	}
}

// testHSDirDies: an HSDir that is gone, which no consensus tells yet, costs new visitors
// time and no visit.
func (s *slots) testHSDirDies(ctx context.Context, t *testing.T) {
	s.read(ctx, t, slotPatience+5*time.Second)
	s.gone = slices.IndexFunc(s.slots[:askedSlots], func(slot hsdir.Slot) bool {
		return s.Net.KillRelay(fmt.Sprintf("%X", slot.HSDir)) == nil // which authorities survive
	})
	if s.gone < 0 {
		t.Fatal("all HSDirs are authorities") // of which there are fewer
	}
	relay := s.slots[s.gone].HSDir
	points := s.points
	for k := range points {
		points[k] = slices.DeleteFunc(slices.Clone(points[k]), func(p descriptor.IntroductionPoint) bool {
			return slices.ContainsFunc(p.LinkSpecifiers, func(l descriptor.LinkSpecifier) bool {
				return l.Type == descriptor.LinkRSA && [20]byte(l.Data) == relay
			})
		})
	}
	s.publish(ctx, t, 0, points)
	met := 0
	var slowest time.Duration
	for _, v := range s.visit(ctx, t, 1, s.forget) {
		// A test network's tor may draw the same HSDir again after 5 s, not 15 minutes.
		onlyGone := len(v.asked) > 2 && !slices.ContainsFunc(v.asked, func(k int) bool { return k != s.gone })
		if !v.served() && !onlyGone {
			t.Error(v)
		}
		if slices.Contains(v.asked, s.gone) {
			met++
			t.Log(v)
		}
		slowest = max(slowest, v.took)
	}
	// Chance may have had none of them ask it, once in 9 runs.
	t.Logf("%d visits asked the HSDir of slot %d, which is gone; the slowest took %v", met, s.gone, slowest)
}
