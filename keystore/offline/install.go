package offline

import (
	"cmp"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"onionbalancer/descriptor"
)

// Installed is the result of an installation for one address: the changes and the
// present state.
type Installed struct {
	Address  descriptor.Address `json:"address"`
	Dir      string             `json:"dir"`
	New      int                `json:"new"`     // periods certified that were not before
	Renewed  int                `json:"renewed"` // that were, by an earlier ceremony
	Kept     int                `json:"kept"`    // that were, by this ceremony or a later one
	Over     int                `json:"over"`    // entries left out: their time has passed
	Through  uint64             `json:"certified_through"`
	Until    time.Time          `json:"certified_until,omitzero"` // when that period ends
	Warnings []string           `json:"warnings,omitempty"`
}

// target is one directory of an installation.
type target struct {
	Installed
	have   *contents
	fresh  map[uint64]Entry
	staged *replacement
}

// Install puts the entries of bundles into the directories of their addresses.
// Everything is checked before anything is replaced: signature, address,
// network, keys, and expiry. Entries installed before that are
// still valid stay. now is the manager's clock.
func Install(dirs []string, bundles []*Bundle, now time.Time) ([]Installed, error) {
	list, err := install(dirs, bundles, now)
	if err != nil {
		return nil, fmt.Errorf("installing: %w", err)
	}
	return list, nil
}

func install(dirs []string, bundles []*Bundle, now time.Time) ([]Installed, error) {
	targets, release, err := openTargets(dirs)
	defer release()
	if err != nil {
		return nil, err
	}
	if bundles, err = joinBundles(bundles); err != nil {
		return nil, err
	}
	for _, b := range bundles {
		if err := b.validate(); err != nil {
			return nil, err
		}
		of := make([]*target, len(b.Entries))
		for i := range b.Entries {
			if of[i], err = targetOf(targets, b.Schedule, &b.Entries[i]); err != nil {
				return nil, err
			}
		}
		signing, err := b.verify()
		if err != nil {
			return nil, err
		}
		for i, t := range of {
			if err := t.take(&b.Entries[i], signing[i], now); err != nil {
				return nil, err
			}
		}
	}
	defer func() {
		for _, t := range targets {
			if t.staged != nil {
				t.staged.drop()
			}
		}
	}()
	for _, t := range targets {
		if err := t.stage(now); err != nil {
			return nil, fmt.Errorf("%s: %w", t.Address.Short(), err)
		}
	}
	return commitAll(targets)
}

// openTargets locks and reads the directories, in one order for all processes.
func openTargets(dirs []string) (targets []*target, release func(), err error) {
	var unlocks []func()
	release = func() {
		for _, unlock := range unlocks {
			unlock()
		}
	}
	dirs = slices.Compact(slices.Sorted(slices.Values(dirs)))
	for _, dir := range dirs {
		unlock, err := lock(dir, patience)
		if err != nil {
			return nil, release, err
		}
		unlocks = append(unlocks, unlock)
		have, err := load(dir)
		if err != nil {
			return nil, release, err
		}
		have.forgetSeeds()
		for _, t := range targets {
			if t.Address == have.keys.Address {
				return nil, release, fmt.Errorf("%s and %s are both of %s", t.Dir, dir, t.Address.Short())
			}
		}
		targets = append(targets, &target{Installed: Installed{Address: have.keys.Address, Dir: dir}, have: have, fresh: map[uint64]Entry{}})
	}
	return targets, release, nil
}

// verify verifies all entries, several at once, and returns the signing keys that they are for.
func (b *Bundle) verify() ([][32]byte, error) {
	signing := make([][32]byte, len(b.Entries))
	var verifying errgroup.Group
	verifying.SetLimit(runtime.GOMAXPROCS(0))
	for i := range b.Entries {
		verifying.Go(func() error {
			certs, err := b.Entries[i].Verify(b.Schedule)
			signing[i] = certs.First().Key()
			return err
		})
	}
	return signing, verifying.Wait()
}

// targetOf returns the target that e, for a network with that schedule, is meant for.
func targetOf(targets []*target, s Schedule, e *Entry) (*target, error) {
	i := slices.IndexFunc(targets, func(t *target) bool { return t.Address == e.Address })
	if i < 0 {
		return nil, fmt.Errorf("there are certificates for %s in it, and none of the directories given is of that address: another manager's bundle?", e.Address)
	}
	t := targets[i]
	if s != t.have.keys.Schedule {
		return nil, fmt.Errorf("%s: it is for a network with %s, and the keys in %s are for %s", e.Address.Short(), s, t.Dir, t.have.keys.Schedule)
	}
	return t, nil
}

// take takes e, which was verified and is for a signing key.
func (t *target) take(e *Entry, signing [32]byte, now time.Time) error {
	key := t.have.keys.of(e.Period)
	switch {
	case now.After(t.have.keys.LastUse(e.Period)) || key == nil && len(t.have.keys.Keys) > 0 && e.Period < t.have.keys.Keys[0].Period:
		t.Over++
		return nil
	case key == nil:
		return fmt.Errorf("%s, period %d: %s has no signing key for this period: another manager's bundle, or were the keys lost since the request?",
			e.Address.Short(), e.Period, t.Dir)
	case signing != [32]byte(key.Public):
		return fmt.Errorf("%s, period %d: the certificate is for signing key %s, and the one in %s is %s: another manager's bundle, or were the keys replaced since the request?",
			e.Address.Short(), e.Period, KeyFingerprint(signing[:]), t.Dir, KeyFingerprint(key.Public))
	}
	if other, there := t.fresh[e.Period]; !there || other.Made.Before(e.Made) {
		t.fresh[e.Period] = *e
	}
	return nil
}

// commitAll renames the staged files into place.
func commitAll(targets []*target) ([]Installed, error) {
	slices.SortFunc(targets, func(a, b *target) int { return cmp.Compare(a.Address.Label(), b.Address.Label()) })
	var done []Installed
	for _, t := range targets {
		if t.staged == nil {
			done = append(done, t.Installed)
			continue
		}
		if err := t.staged.commit(); err != nil {
			return nil, fmt.Errorf("%s was not replaced, and %d of %d addresses were done before it; run this again: %w",
				filepath.Join(t.Dir, BundleFile), len(done), len(targets), err)
		}
		t.staged = nil
		done = append(done, t.Installed)
	}
	return done, nil
}

// stage merges new and installed entries, and writes them beside the old file.
func (t *target) stage(now time.Time) error {
	s := t.have.keys.Schedule
	if len(t.fresh) == 0 {
		if t.Over > 0 {
			return fmt.Errorf("all %d periods in it are over: an old bundle?", t.Over)
		}
		t.Warnings = append(t.Warnings, "nothing in the bundles is for this address")
		t.tell(now)
		return nil
	}
	entries := t.merge(now)
	t.have.bundle = newBundle(s, entries)
	if err := t.have.bundle.validate(); err != nil {
		return err
	}
	t.tell(now)
	var err error
	t.staged, err = stageBundle(t.Dir, t.have.bundle)
	return err
}

// merge returns new and installed entries, of each period the later
// one, without those that are long over.
func (t *target) merge(now time.Time) []Entry {
	var entries []Entry
	if t.have.bundle != nil {
		for _, e := range t.have.bundle.Entries {
			if _, there := t.fresh[e.Period]; !there && now.Before(t.have.keys.LastUse(e.Period).Add(keptOver)) {
				entries = append(entries, e)
			}
		}
	}
	for _, e := range t.fresh {
		switch old := t.have.usable(e.Period); {
		case old == nil:
			t.New++
		case old.Made.Before(e.Made):
			t.Renewed++
		default:
			t.Kept++
			e = *old
		}
		entries = append(entries, e)
	}
	return entries
}

// keptOver is for how long expired entries are kept.
const keptOver = 7 * 24 * time.Hour

// tell computes until when the certificates last, and warns of gaps.
func (t *target) tell(now time.Time) {
	s := t.have.keys.Schedule
	first := s.InUse(now).Number
	if t.have.bundle == nil {
		return
	}
	entries := t.have.bundle.Entries
	current := s.At(now).Number
	for number := first; number <= current; number++ {
		if t.have.usable(number) == nil {
			t.Warnings = append(t.Warnings, fmt.Sprintf("there is no certificate for period %d, from %s to %s, which is in use now", number, clock(s.Start(number)), clock(s.End(number))))
		}
	}
	from := max(first, entries[0].Period)
	t.Through = t.have.through(from)
	t.Until = s.End(t.Through)
	if last := entries[len(entries)-1].Period; last > t.Through {
		t.Warnings = append(t.Warnings, fmt.Sprintf("there is a gap: no certificate for period %d, from %s on, though there are later ones", t.Through+1, clock(t.Until)))
	}
}
