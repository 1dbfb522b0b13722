package standby

import (
	"maps"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/status"
)

// pointMemory remembers which introduction points instances have shown. An instance shows
// those of one period, and keeps those of the one before it for hours; who published them
// may have them published still.
type pointMemory struct {
	since     time.Time // when it began, or began anew after a break
	instances map[descriptor.Address]*shown
	ever      map[[32]byte]time.Time // when a point was last shown, by authentication key
}

// shown is what one instance shows.
type shown struct {
	period      descriptor.Period
	now, before map[[32]byte]bool // of the period, and of the one before it
}

// rememberFor is longer than an introduction point lives, and than any descriptor with it
// is published.
const rememberFor = 72 * time.Hour

// note takes in what instances show now.
func (m *pointMemory) note(v backend.View, now time.Time) {
	if m.instances == nil {
		m.since, m.instances, m.ever = now, make(map[descriptor.Address]*shown), make(map[[32]byte]time.Time)
	}
	for _, b := range v.Backends {
		if b.Descriptor == nil {
			continue
		}
		keys := make(map[[32]byte]bool, len(b.Offer.Points))
		stays := false
		old := m.instances[b.Address]
		for n := range b.Offer.Points {
			key := b.Offer.Points[n].AuthKey
			keys[key], m.ever[key] = true, now
			stays = stays || old != nil && old.now[key]
		}
		is := &shown{period: b.Period, now: keys}
		switch {
		case old == nil:
		case old.period != b.Period:
			is.before = old.now
		case stays: // else its tor was started again, and all that it had is gone
			is.before = old.before
		}
		m.instances[b.Address] = is
	}
	maps.DeleteFunc(m.ever, func(_ [32]byte, at time.Time) bool { return now.Sub(at) > rememberFor })
}

// settledAfter is how long after clients began to fetch a period's descriptor it has been
// made from what instances show since, wherever it is made: a tor may learn of the period
// two hours late. A service that looks ordinary is never sure to.
const settledAfter = 4 * time.Hour

// judge tells what the published points are worth, for a service of a period that clients
// have fetched since turned.
func (m *pointMemory) judge(s Service, v backend.View, published [][32]byte, now, turned time.Time) Points {
	p := Points{Known: len(v.Backends) > 0, Published: len(published)}
	live := make(map[[32]byte]bool)
	for n, b := range v.Backends {
		checked := v.Checked(n)
		if b.State(now) != status.StateOK || checked.Out() {
			continue
		}
		// What it shows now may be what is published.
		fresh := max(freshFor*b.Interval, freshAtBest)
		p.Known = p.Known && now.Sub(b.Seen.Round(0)) <= fresh
		p.Lag = max(p.Lag, b.Interval)
		if b.Usable(now) > 0 {
			p.Healthy++
		}
		if is := m.instances[b.Address]; is != nil {
			maps.Copy(live, is.now)
			maps.Copy(live, is.before)
		}
	}
	// Whoever has watched since before the period began has seen all that may be published.
	sure := m.since.Before(turned) || !s.Ordinary && now.Sub(turned) > settledAfter
	for _, key := range published {
		_, ever := m.ever[key]
		switch {
		case live[key]:
			p.Live++
		case !ever && !sure:
			p.Unknown++
		}
	}
	return p
}

// A view of an instance is fresh for so many intervals between fetches, and for so long
// with short ones.
const (
	freshFor    = 3
	freshAtBest = 6 * time.Minute
)
