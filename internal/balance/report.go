package balance

import (
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"onionbalancer/internal/status"
	"onionbalancer/selection"
)

// troubles are errors that a service lives with, by their kind.
type troubles map[string]error

const (
	troubleFloors   = "state"
	troubleHeld     = "stored descriptors"
	troubleClaims   = "stored keys"
	troubleNetwork  = "network"
	troublePublish  = "publishing"
	troubleReadback = "read back"
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

// lack is what is missing for want of instances.
type lack int

const (
	lackNone     lack = iota
	lackInstance      // none is ok: what was last known of them is published
	lackAll           // nor is anything known: what was published of others stays
	lackPoints        // and nothing was published either
)

// warning is what the status says of it.
func (l lack) warning() string {
	switch l {
	case lackInstance:
		return "no instance is reachable: the last good introduction points stay published"
	case lackAll:
		return "no instance is reachable: introduction points of instances that are no longer configured stay published until they expire"
	case lackPoints:
		return "no instance is reachable, and there is nothing to publish"
	}
	return ""
}

// startPatience is how long after the start the instances may take to be found.
const startPatience = time.Minute

// lacks tells what is missing after a round that came to its plan.
func (s *Service) lacks(now time.Time, fallback bool) lack {
	switch {
	case !fallback:
		return lackNone
	case len(s.chosen) > 0:
		return lackInstance
	case s.contents != nil:
		return lackAll
	case now.Sub(s.started) < startPatience:
		return lackNone
	}
	return lackPoints
}

// noteLack says it loudly, once, when the last instance is gone, and again when
// one is back.
func (s *Service) noteLack(l lack) {
	if l == s.lack {
		return
	}
	s.lack = l
	if l == lackNone {
		s.log.Info("an instance is reachable again")
		return
	}
	points := 0
	if s.contents != nil {
		points = len(s.contents.IntroductionPoints)
	}
	s.log.Error(l.warning(), "points", points)
}

// noteShares logs when an instance is to get half of the clients that it got, or
// fewer.
func (s *Service) noteShares(chosen []selection.Candidate) {
	before, after := selection.Shares(s.chosen), selection.Shares(chosen)
	for _, i := range s.instances {
		if was, is := before[i.Name], after[i.Name]; was > 0 && is <= was/2 {
			s.log.Warn("an instance's share of the clients fell", "instance", i.Name,
				"percent", math.Round(100*is), "was", math.Round(100*was), "state", i.state(s.env.Now()))
		}
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
		ReadBack: s.readback.at,
		Warnings: s.troubles.list(),
	}
	if !s.published.IsZero() {
		seconds := s.published.Sub(s.started).Seconds()
		snap.FirstAnswer = &seconds
	}
	shares := selection.Shares(s.chosen)
	for _, i := range s.instances {
		r := i.report(now, s.chosen, shares, s.left[i.Name])
		if i.idle(r) {
			r.Warnings = append(r.Warnings, s.whyIdle())
		}
		snap.Instances = append(snap.Instances, r)
		if !i.asking && (snap.NextFetch.IsZero() || i.due.Before(snap.NextFetch)) {
			snap.NextFetch = i.due
		}
	}
	snap.Descriptors = s.reportEditions(r)
	if s.lack != lackNone {
		snap.Warnings = append(snap.Warnings, s.lack.warning())
	}
	snap.Warnings = append(snap.Warnings, s.suspicions()...)
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

// suspicions lists what instances do that a tor in good health would not.
func (s *Service) suspicions() (texts []string) {
	for _, i := range s.instances {
		if victim := s.thefts[i.Name]; victim != "" {
			texts = append(texts, fmt.Sprintf("instance %s offers keys of introduction points that %s had first, which are left out: "+
				"one of the two copies the other's, look for an intruder at both, first at %s", i.Name, victim, i.Name))
		}
		if i.restless {
			texts = append(texts, fmt.Sprintf("instance %s changes its introduction points too often: "+
				"it is asked for every %s only", i.Name, changesEvery))
		}
	}
	return texts
}

// report describes one instance. left says why points of it are left out.
func (i *instance) report(now time.Time, chosen []selection.Candidate, shares map[string]float64, left []string) status.Instance {
	out := status.Instance{
		Name:               i.Name,
		Address:            i.Address.String(),
		State:              i.state(now),
		IntroductionPoints: i.usable(now),
		Share:              shares[i.Name],
		LastFetch:          i.asked,
		NextFetch:          i.due,
		Error:              i.problem(),
	}
	at, exact := i.published()
	out.Renewed, out.RenewedBefore = at, !exact && !at.IsZero()
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
		out.Warnings = append(out.Warnings, "the instance offers no congestion control, so transfers through it are slower; "+
			"where most instances do, it is left out")
	}
	if n := len(i.held.Dropped); n > 0 {
		out.Warnings = append(out.Warnings, fmt.Sprintf("%d of its introduction points cannot be used: %v", n, i.held.Dropped[0]))
	}
	out.Warnings = append(out.Warnings, counted(left)...)
	return out
}

// idle reports whether an instance that clients are to be sent to gets none.
func (i *instance) idle(r status.Instance) bool {
	return r.State == status.StateOK && r.Published == 0 && i.Weight > 0
}

// whyIdle is the warning about an instance that is idle.
func (s *Service) whyIdle() string {
	if len(s.instances) > s.cfg.Room.Points {
		return fmt.Sprintf("none of its introduction points is published, as there are more instances than the %d that have room: it gets no clients", s.cfg.Room.Points)
	}
	return "none of its introduction points is published: it gets no clients until it has one on a relay where no other instance's was first"
}

// counted returns each text once, with how often it is there.
func counted(texts []string) (out []string) {
	texts = slices.Sorted(slices.Values(texts))
	for len(texts) > 0 {
		n := 1
		for n < len(texts) && texts[n] == texts[0] {
			n++
		}
		text := texts[0]
		if n > 1 {
			text += fmt.Sprintf(" (%d times)", n)
		}
		out, texts = append(out, text), texts[n:]
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
			Which: ring.Role.String(), Period: ring.Period.Number, Minutes: ring.Period.Minutes(),
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
	notOK := false
	for n, i := range snap.Instances {
		notOK = notOK || i.State != status.StateOK || s.instances[n].idle(i)
	}
	e := s.editions[s.epoch.period]
	stays := e != nil && now.Sub(e.heard) < keptFor
	switch {
	case s.lack != lackNone:
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
		return []string{fmt.Sprintf("the clock is behind the Tor network's, whose consensus of %s has arrived: set it right",
			clock(validAfter))}
	case now.After(validUntil):
		return []string{fmt.Sprintf("the consensus ended at %s: tor cannot reach the network, or the clock is ahead",
			clock(validUntil))}
	}
	return nil
}
