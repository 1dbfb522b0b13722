package health

import (
	"slices"
	"time"

	"onionbalancer/descriptor"
)

// Path judges, from visits of an address under which the manager publishes the
// introduction points of an instance, whether visitors of that address reach it. If the
// instance's ob_config lacks the address, its points acknowledge and it never
// answers, while it does answer at its own address.
//
// The path is broken after Fall such introductions in a row, at different points if more
// than one is published, and only once the instance has answered at its own
// address since: a frozen or dead instance is for its own checks to find.
type Path struct {
	Fall int // of the Spec
	// Probe says that the address is a probe address. Until it has answered once, the
	// operator may not have added its line yet, and nothing is broken.
	Probe bool

	answered time.Time                // when a visit last reached the instance
	misses   int                      // acknowledged and not answered, in a row
	missed   time.Time                // when the last of them ended
	at       []descriptor.Fingerprint // the points of misses
	several  bool                     // more than one point was published then
	passed   time.Time                // when the last check of its own address that was answered began
	points   [][32]byte               // of the instance
	broken   bool
}

// Visited takes what a visit that ended at the given moment showed at one of the
// instance's introduction points, of which some are published.
func (p *Path) Visited(ended time.Time, r PointResult, published int) {
	switch {
	case r.Answered:
		p.answered = ended
		p.Retry()
	case r.Acknowledged:
		p.misses, p.missed, p.several = p.misses+1, ended, published > 1
		if !slices.Contains(p.at, r.Relay) {
			p.at = append(p.at, r.Relay)
		}
		p.judge()
	}
}

// Checked takes the result of the last check of the instance's own address. It may
// take the same one again.
func (p *Path) Checked(r Result) {
	switch {
	case r.Began.IsZero() || r.Stage == NoTor:
	case r.Stage >= Answered:
		if r.Began.After(p.passed) {
			p.passed = r.Began
		}
		p.judge()
	case !p.broken && !r.Ended.Before(p.missed):
		p.Retry() // that it did not answer explains the misses
	}
}

// Offers takes the authentication keys of the introduction points that the instance
// has now. A broken path gets another chance with a new point: an ob_config is read
// at the start of tor. The misses of one that is not broken are over when no point is left
// that they may have been at.
func (p *Path) Offers(points [][32]byte) {
	known := func(key [32]byte) bool { return slices.Contains(p.points, key) }
	added, kept := false, false
	for _, key := range points {
		added, kept = added || !known(key), kept || known(key)
	}
	if len(p.points) > 0 && len(points) > 0 && added && (p.broken || !kept) {
		p.Retry()
	}
	if len(points) > 0 {
		p.points = points
	}
}

// Retry gives the path another chance.
func (p *Path) Retry() { p.misses, p.at, p.broken = 0, nil, false }

func (p *Path) judge() {
	enough := p.misses >= max(p.Fall, 1) && (len(p.at) > 1 || !p.several)
	p.broken = p.broken || enough && p.passed.After(p.missed)
}

// Broken reports whether visitors of the address do not reach the instance, though it lives.
func (p *Path) Broken() bool { return p.broken && !p.Unproven() }

// Unproven reports whether a probe address has never answered: its line is to be added.
func (p *Path) Unproven() bool { return p.broken && p.Probe && p.answered.IsZero() }

// Suspected reports whether the next visits are to come sooner, since the last ones
// did not reach the instance.
func (p *Path) Suspected() bool {
	return p.misses > 0 && p.misses <= 3*max(p.Fall, 1) && !p.broken // they cost circuits
}

// Answered returns when a visit last reached the instance; the zero time if none did.
func (p *Path) Answered() time.Time { return p.answered }
