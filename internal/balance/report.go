package balance

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"onionbalancer/internal/status"
	"onionbalancer/selection"
)

// troubles are errors that a service lives with, by their kind.
type troubles map[string]error

const (
	troubleFloors  = "state"
	troubleHeld    = "stored descriptors"
	troubleNetwork = "network"
	troublePublish = "publishing"
)

// set records err under kind, or that all is well again.
func (t troubles) set(kind string, err error) {
	if err == nil {
		delete(t, kind)
		return
	}
	t[kind] = err
}

// list returns the texts, in a stable order.
func (t troubles) list() []string {
	var texts []string
	for _, err := range t {
		texts = append(texts, err.Error())
	}
	slices.Sort(texts)
	return texts
}

// noteFallback says it loudly, once, when the last instance is gone, and again
// when one is back.
func (s *Service) noteFallback(fallback bool) {
	if fallback == s.fallback {
		return
	}
	s.fallback = fallback
	if fallback {
		s.log.Error("no instance is reachable: the last good introduction points stay published", "points", len(s.chosen))
	} else {
		s.log.Info("an instance is reachable again")
	}
}

// report renews the snapshot after a round, and logs an error that is new.
func (s *Service) report(r Round) {
	before := s.snapshot.Load()
	now := r.Now
	snap := &status.Service{
		Address:  s.address.String(),
		Strategy: s.cfg.Strategy.Name(),
		Rounds:   s.rounds, LastRound: s.lastRound,
		Warnings: s.troubles.list(),
	}
	if !s.published.IsZero() {
		seconds := s.published.Sub(s.started).Seconds()
		snap.FirstAnswer = &seconds
	}
	shares := selection.Shares(s.chosen)
	for _, i := range s.instances {
		snap.Instances = append(snap.Instances, i.report(now, s.chosen, shares))
		if !i.asking && (snap.NextFetch.IsZero() || i.due.Before(snap.NextFetch)) {
			snap.NextFetch = i.due
		}
	}
	snap.Descriptors = s.reportEditions(r)
	if s.fallback {
		snap.Warnings = append(snap.Warnings, "no instance is reachable: the last good introduction points stay published")
	}
	if c := r.Consensus; c != nil {
		snap.Warnings = append(snap.Warnings, clockWarning(now, c.ValidAfter, c.ValidUntil)...)
	}
	for _, w := range snap.Warnings {
		if !slices.Contains(before.Warnings, w) {
			s.log.Warn(w)
		}
	}
	// What follows is logged in rhythms of its own.
	snap.Warnings = append(snap.Warnings, s.warnOfCustody(now)...)
	s.lookAhead(now, r.Consensus)
	if s.outlook.text != "" {
		snap.Warnings = append(snap.Warnings, s.outlook.text)
	}
	snap.Custody = s.reportCustody(now)
	snap.State = s.state(now, snap)
	s.snapshot.Store(snap)
}

// report describes one instance.
func (i *instance) report(now time.Time, chosen []selection.Candidate, shares map[string]float64) status.Instance {
	out := status.Instance{
		Name:               i.Name,
		Address:            i.Address.String(),
		State:              i.state(now),
		IntroductionPoints: len(i.candidates(now)),
		Share:              shares[i.Name],
		Renewed:            i.renewed,
		LastFetch:          i.asked,
		NextFetch:          i.due,
		Error:              i.problem(),
	}
	for _, c := range chosen {
		if c.Instance == i.Name {
			out.Published++
		}
	}
	if i.held == nil {
		return out
	}
	out.Revision = i.held.RevisionCounter
	if len(i.held.PowParams) > 0 {
		out.Warnings = append(out.Warnings, "the instance asks for proof of work, which clients of the public address cannot give: "+
			"set HiddenServicePoWDefensesEnabled 0 in its torrc")
	}
	if i.held.FlowControl == nil {
		out.Warnings = append(out.Warnings, "the instance offers no congestion control, so the public address cannot either, and transfers are slower")
	}
	if n := len(i.held.Dropped); n > 0 {
		out.Warnings = append(out.Warnings, fmt.Sprintf("%d of its introduction points cannot be used: %v", n, i.held.Dropped[0]))
	}
	return out
}

// reportEditions describes both descriptors.
func (s *Service) reportEditions(r Round) []status.Descriptor {
	var list []status.Descriptor
	for _, ring := range r.Rings {
		e := s.editions[ring.Period]
		if e == nil {
			continue
		}
		d := status.Descriptor{
			Which: ring.Which.String(), Period: ring.Period.Number, Minutes: ring.Period.Minutes(),
			Current: ring.Period == s.epoch.period, Points: len(e.contents.IntroductionPoints),
			Revision: e.revision, Reason: string(e.reason), Built: e.built, Refresh: e.refresh,
		}
		for _, p := range e.slots {
			f := e.filled[p.HSDir]
			slot := status.Slot{
				Replica: p.Replica, HSDir: strings.ToUpper(hex.EncodeToString(p.HSDir[:])), Reserve: p.Reserve,
				Confirmed: !f.confirmed.IsZero(), At: f.confirmed, Attempts: f.attempts,
			}
			if f.err != nil {
				slot.Error = f.err.Error()
			}
			if slot.Confirmed {
				d.Confirmed++
			}
			d.Slots = append(d.Slots, slot)
		}
		list = append(list, d)
	}
	return list
}

// keptFor is how long HSDirs keep our descriptors.
const keptFor = 3 * time.Hour

// state sums the service up.
func (s *Service) state(now time.Time, snap *status.Service) status.State {
	current := slices.IndexFunc(snap.Descriptors, func(d status.Descriptor) bool { return d.Current && d.Confirmed > 0 })
	notOK := slices.ContainsFunc(snap.Instances, func(i status.Instance) bool { return i.State != status.StateOK })
	e := s.editions[s.epoch.period]
	stays := e != nil && now.Sub(e.heard) < keptFor
	switch {
	case s.fallback && len(s.chosen) > 0:
		return status.StateFailed
	case current < 0 && stays:
		return status.StateDegraded // an earlier one is at the HSDirs
	case current < 0 && s.cannotSign():
		return status.StateFailed
	case current < 0:
		return status.StateStarting
	case notOK || len(snap.Warnings) > 0:
		return status.StateDegraded
	}
	return status.StateOK
}

// cannotSign reports whether it is for want of keys that no descriptor of the
// period that clients ask for can be published.
func (s *Service) cannotSign() bool {
	e := s.editions[s.epoch.period]
	return s.outlook.stage == stageOver || s.custody.failures[s.epoch.period] != nil || e != nil && e.unmade != nil
}

// clockWarning compares the clock with the consensus, which many agreed on.
func clockWarning(now, validAfter, validUntil time.Time) []string {
	switch {
	case now.Before(validAfter.Add(-5 * time.Minute)):
		return []string{fmt.Sprintf("the clock is behind the Tor network's, whose consensus of %s UTC has arrived: set it right",
			validAfter.UTC().Format(time.DateTime))}
	case now.After(validUntil):
		return []string{fmt.Sprintf("the consensus ended at %s UTC: tor cannot reach the network, or the clock is ahead",
			validUntil.UTC().Format(time.DateTime))}
	}
	return nil
}
