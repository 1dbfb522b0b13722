package offline

import (
	"fmt"
	"time"
)

// stage merges what is new with what is there, and writes it beside the old file.
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

// merge returns what is fresh and what is installed, of each period the later
// one, without what has long been over.
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

// keptOver is for how long entries stay that are of no use any more.
const keptOver = 7 * 24 * time.Hour

// tell works out until when the supply lasts, and what is odd about it.
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
