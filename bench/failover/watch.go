package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/tor/control"
)

const (
	// glance is how often one of an address's HSDirs, each in turn, is asked. As soon
	// as one has something new, all are asked, until all have it.
	glance = 300 * time.Millisecond
	// askAgain is how often an HSDir is asked that others are ahead of.
	askAgain = 500 * time.Millisecond
	// fetchPatience is for one HSDir.
	fetchPatience = 5 * time.Second
)

// authKey names an introduction point.
type authKey [32]byte

// sighting is what an HSDir had at some time.
type sighting struct {
	asked, answered time.Time
	revision        uint64
	points          map[authKey]bool
}

// has reports whether any of the points is there.
func (s *sighting) has(points map[authKey]bool) bool {
	for key := range s.points {
		if points[key] {
			return true
		}
	}
	return false
}

// watcher reads the descriptors of all public addresses from the HSDirs that clients
// ask, through a tor that does nothing else, and those of instances when asked.
type watcher struct {
	client  *control.Client
	fetcher *hsdir.Fetcher
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	decoder descriptor.Decoder

	mu        sync.Mutex
	consensus *hsdir.Consensus
	addresses map[descriptor.Address]*watched
	instances map[string]*known // by name
}

// watched is what is known of a public address.
type watched struct {
	newest  uint64
	turn    int
	asking  map[string]time.Time // when an HSDir was last asked
	pending map[string]bool
	seen    map[string][]sighting // by HSDir, in the order of the answers
}

// known is what is known of an instance.
type known struct {
	revision uint64
	latest   map[authKey]bool // points of its latest descriptor
	all      map[authKey]bool // and of all those before
}

func startWatcher(ctx context.Context, f *field) (*watcher, error) {
	ctx, cancel := context.WithCancel(ctx)
	w := &watcher{cancel: cancel, client: controlOf(f, watchTor),
		addresses: map[descriptor.Address]*watched{}, instances: map[string]*known{}}
	w.fetcher = hsdir.NewFetcher(hsdir.FetchConfig{Getter: w.client, Patience: fetchPatience, Total: 4 * fetchPatience})
	w.wg.Go(func() { _ = w.client.Run(ctx) })
	if err := w.client.Ready(ctx); err != nil {
		cancel()
		return nil, err
	}
	parser := new(hsdir.Parser)
	if err := w.refresh(ctx, parser); err != nil {
		cancel()
		return nil, err
	}
	w.wg.Go(func() {
		for sleep(ctx, 2*time.Second) {
			_ = w.refresh(ctx, parser) // the next one will do
		}
	})
	for _, s := range f.sets {
		for _, p := range programs {
			a := s.addresses[p]
			w.addresses[a] = &watched{asking: map[string]time.Time{}, pending: map[string]bool{}, seen: map[string][]sighting{}}
			pause := glance
			if p == theirs {
				pause *= 2
			}
			w.wg.Go(func() { w.follow(ctx, a, pause) })
		}
	}
	return w, nil
}

// controlOf is a client of the control port of one of the network's tors.
func controlOf(f *field, name string) *control.Client {
	return control.New(control.Config{
		Dial:       control.DialTarget(f.Net.ControlTarget(name)),
		CookieFile: filepath.Join(f.Net.Dir(), name, "control_auth_cookie"),
	})
}

func (w *watcher) stop() {
	w.cancel()
	w.wg.Wait()
}

// refresh reads the consensus.
func (w *watcher) refresh(ctx context.Context, parser *hsdir.Parser) error {
	consensus, err := w.client.GetInfo(ctx, "dir/status-vote/current/consensus-microdesc")
	if err != nil {
		return fmt.Errorf("reading the consensus: %w", err)
	}
	microdescs, err := w.client.GetInfo(ctx, "md/all")
	if err != nil {
		return fmt.Errorf("reading the consensus: %w", err)
	}
	c, err := parser.Parse(consensus, microdescs, true)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.consensus = c
	return nil
}

func (w *watcher) current() *hsdir.Consensus {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.consensus
}

// responsible are the HSDirs that clients ask for the descriptor of an address.
func responsible(c *hsdir.Consensus, a descriptor.Address) (descriptor.PeriodKeys, []string, error) {
	keys, err := a.Keys(c.Current().Period)
	if err != nil {
		return keys, nil, err
	}
	var list []string
	for _, replica := range c.Current().Fetch(keys.Blinded) {
		for _, h := range replica {
			list = append(list, h.Hex())
		}
	}
	return keys, list, nil
}

// follow watches one public address.
func (w *watcher) follow(ctx context.Context, a descriptor.Address, pause time.Duration) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for sleep(ctx, pause) {
		keys, list, err := responsible(w.current(), a)
		if err != nil {
			continue
		}
		for _, h := range w.due(a, list) {
			wg.Go(func() {
				if more := w.look(ctx, a, keys, h); more {
					// Something new: the others are asked at once, not in their turn.
					for _, h := range w.due(a, list) {
						wg.Go(func() { w.look(ctx, a, keys, h) })
					}
				}
			})
		}
	}
}

// due are the HSDirs to ask now: the next one in turn, and those that others are
// ahead of.
func (w *watcher) due(a descriptor.Address, list []string) (due []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := w.addresses[a]
	at.turn++
	for i, h := range list {
		seen := at.seen[h]
		behind := len(seen) > 0 && seen[len(seen)-1].revision < at.newest && time.Since(at.asking[h]) > askAgain
		if (behind || i == at.turn%len(list)) && !at.pending[h] {
			at.pending[h], at.asking[h] = true, time.Now()
			due = append(due, h)
		}
	}
	return due
}

// look asks one HSDir, and reports whether it has something new.
func (w *watcher) look(ctx context.Context, a descriptor.Address, keys descriptor.PeriodKeys, h string) (isNew bool) {
	ctx, cancel := context.WithTimeout(ctx, fetchPatience)
	defer cancel()
	asked := time.Now()
	raw, err := w.client.HSFetch(ctx, a.Label(), h)
	answered := time.Now()
	var d *descriptor.Descriptor
	if err == nil {
		d, err = w.decoder.Decode(raw, keys, nil, answered)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	at := w.addresses[a]
	delete(at.pending, h)
	if err != nil {
		return false // nothing is published yet, or the HSDir could not be reached
	}
	at.seen[h] = append(at.seen[h], sighting{asked, answered, d.RevisionCounter, pointsOf(d)})
	isNew = d.RevisionCounter > at.newest && at.newest > 0
	at.newest = max(at.newest, d.RevisionCounter)
	return isNew
}

func pointsOf(d *descriptor.Descriptor) map[authKey]bool {
	points := map[authKey]bool{}
	for _, p := range d.IntroductionPoints {
		points[p.AuthKey] = true
	}
	return points
}

// learn reads the descriptor of an instance.
func (w *watcher) learn(ctx context.Context, name, address string) error {
	a, err := descriptor.ParseAddress(address)
	if err != nil {
		return err
	}
	c := w.current()
	keys, err := a.Keys(c.Current().Period)
	if err != nil {
		return err
	}
	r, err := w.fetcher.Fetch(ctx, c, keys, nil, 0, time.Now())
	if err != nil {
		return err
	}
	points := pointsOf(r.Descriptor)
	w.mu.Lock()
	defer w.mu.Unlock()
	k := w.instances[name]
	if k == nil {
		k = &known{all: map[authKey]bool{}}
		w.instances[name] = k
	}
	for key := range points {
		k.all[key] = true
	}
	k.revision, k.latest = r.Descriptor.RevisionCounter, points
	return nil
}

// points are those that an instance has in its latest descriptor, and those that it
// ever had.
func (w *watcher) points(name string) (latest, all map[authKey]bool, revision uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	k := w.instances[name]
	if k == nil {
		return nil, nil, 0
	}
	return k.latest, k.all, k.revision
}

// sightings are those of an address since then, by HSDir, of the HSDirs that clients
// ask now.
func (w *watcher) sightings(a descriptor.Address, from, until time.Time) [][]sighting {
	_, list, err := responsible(w.current(), a)
	if err != nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([][]sighting, len(list))
	for i, h := range list {
		for _, s := range w.addresses[a].seen[h] {
			if !s.asked.Before(from) && s.answered.Before(until) {
				all[i] = append(all[i], s)
			}
		}
	}
	return all
}

// cleanSince is the moment since when no HSDir has any of the points.
func cleanSince(all [][]sighting, points map[authKey]bool) (clean time.Time, ok bool) {
	return since(all, func(s *sighting) bool { return !s.has(points) })
}

// since is the moment since when all HSDirs have been as wanted, which each is by its
// own word only.
func since(all [][]sighting, wanted func(*sighting) bool) (moment time.Time, ok bool) {
	for _, seen := range all {
		first := len(seen)
		for first > 0 && wanted(&seen[first-1]) {
			first--
		}
		if first == len(seen) {
			return time.Time{}, false // not as wanted, or not seen at all
		}
		if seen[first].answered.After(moment) {
			moment = seen[first].answered
		}
	}
	return moment, len(all) > 0
}

// revisions are the different ones, in order.
func revisions(all [][]sighting) []uint64 {
	var list []uint64
	for _, seen := range all {
		for _, s := range seen {
			list = append(list, s.revision)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// mostOut is how many of the instances, all of whose points are given, were missing
// from a descriptor at most.
func mostOut(all [][]sighting, instances []map[authKey]bool) int {
	most := 0
	for _, seen := range all {
		for _, s := range seen {
			out := 0
			for _, points := range instances {
				if !s.has(points) {
					out++
				}
			}
			most = max(most, out)
		}
	}
	return most
}

// sleep waits, and reports false when ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// published is how many descriptors of an address, of those that clients fetch, were
// seen for the first time in that span.
func (w *watcher) published(a descriptor.Address, from, until time.Time) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	first := map[uint64]time.Time{}
	for _, seen := range w.addresses[a].seen {
		for _, s := range seen {
			if at, ok := first[s.revision]; !ok || s.answered.Before(at) {
				first[s.revision] = s.answered
			}
		}
	}
	n := 0
	for _, at := range first {
		if at.After(from) && at.Before(until) {
			n++
		}
	}
	return n
}
