package balance

import (
	"encoding/json"
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/credential"
	"onionbalancer/selection"
)

// Reason says why an edition is made. Reasons are for people to read.
type Reason string

// The reasons; the first that applies is given.
const (
	ReasonNew      Reason = "new period"
	ReasonChanged  Reason = "introduction points changed"
	ReasonClients  Reason = "authorized clients changed"
	ReasonHSDirs   Reason = "HSDirs changed"
	ReasonRejected Reason = "HSDirs held a higher revision counter"
	ReasonExpiring Reason = "certificate about to expire"
	ReasonKey      Reason = "descriptor-signing key changed"
	ReasonLost     Reason = "HSDirs lost it"
	ReasonRefresh  Reason = "refresh due"
)

// View is the input of a plan: the world outside of the service, at one
// moment.
type View struct {
	Now       time.Time
	Config    Config
	Instances backend.View // in the order of Config.Instances
	Urgent    bool         // something changed that should not wait for fetches
	// Unreached says why visitors of the public address do not reach an instance that
	// answers at its own, by its address.
	Unreached map[descriptor.Address]string
	SendmeInc uint8 // the consensus's cc_sendme_inc
	// Vouch returns an introduction point as it may be published, or an error if its
	// relay is not in the consensus as the point names it: Consensus.Vouch.
	Vouch   func(*descriptor.IntroductionPoint) (*descriptor.IntroductionPoint, error)
	Current hsdir.Role    // of the descriptor that clients fetch
	Targets [2]ViewTarget // the first and the second descriptor
	valid   [2]time.Time  // the consensus, from and until
	offset  time.Duration // of the beginnings of periods
	// outdated is how long after a consensus is no longer fresh a client may still use it.
	outdated time.Duration
}

// ViewTarget is where one of the two descriptors goes.
type ViewTarget struct {
	Ring       *hsdir.Ring
	Keys       descriptor.PeriodKeys
	Slots      []hsdir.Slot           // those that clients ask first
	Credential *credential.Credential // nil while no key can sign
}

func (t ViewTarget) need() credential.Need {
	return credential.Need{Keys: t.Keys, MaxSize: t.Ring.MaxDescriptorSize()}
}

// State is what a service has published.
type State struct {
	Editions map[descriptor.Period]*Edition // the last of each period
	// Published are the points of the last plan; the next one prefers to keep
	// them.
	Published []selection.Candidate
	Contents  *descriptor.Contents // of the last plan that had any points
	Owners    []descriptor.Address // the instances whose points Contents has
	Version   uint64               // of the stored record that the state goes on from
}

// Plan says what should be published at one moment, and why. It is a value: making
// one has no side effects.
type Plan struct {
	At time.Time `json:"at"`
	// Version is that of the record which the plan was made from: it is void if
	// the record has another one by the time it is carried out.
	Version uint64 `json:"version"`
	// Waiting says why nothing is decided yet; empty if Targets are. A service shows
	// the Targets, Left, Thefts, Out, Down and Panic of its plan before meanwhile.
	Waiting  string                `json:"waiting,omitempty"`
	Fallback bool                  `json:"fallback,omitempty"` // no instance is ok: the points are the last known ones
	Panic    bool                  `json:"panic,omitempty"`    // instances stay in use against what checks say
	Chosen   []selection.Candidate `json:"-"`
	Shares   map[string]float64    `json:"expected_shares,omitempty"` // of the clients, 0 to 1, by instance
	Contents *descriptor.Contents  `json:"-"`                         // of every slot; nil if there is nothing to publish
	Targets  []Target              `json:"targets,omitempty"`
	Next     time.Time             `json:"next,omitzero"` // when the next plan may differ, even without an event
	Left     map[string][]string   `json:"left_out,omitempty"`
	Thefts   map[string]string     `json:"thefts,omitempty"`
	Out      map[string]string     `json:"taken_out,omitempty"` // by instance: why it was taken out on purpose
	Down     map[string]string     `json:"down,omitempty"`      // by instance: what checks have against it, so that it is left out
}

// Target is what one of the two descriptors should be.
type Target struct {
	ViewTarget `json:"-"`
	Role       hsdir.Role
	Contents   []*descriptor.Contents // of each of Slots
	Reason     Reason                 // why a new edition is needed; empty if the last one will do
	Held       string                 // why it is not made despite the reason; empty if it is
	Urgency    hsdir.Urgency
}

// HSDirs keep a descriptor for three hours. A service whose instances have not been
// seen for long publishes no new one until the last is about to be dropped.
const (
	keptFor     = 3 * time.Hour
	dropMargin  = 30 * time.Minute
	freshFor    = 3               // intervals between fetches
	freshAtBest = 6 * time.Minute // with shorter intervals, too
)

// makePlan says what should be published, given the view and the published
// state. It reads no clock and no randomness, and changes nothing.
func makePlan(v View, s State) Plan {
	p := Plan{At: v.Now, Version: s.Version, Contents: s.Contents, Chosen: s.Published}
	p.Next = v.Now.Add(time.Hour)
	if until := v.Instances.Wait(v.Now); v.Now.Before(until) && !v.Urgent {
		p.Waiting, p.Next = "fetches of instances are in flight", until
		return p
	}
	if len(v.Targets[v.Current].Slots) == 0 {
		p.Waiting = "the consensus has no HSDirs"
		return p
	}
	pool := gather(v)
	p.Panic, p.Fallback, p.Left, p.Thefts, p.Out, p.Down = pool.panic, pool.fallback, pool.left, pool.thefts, pool.out, pool.down
	assigned := choose(v, s.Published, pool.candidates)
	p.Chosen, p.Shares = assigned.Points[0], assigned.Shares() // every slot holds the same
	p.Contents = contents(p.Chosen, v, pool.flow)
	if len(p.Chosen) == 0 {
		p.Contents = remaining(s.Contents, v) // an empty descriptor is never published
	}
	for role, t := range v.Targets {
		target := Target{ViewTarget: t, Role: hsdir.Role(role), Contents: slices.Repeat([]*descriptor.Contents{p.Contents}, len(t.Slots))}
		p.decide(&target, v, s)
		p.Targets = append(p.Targets, target)
	}
	p.expire(v)
	return p
}

// choose selects the points of the descriptors. Published ones are kept as
// long as they are as good as any other.
func choose(v View, published, candidates []selection.Candidate) selection.Assignment {
	holds := make([][32]byte, len(published))
	for i, c := range published {
		holds[i] = c.Point.AuthKey
	}
	request := selection.Request{Now: v.Now, Candidates: candidates, Room: v.room()}
	current := v.Targets[v.Current]
	if len(current.Slots) > 0 { // one for all: every slot holds the same
		request.Slots = []selection.Slot{{Replica: 1, Asked: true, Holds: holds}}
	}
	if current.Credential != nil {
		request.Seed = current.Credential.Seed
	}
	return selection.Assign(v.Config.Strategy, request)
}

// room returns what of the configured room there is beside the clients and the CAA
// records: HSDirs bound the size of a descriptor.
func (v View) room() selection.Room {
	room := v.Config.Room
	if ring := v.Targets[v.Current].Ring; ring != nil {
		beside := descriptor.Contents{Clients: v.Config.Clients, CAA: v.Config.CAA}
		room.Points = min(room.Points, beside.MaxPoints(ring.MaxDescriptorSize()))
	}
	return room
}

// decide fills in whether t needs a new edition, and why.
func (p *Plan) decide(t *Target, v View, s State) {
	last := s.Editions[t.Keys.Period]
	if p.Contents == nil || len(p.Contents.IntroductionPoints) == 0 || t.Credential == nil || len(t.Slots) == 0 {
		return // the published descriptor stays
	}
	t.Reason = t.reason(v.Now, last)
	if last == nil {
		t.Urgency = hsdir.UrgencyRotation
		if len(s.Editions) == 0 {
			t.Urgency = hsdir.UrgencyNew
		}
		return
	}
	p.sooner(last.Refresh, v.Now)
	p.sooner(last.Credential.Expires, v.Now)
	p.sooner(last.retryAt, v.Now)
	if t.Reason == "" {
		return
	}
	t.Urgency = urgency(t.Reason, last.Contents, p.Contents)
	if at := v.staleUntil(t.Reason, last); v.Now.Before(at) {
		t.Held = "no instance has answered for too long to make a new descriptor"
		p.sooner(at, v.Now)
	}
}

// reason returns why t needs a new edition, or nothing.
func (t *Target) reason(now time.Time, last *Edition) Reason {
	switch {
	case last == nil:
		return ReasonNew
	case t.Contents[0] != nil && !slices.Equal(last.Contents.Clients, t.Contents[0].Clients):
		return ReasonClients
	case t.changed(last):
		return ReasonChanged
	case slices.ContainsFunc(t.Slots, func(s hsdir.Slot) bool { return last.slot(s.HSDir) == nil }):
		return ReasonHSDirs // no slot gets a counter that the others lack
	case last.Credential != t.Credential && now.Add(credential.ExpiryMargin).Before(last.Credential.Expires):
		return ReasonKey
	case last.Credential != t.Credential:
		return ReasonExpiring
	case last.lost:
		return ReasonLost
	case last.outdone, last.rejected(now):
		return ReasonRejected
	case !now.Before(last.Refresh):
		return ReasonRefresh
	}
	return ""
}

// changed reports whether a slot should hold other contents than it does.
func (t *Target) changed(last *Edition) bool {
	for n, s := range t.Slots {
		if holds := last.slot(s.HSDir); holds != nil && !sameContents(holds.contents, t.Contents[n]) {
			return true
		}
	}
	return false
}

// urgency says how much clients lose while an edition is pending.
func urgency(r Reason, last, next *descriptor.Contents) hsdir.Urgency {
	switch r {
	case ReasonNew:
		return hsdir.UrgencyRotation
	case ReasonChanged, ReasonClients:
		alive := 0
		for n := range last.IntroductionPoints {
			if slices.ContainsFunc(next.IntroductionPoints, func(p descriptor.IntroductionPoint) bool {
				return backend.SamePoint(&p, &last.IntroductionPoints[n])
			}) {
				alive++
			}
		}
		if alive == 0 {
			return hsdir.UrgencyNoLivePoint
		}
		return hsdir.UrgencyPointsDead
	case ReasonHSDirs, ReasonRejected, ReasonLost:
		return hsdir.UrgencyPointsDead
	}
	return hsdir.UrgencyRefresh
}

// staleUntil returns the moment before which no edition may follow last, since
// no instance has been seen for too long; the zero time if the view is fresh, or
// HSDirs no longer hold a descriptor that could stay. A client that is authorized no
// more does not wait for that.
func (v View) staleUntil(r Reason, last *Edition) time.Time {
	fresh := max(freshFor*v.Instances.Interval(), freshAtBest)
	heard := v.Instances.Heard()
	if heard.IsZero() || v.Now.Sub(heard) <= fresh || last.heard.IsZero() || r == ReasonClients || r == ReasonLost || r == ReasonRejected {
		return time.Time{}
	}
	return last.Built.Add(keptFor - dropMargin)
}

// expire schedules the next plan for when an instance or a point of this one expires.
func (p *Plan) expire(v View) {
	for _, c := range p.Chosen {
		p.sooner(c.Point.Expires.Add(-expiryMargin), v.Now)
		p.sooner(c.Point.Expires, v.Now)
	}
	for _, b := range v.Instances.Backends {
		p.sooner(b.Seen.Add(backend.SilentAfter+time.Second), v.Now)
	}
}

// sooner moves the next plan up to the given moment, if that is in the future.
func (p *Plan) sooner(at, now time.Time) {
	if at.After(now) {
		p.Next = earlier(p.Next, at)
	}
}

// MarshalJSON writes the plan for a target, without its keys.
func (t Target) MarshalJSON() ([]byte, error) {
	type slot struct {
		Replica int      `json:"replica"`
		HSDir   string   `json:"hsdir"`
		Reserve bool     `json:"reserve,omitempty"`
		Points  []string `json:"introduction_points"` // relays, in order
	}
	out := struct {
		Role   hsdir.Role `json:"role"`
		Period uint64     `json:"period"`
		Reason Reason     `json:"reason,omitempty"`
		Held   string     `json:"held,omitempty"`
		Slots  []slot     `json:"slots"`
	}{Role: t.Role, Period: t.Keys.Period.Number, Reason: t.Reason, Held: t.Held}
	for n, s := range t.Slots {
		line := slot{Replica: s.Replica, HSDir: hsdir.Relay{Fingerprint: s.HSDir}.Hex(), Reserve: s.Reserve}
		if c := t.Contents[n]; c != nil {
			for _, p := range c.IntroductionPoints {
				line.Points = append(line.Points, p.Relay().String())
			}
		}
		out.Slots = append(out.Slots, line)
	}
	return json.Marshal(out)
}

// target returns the plan's target for a ring, nil if the plan has none.
func (p *Plan) target(r *hsdir.Ring) *Target {
	for n := range p.Targets {
		if p.Targets[n].Ring == r {
			return &p.Targets[n]
		}
	}
	return nil
}
