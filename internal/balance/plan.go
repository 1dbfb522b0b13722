package balance

import (
	"net/netip"
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/state"
	"onionbalancer/internal/times"
	"onionbalancer/selection"
)

// Reason says why an edition is made. Reasons are for people to read.
type Reason string

// The reasons; the first that applies is given.
const (
	ReasonNew       Reason = "new period"
	ReasonWithdrawn Reason = "withdrawn"
	ReasonChanged   Reason = "introduction points changed"
	ReasonClients   Reason = "authorized clients changed"
	ReasonHSDirs    Reason = "HSDirs changed"
	ReasonRejected  Reason = "HSDirs held a higher revision counter"
	ReasonExpiring  Reason = "certificate about to expire"
	ReasonKey       Reason = "descriptor-signing key changed"
	ReasonLost      Reason = "HSDirs lost it"
	ReasonRefresh   Reason = "refresh due"
)

// View is the input of a plan: the world outside of the service, at one
// moment.
type View struct {
	Now       time.Time
	Config    Config
	Instances backend.View          // in the order of Config.Instances
	own       *descriptor.ClientKey // the manager's, one of Config.Clients; nil if it has none
	Urgent    bool                  // something changed that should not wait for fetches
	Waiting   time.Time             // since when plans have waited for fetches; zero if the last did not
	// Unreached says why visitors of the public address do not reach an instance that
	// answers at its own, by its address.
	Unreached map[descriptor.Address]string
	SendmeInc uint8 // the consensus's cc_sendme_inc
	// Vouch returns an introduction point as it may be published, or an error if its
	// relay is not in the consensus as the point names it: Consensus.Vouch.
	Vouch   func(*descriptor.IntroductionPoint) (*descriptor.IntroductionPoint, error)
	Relay   func(*descriptor.IntroductionPoint) (hsdir.RelayInfo, bool) // Consensus.Relay; nil: none is known
	Country func(netip.Addr) (code string, open bool)                   // Env.Country
	// Unadvised says that the program that Config.Strategy is by has not answered yet.
	Unadvised bool
	Current   hsdir.Role    // of the descriptor that clients fetch
	Targets   [2]ViewTarget // the first and the second descriptor
	valid     [2]time.Time  // the consensus, from and until
	offset    time.Duration // of the beginnings of periods
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

// need returns the credential that a target needs.
func (v View) need(role hsdir.Role) credential.Need {
	t := v.Targets[role]
	return credential.Need{Keys: t.Keys, MaxSize: t.Ring.MaxDescriptorSize(), LastUse: t.Ring.Period.LastUse(v.offset)}
}

// State is what a service has published.
type State struct {
	Editions map[descriptor.Period]*Edition // the last of each period
	// Before has what is stored of the editions that an earlier process made.
	Before map[descriptor.Period]*past
	// Published are the points of the last plan, and Shares what each instance could
	// expect of it.
	Published []selection.Candidate
	Shares    map[string]float64
	Version   uint64 // of the stored record that the state goes on from
	// hidden are points that instances show no more: View.stillHidden.
	hidden []selection.Candidate
	// unread is until when HSDirs may have what a record tells that could not be read.
	unread time.Time
}

// past is what is stored of an edition.
type past struct {
	made   state.Made
	places []place // what they hold has no more than keys and relays, and is not published again
}

// Plan says what should be published at one moment, and why. It is a value: making
// one has no side effects.
type Plan struct {
	At time.Time `json:"at"`
	// Version is that of the record which the plan was made from: it is void if
	// the record has another one by the time it is carried out.
	Version uint64 `json:"version"`
	Profile string `json:"profile"` // "balanced" or "ordinary"
	// Waiting says why nothing is decided yet; empty if Targets are. A service shows
	// the Targets, Contents, Left, Thefts, Out, Down and Panic of its plan before meanwhile.
	Waiting  string                `json:"waiting,omitempty"`
	Fallback bool                  `json:"fallback,omitempty"`        // no instance is ok: the points are the last known ones
	Panic    bool                  `json:"panic,omitempty"`           // instances stay in use against what checks say
	Chosen   []selection.Candidate `json:"-"`                         // the points of all slots, each once
	Shares   map[string]float64    `json:"expected_shares,omitempty"` // of the clients, 0 to 1, by instance
	// OverTurns are the shares over many refreshes, if there are more instances than
	// places, so that they take turns; else nil.
	OverTurns map[string]float64 `json:"expected_shares_over_turns,omitempty"`
	Why       string             `json:"why,omitempty"` // each instance has as many places as it has
	// Contents are those of the first slot that clients ask now; nil if there is
	// nothing to publish.
	Contents *descriptor.Contents `json:"-"`
	Targets  []Target             `json:"targets,omitempty"`
	Next     time.Time            `json:"next,omitzero"` // when the next plan may differ, even without an event
	Left     map[string][]string  `json:"left_out,omitempty"`
	Thefts   map[string]string    `json:"thefts,omitempty"`
	Out      map[string]string    `json:"taken_out,omitempty"`    // by instance: why it was taken out on purpose
	Down     map[string]string    `json:"down,omitempty"`         // by instance: what checks have against it, so that it is left out
	Lifted   bool                 `json:"avoid_lifted,omitempty"` // points.avoid leaves no point, and so is not applied

	hidden   []selection.Candidate // what State.hidden is to be
	question selection.Request     // for the program of the strategy, if it is one
}

// Target is what one of the two descriptors should be.
type Target struct {
	ViewTarget `json:"-"`
	Role       hsdir.Role
	Reason     Reason // why a new edition is needed; empty if the last one will do
	Held       string // why it is not made despite the reason; empty if it is
	Gathers    bool   // it is Held for more changes to come along
	Urgency    hsdir.Urgency
	Turn       uint64 // of the strategy's
	Refresh    bool   // the Turn begins with the edition

	hosted bool
	moved  bool // there are HSDirs that the last edition did not go to
	stored bool // HSDirs have what an earlier process published, and it goes on from that

	places []place // what each HSDir should hold, those included that left
	change change
	due    time.Time // the end of the Turn, if it did not begin now
}

// HSDirs keep a descriptor for three hours. A service whose instances have not been
// seen for long publishes no new one until the last is about to be dropped.
const (
	keptFor     = 3 * time.Hour
	dropMargin  = 30 * time.Minute
	freshFor    = 3               // intervals between fetches
	freshAtBest = 6 * time.Minute // with shorter intervals, too
)

// waitMost is for how long plans wait for fetches, one after the other.
const waitMost = 15 * time.Second

// makePlan says what should be published, given the view and the published
// state. It reads no clock and no randomness, and changes nothing.
func makePlan(v View, s State) Plan {
	p := Plan{At: v.Now, Version: s.Version, Profile: v.Config.Profile(), Chosen: s.Published, Shares: s.Shares}
	p.Next = v.Now.Add(time.Hour)
	if v.Config.Withdrawn {
		p.withdraw(v, s)
		return p
	}
	until := v.Instances.Wait(v.Now)
	if !v.Waiting.IsZero() { // with many instances, fetches are always in flight
		until = times.Earlier(until, v.Waiting.Add(waitMost))
	}
	if v.Now.Before(until) && !v.Urgent {
		p.Waiting, p.Next = "fetches of instances are in flight", until
		return p
	}
	if len(v.Targets[v.Current].Slots) == 0 {
		p.Waiting = "the consensus has no HSDirs"
		return p
	}
	pool := gather(v)
	p.Panic, p.Fallback, p.Left, p.Thefts, p.Out, p.Down = pool.panic, pool.fallback, pool.left, pool.thefts, pool.out, pool.down
	p.Lifted = pool.lifted
	if v.Config.Hosted {
		pool.hidden = v.stillHidden(pool.candidates, s)
		p.hidden = pool.hidden
	}
	for n := range v.Instances.Backends {
		p.sooner(v.Instances.Load(n, v.Now).Until, v.Now)
	}
	p.Targets = make([]Target, len(v.Targets))
	d := newDealer(v, pool.flow)
	var others [][32]byte // of the points that the current descriptor is to have
	for _, role := range [2]hsdir.Role{v.Current, 1 - v.Current} {
		t := &p.Targets[role]
		t.ViewTarget, t.Role, t.hosted = v.Targets[role], role, v.Config.Hosted
		request := t.request(v, s, pool.candidates)
		if role == v.Current && p.awaitsAdvice(v, request) {
			return p
		}
		assigned := t.assign(v, request, append(others, s.beside(t.Keys.Period, v.Targets[1-role].Keys.Period, request.Room.Points)...))
		if len(assigned.Points) > 0 {
			others = keys(assigned.Points[0])
		}
		t.hold(assigned, d, s)
		if role == v.Current {
			p.Shares, p.Why = assigned.Shares(), assigned.Why
			if assigned.Sampled {
				p.OverTurns = assigned.OverTurns()
			}
		}
	}
	p.Chosen = d.chosen()
	for n := range p.Targets {
		p.decide(&p.Targets[n], v, s, &pool)
	}
	if first := p.Targets[v.Current].places[0].holding; first != nil {
		p.Contents = first.Contents
	}
	p.expire(v)
	return p
}

// request returns what an assignment of the points of every place of t depends on, and
// fills the places in but for what they should hold.
func (t *Target) request(v View, s State, candidates []selection.Candidate) selection.Request {
	last := s.last(t.Keys.Period)
	if v.Config.Ordinary {
		candidates = append(slices.Clip(candidates), v.hidden(candidates, s.Published)...)
		if !last.own { // its points are others than those of the other period
			last = lastOf{}
		}
	}
	t.Turn, t.Refresh, t.due = last.turn, !v.Now.Before(last.due), last.due
	if last.own && t.Refresh {
		t.Turn++
	}
	var gone []place
	if last.own && !v.Config.Ordinary {
		gone = v.left(t.Slots, last.places)
	}
	t.places = make([]place, 0, len(t.Slots)+len(gone))
	request := selection.Request{Now: v.Now, Candidates: candidates, Room: v.room(), Seed: v.seed(), Turn: t.Turn, Refresh: t.Refresh}
	var before *holding
	var keys [][32]byte
	add := func(slot hsdir.Slot, holds *holding, leftAt int64) {
		if holds != before {
			before, keys = holds, holds.keys()
		}
		t.places = append(t.places, place{slot, holds, leftAt})
		request.Slots = append(request.Slots, selection.Slot{Replica: slot.Replica, Asked: !slot.Reserve, Holds: keys})
	}
	for n, holds := range given(t.Slots, last.places, last.own) {
		add(t.Slots[n], holds, 0)
	}
	for _, p := range gone {
		add(p.Slot, p.holding, p.leftAt)
	}
	return request
}

// assign has the strategy choose the points of every place of t. What they were given
// before is kept as long as it is as good as anything else. An ordinary service's have
// none of the points of its other descriptors, whose keys are given.
func (t *Target) assign(v View, request selection.Request, others [][32]byte) selection.Assignment {
	switch {
	case len(t.Slots) == 0:
		return selection.Assignment{}
	case v.Config.Ordinary:
		return selection.Ordinary(v.Config.Strategy, request, others)
	}
	return selection.Assign(v.Config.Strategy, request)
}

// hold fills in what the places of t should hold: what was assigned, or what is left of
// what they were given if that is nothing. An empty descriptor is never published,
// except of a service that is withdrawn.
func (t *Target) hold(assigned selection.Assignment, d *dealer, s State) {
	some := slices.ContainsFunc(assigned.Points, func(points []selection.Candidate) bool { return len(points) > 0 })
	stored := s.last(t.Keys.Period).stored // then no more than the keys of the points is known
	for n := range t.places {
		switch at := &t.places[n]; {
		case some:
			at.holding = d.holding(assigned.Points[n])
		case stored:
			at.holding = nil
		default:
			at.holding = d.rest(at.holding)
		}
	}
	n := slices.IndexFunc(t.places, func(p place) bool { return !p.holding.empty() })
	for m := range t.places {
		if n >= 0 && t.places[m].holding.empty() {
			t.places[m].holding = t.places[n].holding
		}
	}
}

// lastOf is what was published last of a period.
type lastOf struct {
	places []place
	turn   uint64
	due    time.Time // the end of the turn
	own    bool      // it was this period's; else another's, as that has nothing yet
	stored bool      // by an earlier process
}

// last returns what was published last of a period.
func (s State) last(p descriptor.Period) (last lastOf) {
	if e := s.Editions[p]; e != nil {
		return lastOf{places: e.places(), turn: e.Turn, due: e.due, own: true}
	}
	if b := s.Before[p]; b != nil {
		return lastOf{places: b.places, turn: b.made.Turn, due: b.turnDue(), own: true, stored: true}
	}
	var newest uint64
	for other, e := range s.Editions {
		if other.Number >= newest {
			newest, last = other.Number, lastOf{places: e.places(), turn: e.Turn}
		}
	}
	if last.places != nil {
		return last
	}
	for other, b := range s.Before {
		if other.Number >= newest {
			newest, last = other.Number, lastOf{places: b.places, turn: b.made.Turn, stored: true}
		}
	}
	return last
}

// seed determines what strategies choose at random. It is the same for both
// descriptors, so that they have the same points unless there is a reason.
func (v View) seed() (seed [32]byte) {
	if c := v.Targets[v.Current].Credential; c != nil {
		return c.Seed
	}
	return seed
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
func (p *Plan) decide(t *Target, v View, s State, pool *pool) {
	last := s.Editions[t.Keys.Period]
	if t.Credential == nil || len(t.places) == 0 || t.places[0].holding.empty() {
		return // the published descriptor stays
	}
	if last == nil {
		t.Reason, t.Urgency = ReasonNew, hsdir.UrgencyRotation
		if len(s.Editions) == 0 {
			t.Urgency = hsdir.UrgencyNew
		}
		switch {
		case t.hosted:
			p.first(t, v, s, pool)
		case v.Config.Resume:
			p.resume(t, v, s, pool)
		}
		return
	}
	t.change = t.changeSince(last, pool)
	t.moved = slices.ContainsFunc(t.places, func(p place) bool { return last.slot(p.HSDir) == nil })
	until := v.gathersUntil(t, last, pool)
	t.Reason = t.reason(v.Now, last, v.Now.Before(until))
	p.sooner(last.Refresh, v.Now)
	p.sooner(last.expires(), v.Now)
	p.sooner(last.retryAt, v.Now)
	switch {
	case t.Reason == "" && (t.change != changeNone || t.moved):
		t.Reason, t.Held, t.Gathers = ReasonChanged, "changes are gathered until "+clock(until), true
		p.sooner(until, v.Now)
	case t.Reason == "":
		return
	}
	t.Urgency = t.urgency()
	if t.hosted && v.unnoticed(t, last) {
		t.Urgency = hsdir.UrgencyRefresh
	}
	if !t.hosted || v.asked(t.Keys.Period) {
		t.Urgency = min(t.Urgency, t.pending(last, pool))
	}
	p.separate(t, v, last)
	seen := !v.Instances.Heard().IsZero() || last.Reason == ReasonResumed
	if seen && !last.heard.IsZero() && last.points() > 0 {
		p.holdStale(t, v, last.Built)
	}
}

// separate holds t until the second in which last was made, which may be nil, is over: a
// counter is of a second, as tor's are; another edition in it would have one of no moment.
func (p *Plan) separate(t *Target, v View, last *Edition) {
	if last != nil && t.Reason != ReasonRejected && v.Now.Unix() == last.Built.Unix() {
		t.Held, t.Gathers = "the last edition was made in this second", true
		p.sooner(v.Now.Truncate(time.Second).Add(time.Second), v.Now)
	}
}

// reason returns why t needs a new edition now, or nothing. gathers says that a change
// of points is no reason yet.
func (t *Target) reason(now time.Time, last *Edition, gathers bool) Reason {
	switch {
	case !slices.Equal(last.slots[0].holding.Clients, t.places[0].holding.Clients):
		return ReasonClients
	case t.change != changeNone && !gathers:
		return ReasonChanged
	case t.moved && !(gathers && t.hosted):
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

// urgency says how much clients lose while the edition is pending.
func (t *Target) urgency() hsdir.Urgency {
	switch t.Reason {
	case ReasonNew:
		return hsdir.UrgencyRotation
	case ReasonChanged, ReasonClients:
		switch {
		case t.change == changeDead:
			return hsdir.UrgencyNoLivePoint
		case t.change == changeAdded && t.hosted:
			return hsdir.UrgencyRotation
		}
		return hsdir.UrgencyPointsDead
	case ReasonHSDirs, ReasonRejected, ReasonLost, ReasonPending:
		return hsdir.UrgencyPointsDead
	}
	return hsdir.UrgencyRefresh
}

// pending says how much clients lose since last is pending, which t replaces.
func (t *Target) pending(last *Edition, pool *pool) hsdir.Urgency {
	if last.heard.IsZero() {
		return last.Urgency
	}
	switch t.behind(last, pool) {
	case changeNone:
		return hsdir.UrgencyRefresh
	case changeDead:
		return hsdir.UrgencyNoLivePoint
	}
	return hsdir.UrgencyPointsDead
}

// staleUntil returns the moment before which no edition may follow one that was built at
// the given time and that HSDirs have, since no instance has been seen for too long; the
// zero time if the view is fresh. A client that is authorized no more does not wait for that.
func (v View) staleUntil(r Reason, built time.Time) time.Time {
	if !unseen(v.Instances, v.Now) || r == ReasonClients || r == ReasonLost || r == ReasonRejected {
		return time.Time{}
	}
	return built.Add(keptFor - dropMargin)
}

// unseen reports whether no fetch has shown for too long how any instance is.
func unseen(v backend.View, now time.Time) bool {
	return now.Sub(v.Heard()) > max(freshFor*v.Interval(), freshAtBest)
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
		p.Next = times.Earlier(p.Next, at)
	}
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
