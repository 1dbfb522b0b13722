// Package status describes what the daemon is doing, as one JSON value that
// the command line, programs and tests read alike, and serves it over a unix
// socket that only the daemon's user can open.
package status

import (
	"slices"
	"time"
)

// Snapshot is everything the daemon tells about itself at one moment. Secrets
// never enter it. Onion addresses are whole: anyone who can open the socket can
// read the configuration too.
type Snapshot struct {
	Version   string    `json:"version"`
	PID       int       `json:"pid"`
	Now       time.Time `json:"now"`
	Started   time.Time `json:"started"`
	Config    string    `json:"config,omitempty"`
	Loaded    time.Time `json:"loaded"`                      // when the configuration in force was read from Config
	LeftOut   int       `json:"services_left_out,omitempty"` // services of it that could not be opened
	Reloads   []Event   `json:"reloads,omitempty"`           // the last few, newest last
	Tors      []Tor     `json:"tors"`
	Tor       Tor       `json:"tor"` // the first of Tors, for programs of the time when there was one
	Consensus Consensus `json:"consensus"`
	Services  []Service `json:"services"`           // the [[service]]s of the configuration
	Shards    []Shard   `json:"shards,omitempty"`   // with all customers, in numbers
	Cluster   *Cluster  `json:"cluster,omitempty"`  // nil: this manager is alone
	Warnings  []string  `json:"warnings,omitempty"` // about the daemon as a whole
	// Events counts events since the start, by kind.
	Events map[string]uint64 `json:"events,omitempty"`

	// FullAddresses is log.full_addresses: metrics, which travel as logs do, name
	// services by their whole addresses.
	FullAddresses bool `json:"full_addresses,omitempty"`
}

// Refused returns the last reload if its configuration was refused, so that
// an earlier one is in force; else nil.
func (s Snapshot) Refused() *Event {
	if n := len(s.Reloads); n > 0 && s.Reloads[n-1].Error != "" {
		return &s.Reloads[n-1]
	}
	return nil
}

// Event is a single event and its result.
type Event struct {
	At    time.Time `json:"at"`
	What  string    `json:"what"`
	Error string    `json:"error,omitempty"`
}

// Connected reports whether a tor is connected.
func (s Snapshot) Connected() bool {
	return slices.ContainsFunc(s.Tors, func(t Tor) bool { return t.Connected })
}

// Tor is a tor that the daemon talks through.
type Tor struct {
	Name      string    `json:"name"`
	Own       bool      `json:"own"` // started and watched by the daemon
	Control   string    `json:"control"`
	Socket    string    `json:"socket,omitempty"` // control port of a tor of our own
	Restarts  int       `json:"restarts,omitempty"`
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since,omitzero"`
	Version   string    `json:"version,omitempty"`
	Bootstrap int       `json:"bootstrap_percent,omitempty"` // of a tor of our own
	Serving   bool      `json:"serving"`                     // false while its services are moved to other tors
	Error     string    `json:"error,omitempty"`
	Uploads   Uploads   `json:"uploads"`
}

// Uploads is what there is to upload through a tor, in HSDirs that are to get one
// descriptor each, and what was tried since the start.
type Uploads struct {
	Pending   int    `json:"pending"`
	InFlight  int    `json:"in_flight"` // of Pending
	Waiting   int    `json:"waiting"`   // of Pending, for another attempt after one that failed
	Confirmed uint64 `json:"confirmed"`
	Rejected  uint64 `json:"rejected"`
	Failed    uint64 `json:"failed"`
}

// Consensus is the network as tor last described it.
type Consensus struct {
	Known      bool      `json:"known"`
	ValidAfter time.Time `json:"valid_after,omitzero"`
	FreshUntil time.Time `json:"fresh_until,omitzero"`
	ValidUntil time.Time `json:"valid_until,omitzero"`
	HSDirs     int       `json:"hsdirs"`
	NextChange time.Time `json:"next_change,omitzero"` // of period or shared random value
	Error      string    `json:"error,omitempty"`

	// When time periods begin: the length of one, and how long after a multiple
	// of it since the epoch.
	PeriodMinutes uint64 `json:"period_length_minutes,omitempty"`
	OffsetSeconds uint64 `json:"rotation_offset_seconds,omitempty"`
}

// State summarizes a service or an instance in a word.
type State string

// The states of a service, best first, then those that only an instance has.
const (
	StateOK          State = "ok"          // published and confirmed where it matters; an instance that is used
	StateDegraded    State = "degraded"    // published, with something an operator should look at
	StateStarting    State = "starting"    // not published yet
	StateFailed      State = "failed"      // no instance left, or no key to sign: the last good descriptor stays published
	StateElsewhere   State = "elsewhere"   // another manager of the cluster publishes it
	StateSilent      State = "silent"      // its descriptor has not been renewed for too long
	StateUnknown     State = "unknown"     // no HSDir has a descriptor of it
	StateUnreachable State = "unreachable" // not enough HSDirs answered
	StateInvalid     State = "invalid"     // HSDirs returned only invalid descriptors
	StateDown        State = "down"        // checks find it down
)

// Service is one public address.
type Service struct {
	Address     string       `json:"address"`
	State       State        `json:"state"`
	Strategy    string       `json:"strategy"`
	Profile     string       `json:"profile"` // "balanced" or "ordinary"
	Custody     Custody      `json:"custody"`
	Instances   []Instance   `json:"instances"`
	Descriptors []Descriptor `json:"descriptors"`
	// ReservedUntil is until when one of several managers has reserved revision counters:
	// for as long it publishes without their store.
	ReservedUntil time.Time `json:"reserved_until,omitzero"`
	Rounds        uint64    `json:"rounds"`
	LastRound     time.Time `json:"last_round,omitzero"`
	NextFetch     time.Time `json:"next_fetch,omitzero"`
	FirstAnswer   *float64  `json:"seconds_to_first_publication,omitempty"`
	ReadBack      time.Time `json:"read_back,omitzero"` // when clients last got the published descriptor
	Visited       time.Time `json:"visited,omitzero"`   // when a visit of the public address last passed
	VisitError    string    `json:"visit_error,omitempty"`
	Panic         bool      `json:"panic,omitempty"`              // instances stay in use against what checks say
	Clients       int       `json:"authorized_clients,omitempty"` // the only ones who can read the descriptor; 0: everybody can
	Owner         *Owner    `json:"owner,omitempty"`              // who publishes it, in a cluster; nil if there is none
	Warnings      []string  `json:"warnings,omitempty"`
}

// Custody says who keeps the keys of a service, and how long that lasts. After a
// change it names the old keys until the new ones have certified.
type Custody struct {
	Form           string    `json:"form"`                     // of the identity key: "tor", "pem", "sealed", "offline"
	Signing        string    `json:"signing"`                  // where the descriptor-signing keys are: "memory", "disk" or "token"
	CertifiedUntil time.Time `json:"certified_until,omitzero"` // the end of the last certificate for the descriptor that clients fetch
	// SameExpiry says that this descriptor has one certificate at all hours, whose expiry
	// HSDirs see stay the same: that of a ceremony by an earlier version.
	SameExpiry bool `json:"same_expiry,omitempty"`
	*Ahead          // nil unless the certificates were made at a ceremony
}

// Ahead is the supply of certificates that were made at a ceremony.
type Ahead struct {
	Periods   int       `json:"periods_left"`      // certified, from the one that clients fetch for on
	Horizon   int       `json:"periods_horizon"`   // covered by the longest ceremony that the remaining certificates are from
	RenewBy   time.Time `json:"renew_by,omitzero"` // when the first period without a certificate begins to be published
	DarkAt    time.Time `json:"dark_at,omitzero"`  // when clients begin to ask for that period
	Remaining float64   `json:"remaining_seconds"` // until DarkAt; 0 after it
}

// Instance is one backend of a service.
type Instance struct {
	Name               string    `json:"name"`
	Address            string    `json:"address"`
	State              State     `json:"state"`
	IntroductionPoints int       `json:"introduction_points"` // that could be used
	Published          int       `json:"published"`           // of them, in the master descriptor
	Share              float64   `json:"expected_share"`      // of the clients, 0 to 1
	Revision           uint64    `json:"revision_counter,omitempty"`
	Renewed            time.Time `json:"renewed,omitzero"`         // when it published that revision
	RenewedBefore      bool      `json:"renewed_before,omitempty"` // only that it was not later than Renewed is known
	LastFetch          time.Time `json:"last_fetch,omitzero"`
	NextFetch          time.Time `json:"next_fetch,omitzero"`
	Error              string    `json:"error,omitempty"`
	Visited            time.Time `json:"visited,omitzero"` // when a visit of the public address last got to it
	Path               string    `json:"path,omitempty"`   // why visitors of the public address do not reach it
	Probe              string    `json:"probe,omitempty"`  // its probe address
	ProbePublished     bool      `json:"probe_published,omitempty"`
	Warnings           []string  `json:"warnings,omitempty"`

	Admin  string  `json:"admin"`           // "ready", "drain" or "maint"
	Weight float64 `json:"weight"`          // in force
	Load   *Load   `json:"load,omitempty"`  // nil unless it was told, and counts
	Check  *Check  `json:"check,omitempty"` // nil unless it is checked
	Said   *Said   `json:"said,omitempty"`  // nil unless the operator said something at run time
	Drain  *Drain  `json:"drain,omitempty"` // nil unless it was taken out
}

// Check is what the checks of an instance found.
type Check struct {
	Kind       string    `json:"kind"`
	Operating  string    `json:"operating"` // "unchecked", "up", "going down", "down" or "going up"
	Since      time.Time `json:"since"`
	Doubt      bool      `json:"doubt,omitempty"`      // it fails, and so does everything else: it stays in use
	Held       time.Time `json:"held_until,omitzero"`  // until when it stays out although it passes
	At         time.Time `json:"at,omitzero"`          // of the last check
	Seconds    float64   `json:"seconds"`              // that it took
	Error      string    `json:"error,omitempty"`      // why it failed, or why none can be made
	Text       string    `json:"agent_text,omitempty"` // what the agent said
	Passed     uint64    `json:"passed"`               // checks, since the start
	Failed     uint64    `json:"failed"`
	DeadPoints int       `json:"dead_points,omitempty"` // introduction points that checks do not get through
}

// Said is what the operator said about an instance at run time, beside Admin.
type Said struct {
	Since  time.Time `json:"since"`
	Weight string    `json:"weight"` // "50", "50%", or "default" for nothing
}

// Load is how loaded an instance was told to be.
type Load struct {
	Value float64   `json:"value"` // in any unit that the instances have in common
	Until time.Time `json:"until"` // when it no longer counts
}

// Drain is how far an instance is on the way out of one service.
type Drain struct {
	Pending int       `json:"pending_slots"`         // HSDirs that clients ask, and that may still have its introduction points
	Left    time.Time `json:"left,omitzero"`         // when the last of them had a descriptor without these
	SafeAt  time.Time `json:"safe_at,omitzero"`      // when clients no longer have an older descriptor
	Safe    bool      `json:"safe_to_stop"`          // no client of this service can come any more
	Stays   bool      `json:"points_stay,omitempty"` // its introduction points stay, as no other instance is in service
	// Customers is how many of a shard's customers have HSDirs in Pending.
	Customers int `json:"pending_customers,omitempty"`
}

// Descriptor is the first or the second master descriptor of a service.
type Descriptor struct {
	Which     string    `json:"which"` // "first" or "second"
	Period    uint64    `json:"period"`
	Minutes   uint64    `json:"period_length_minutes"`
	Current   bool      `json:"current"` // whether it is the one that clients fetch now
	Points    int       `json:"introduction_points"`
	Revision  uint64    `json:"revision_counter"`
	Reason    string    `json:"reason"` // why it was made
	Built     time.Time `json:"built"`
	Refresh   time.Time `json:"refresh"`
	Slots     []Slot    `json:"slots"`
	Confirmed int       `json:"confirmed"` // of Slots
	// Left are HSDirs that left the ring lately: clients with an older consensus ask them.
	Left []Slot `json:"left,omitempty"`
}

// Slot is one HSDir that a descriptor goes to.
type Slot struct {
	Replica   int       `json:"replica"` // counted from 1
	HSDir     string    `json:"hsdir"`   // fingerprint in hex
	Reserve   bool      `json:"reserve"` // not asked by clients while the ring stays as it is
	Points    int       `json:"introduction_points"`
	Confirmed bool      `json:"confirmed"`
	At        time.Time `json:"at,omitzero"` // of the confirmation
	Attempts  int       `json:"attempts"`
	Error     string    `json:"error,omitempty"`

	// What the HSDir returned when it was last asked as clients ask it. That it
	// was asked before At says nothing about this version.
	ReadBack time.Time `json:"read_back,omitzero"`
	Holds    Holds     `json:"holds,omitempty"`
	Revision uint64    `json:"holds_revision,omitempty"`
}

// Holds is what an HSDir has of a service, beside the descriptor that was published.
type Holds string

// What an HSDir may have.
const (
	HoldsPublished Holds = "published" // what it should have
	HoldsOlder     Holds = "older"     // a descriptor that was published before
	HoldsOther     Holds = "other"     // one that somebody else published with the same key
	HoldsNone      Holds = "none"
	HoldsInvalid   Holds = "invalid"
)
