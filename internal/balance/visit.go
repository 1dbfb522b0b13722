package balance

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/backoff"
	"onionbalancer/internal/event"
	"onionbalancer/internal/health"
	"onionbalancer/internal/probe"
	"onionbalancer/internal/times"
	"onionbalancer/selection"
)

// A service visits its own public address as clients do: a check of an instance's own
// address passes even if the instance's ob_config lacks the public one, and then all
// visitors who are sent there wait for nothing. Before a visit the published descriptor is
// read back from an HSDir, so that tor's is the same and each introduction point
// that a visit tries can be attributed to an instance.

// Visitor visits an onion service, the Address of spec, through tor: by circuits of its
// own, with key if that is not nil. It returns soon after ctx ends.
type Visitor interface {
	Visit(ctx context.Context, spec health.Spec, key *descriptor.ClientKey) health.Result
}

// Visits says how a service's own public address is visited.
type Visits struct {
	Every time.Duration // about; 0: not at all
	Spec  health.Spec   // its Address is not used
}

// ProbePath is what is known of an instance's probe address.
type ProbePath struct {
	Address   descriptor.Address // zero: it has none
	Published bool
	health.Path
}

const (
	visitFirst = time.Minute // after the first confirmation, if Every is longer
	visitRate  = time.Second // between those of all services, on average
)

// visits is the state of visiting the public address.
type visits struct {
	due     time.Time
	waiting bool                  // for the descriptor to be read back
	ready   bool                  // it was
	asking  bool                  // a visit is in flight
	known   []selection.Candidate // the points of the descriptor that was read back
	passed  time.Time             // when a visit last passed
	err     error                 // of the last one
	fails   int                   // in a row
	key     *descriptor.ClientKey // of this process, for a restricted address
	paths   map[descriptor.Address]*path
}

// path is the way from the public address to one instance.
type path struct {
	health.Path
	probeFailed bool   // its probe address did not answer when it was last looked at
	told        string // why it is broken, in the last event
}

// next returns when the next visit is due; the zero time if none is.
func (v *visits) next() time.Time {
	if v.waiting || v.asking {
		return time.Time{}
	}
	return v.due
}

// client is the manager's own key for the public address, so that it can visit
// it; nil if anybody may, or it is not visited.
func (s *Service) client() *descriptor.ClientKey {
	if len(s.cfg.Clients) == 0 || s.cfg.Visits.Every == 0 || s.env.Visitor == nil {
		return nil
	}
	if s.visits.key == nil {
		s.visits.key, _ = descriptor.NewClientKey(rand.Reader) // which never fails
	}
	return s.visits.key
}

// clients are those who may read the descriptor.
func (s *Service) clients() []descriptor.AuthorizedClient {
	key := s.client()
	if key == nil {
		return s.cfg.Clients
	}
	return append(slices.Clip(s.cfg.Clients), key.Client())
}

// visit starts a visit of the public address if one is due.
func (s *Service) visit(ctx context.Context, now time.Time, c *hsdir.Consensus) {
	v := &s.visits
	every := s.cfg.Visits.Every
	e := s.readable(now, c)
	if every == 0 || s.env.Visitor == nil || e == nil || e.Reason == ReasonResumed && s.client() != nil { // whose client this process is not
		v.due, v.waiting, v.ready = time.Time{}, false, false
		return
	}
	switch {
	case v.asking, v.waiting:
	case v.ready:
		v.ready, v.asking = false, true
		spec, key, known := s.cfg.Visits.Spec, s.client(), v.known
		spec.Address = s.address
		s.calls.Go(func() {
			r := s.env.Visitor.Visit(ctx, spec, key)
			if ctx.Err() == nil {
				s.post(func(now time.Time) { s.visited(now, known, r) })
			}
		})
	case v.due.IsZero():
		v.due = now.Add(backoff.Jitter(min(every, visitFirst)))
	case !now.Before(v.due):
		v.waiting = true
		s.readback.due = now
	}
}

// readForVisit goes on to a visit that waited for the descriptor to be read back, which
// tor has now: h is what is in it, nil if that is not known.
func (s *Service) readForVisit(h *holding) {
	v := &s.visits
	if !v.waiting {
		return
	}
	v.waiting, v.ready, v.known = false, true, nil
	keys := h.keys()
	for _, c := range s.state.Published {
		if slices.Contains(keys, c.Point.AuthKey) {
			v.known = append(v.known, c)
		}
	}
}

// visited records the result of a visit. known are the published points then.
func (s *Service) visited(now time.Time, known []selection.Candidate, r health.Result) {
	v := &s.visits
	v.asking = false
	v.due = now.Add(backoff.Jitter(max(s.cfg.Visits.Every, time.Duration(s.env.Backends.Services())*visitRate)))
	if r.Stage == health.NoTor {
		return
	}
	if v.err = r.Err; v.err == nil {
		v.passed, v.fails = r.Ended, 0
	} else {
		v.fails++
	}
	s.troubles.set(troubleVisit, nil)
	if v.fails >= max(s.cfg.Visits.Spec.Fall, 1) {
		s.troubles.set(troubleVisit, fmt.Errorf("the public address does not answer visits through tor: %w", v.err))
	}
	known = slices.DeleteFunc(slices.Clone(known), func(c selection.Candidate) bool { return !s.offers(c) })
	for name, tried := range Attribute(r.Points, known) {
		p := s.path(s.addressOf(name))
		published := 0
		for _, c := range known {
			if c.Instance == name {
				published++
			}
		}
		for _, point := range tried {
			p.Visited(r.Ended, point, published)
		}
	}
	if s.suspects() {
		v.due = times.Earlier(v.due, now.Add(backoff.Jitter(s.cfg.Visits.Spec.FastInterval)))
	}
}

// suspects reports whether visits are to show more about an instance that gets visitors.
func (s *Service) suspects() bool {
	return slices.ContainsFunc(s.state.Published, func(c selection.Candidate) bool {
		p := s.visits.paths[s.addressOf(c.Instance)]
		return p != nil && p.Suspected()
	})
}

// Attribute tells which instances' introduction points a visit tried, by their names,
// and what happened there. A client knows a point by its relay's RSA identity, so
// each relay has one point in a descriptor.
func Attribute(points []health.PointResult, published []selection.Candidate) map[string][]health.PointResult {
	of := make(map[string][]health.PointResult)
	for _, p := range points {
		if n := slices.IndexFunc(published, func(c selection.Candidate) bool { return c.Point.Relay() == p.Relay }); n >= 0 {
			of[published[n].Instance] = append(of[published[n].Instance], p)
		}
	}
	return of
}

// offers reports whether an instance still has a point: one of before a restart may
// acknowledge for a while.
func (s *Service) offers(c selection.Candidate) bool {
	address := s.addressOf(c.Instance)
	for _, b := range s.instances.View().Backends {
		if b.Address == address {
			return slices.ContainsFunc(b.Offer.Points, func(p backend.Point) bool { return p.AuthKey == c.Point.AuthKey })
		}
	}
	return false
}

// addressOf returns the address of the instance of a name.
func (s *Service) addressOf(name string) descriptor.Address {
	for _, i := range s.cfg.Instances {
		if i.Name == name {
			return i.Address
		}
	}
	return descriptor.Address{}
}

// path returns the path to an instance.
func (s *Service) path(a descriptor.Address) *path {
	if s.visits.paths == nil {
		s.visits.paths = make(map[descriptor.Address]*path)
	}
	p := s.visits.paths[a]
	if p == nil {
		p = &path{Path: health.Path{Fall: s.cfg.Visits.Spec.Fall}}
		s.visits.paths[a] = p
	}
	return p
}

// unreached judges the paths to the instances, and returns why visitors do not reach
// some of them, by address.
func (s *Service) unreached(view backend.View) map[descriptor.Address]string {
	var list map[descriptor.Address]string
	for _, b := range view.Backends {
		known := ProbePath{}
		if s.env.Probe != nil {
			known = s.env.Probe(b.Address)
		}
		p := s.visits.paths[b.Address]
		if p == nil && known.Address == (descriptor.Address{}) {
			continue // nothing was ever tried
		}
		p = s.path(b.Address)
		var keys [][32]byte
		for n := range b.Offer.Points {
			keys = append(keys, b.Offer.Points[n].AuthKey)
		}
		p.Offers(keys)
		if s.env.Checked != nil {
			p.Checked(s.env.Checked(b.Address))
		}
		if why := p.why(s.address, known); why != "" {
			if list == nil {
				list = make(map[descriptor.Address]string)
			}
			list[b.Address] = why
		}
	}
	return list
}

// why returns why visitors of the public address do not reach the instance; empty if
// they do, or nothing is known. A probe address that fails says so as well, unless a visit of
// the public address got through since.
func (p *path) why(public descriptor.Address, own ProbePath) string {
	failed := own.Broken() || own.Unproven() || own.Suspected()
	if p.probeFailed && !failed && !own.Answered().IsZero() {
		p.Retry() // somebody has changed the ob_config
	}
	p.probeFailed = failed
	switch {
	case p.Broken():
		return lacks(public)
	case own.Broken() && !p.Answered().After(own.Answered()):
		return lacks(own.Address)
	}
	return ""
}

// lacks says what is wrong with an ob_config, and what to do.
func lacks(a descriptor.Address) string {
	return "its ob_config lacks the line: " + probe.Line(a)
}

// unreachedText is the warning about an instance that visitors do not reach.
func unreachedText(why string) string {
	return "visitors of the public address do not reach it, though it answers at its own: " + why + restartFix
}

// restartFix says what to do about a line that an ob_config lacks.
const restartFix = "; add it, and restart its tor, which reads the file at its start"

// tellPaths records which paths broke, and which are whole again.
func (s *Service) tellPaths(v View) {
	for _, i := range s.cfg.Instances {
		p := s.visits.paths[i.Address]
		if p == nil || p.told == v.Unreached[i.Address] {
			continue
		}
		p.told = v.Unreached[i.Address]
		if p.told == "" {
			s.tell(event.InstanceState, slog.LevelInfo, "visitors of the public address may reach an instance again", slog.String("instance", i.Name))
			continue
		}
		s.tell(event.InstanceState, slog.LevelWarn, "visitors of the public address do not reach an instance, though it answers at its own: its ob_config lacks a line, which status shows",
			slog.String("instance", i.Name))
	}
	for a := range s.visits.paths {
		if !slices.ContainsFunc(s.cfg.Instances, func(i Instance) bool { return i.Address == a }) {
			delete(s.visits.paths, a)
		}
	}
}
