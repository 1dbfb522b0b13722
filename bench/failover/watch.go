package main

import (
	"context"
	"slices"
	"sync"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/backoff"
	"onionbalancer/testnet/lab"
)

const (
	// glance is how often one of an address's HSDirs, each in turn, is asked. As soon
	// as one has something new, all are asked, until all have it.
	glance = 400 * time.Millisecond
	// askAgain is how often an HSDir is asked that others are ahead of.
	askAgain = 500 * time.Millisecond
)

// sighting is what an HSDir had at some time.
type sighting struct {
	asked, answered time.Time
	revision        uint64
	points          lab.Points
}

// watcher reads the descriptors of all public addresses from the HSDirs that clients
// ask, through a tor that does nothing else, and those of instances when asked.
type watcher struct {
	*lab.Reader
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex
	addresses map[descriptor.Address]*watched
	instances map[string]*known // by name
}

// watched is what is known of a public address.
type watched struct {
	period  descriptor.Period // of newest: counters of different ones do not compare
	newest  uint64
	turn    int
	asking  map[string]time.Time // when an HSDir was last asked
	pending map[string]bool
	seen    map[string][]sighting // by HSDir, in the order of the answers
}

// known is what is known of an instance.
type known struct {
	revision uint64
	latest   lab.Points // points of its latest descriptor
	all      lab.Points // and of all those before
}

func startWatcher(ctx context.Context, f *field) (*watcher, error) {
	reader, err := f.NewReader(ctx, watchTor)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &watcher{Reader: reader, cancel: cancel, addresses: map[descriptor.Address]*watched{}, instances: map[string]*known{}}
	w.wg.Go(func() {
		for backoff.Sleep(ctx, 2*time.Second) {
			_ = w.Refresh(ctx) // the next one will do
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

func (w *watcher) stop() {
	w.cancel()
	w.wg.Wait()
	w.Close()
}

// follow watches one public address.
func (w *watcher) follow(ctx context.Context, a descriptor.Address, pause time.Duration) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for backoff.Sleep(ctx, pause) {
		list, err := w.HSDirs(a)
		if err != nil {
			continue
		}
		for _, h := range w.due(a, list) {
			wg.Go(func() {
				if more := w.look(ctx, a, h); more {
					// Something new: the others are asked at once, not in their turn.
					for _, h := range w.due(a, list) {
						wg.Go(func() { w.look(ctx, a, h) })
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
	if p := w.Consensus().CurrentPeriod(); p != at.period {
		at.period, at.newest = p, 0
	}
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
func (w *watcher) look(ctx context.Context, a descriptor.Address, h string) (isNew bool) {
	asked, period := time.Now(), w.Consensus().CurrentPeriod()
	d, err := w.Ask(ctx, a, h)
	answered := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	at := w.addresses[a]
	delete(at.pending, h)
	if err != nil {
		return false // nothing is published yet, or the HSDir could not be reached
	}
	at.seen[h] = append(at.seen[h], sighting{asked, answered, d.RevisionCounter, lab.PointsOf(d)})
	if period != at.period {
		return false
	}
	isNew = d.RevisionCounter > at.newest && at.newest > 0
	at.newest = max(at.newest, d.RevisionCounter)
	return isNew
}

// learn reads the descriptor of an instance.
func (w *watcher) learn(ctx context.Context, name, address string) error {
	a, err := descriptor.ParseAddress(address)
	if err != nil {
		return err
	}
	d, err := w.Fetch(ctx, a)
	if err != nil {
		return err
	}
	points := lab.PointsOf(d)
	w.mu.Lock()
	defer w.mu.Unlock()
	k := w.instances[name]
	if k == nil {
		k = &known{all: lab.Points{}}
		w.instances[name] = k
	}
	for key := range points {
		k.all[key] = true
	}
	k.revision, k.latest = d.RevisionCounter, points
	return nil
}

// points are those that an instance has in its latest descriptor, and those that it
// ever had.
func (w *watcher) points(name string) (latest, all lab.Points, revision uint64) {
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
	list, err := w.HSDirs(a)
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
func cleanSince(all [][]sighting, points lab.Points) (clean time.Time, ok bool) {
	return since(all, func(s *sighting) bool { return !s.points.Any(points) })
}

// since is the moment since when all HSDirs that have a descriptor have been as wanted.
// OnionBalance leaves out an HSDir now and then.
func since(all [][]sighting, wanted func(*sighting) bool) (moment time.Time, ok bool) {
	for _, seen := range all {
		if len(seen) == 0 {
			continue
		}
		first := len(seen)
		for first > 0 && wanted(&seen[first-1]) {
			first--
		}
		if first == len(seen) {
			return time.Time{}, false
		}
		if seen[first].answered.After(moment) {
			moment = seen[first].answered
		}
	}
	return moment, !moment.IsZero()
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
func mostOut(all [][]sighting, instances []lab.Points) int {
	most := 0
	for _, seen := range all {
		for _, s := range seen {
			out := 0
			for _, points := range instances {
				if !s.points.Any(points) {
					out++
				}
			}
			most = max(most, out)
		}
	}
	return most
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
