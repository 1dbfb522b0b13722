// Package health judges instances by what checks and their agents report: it has
// the rules and no clock, network or goroutine. Package check makes the checks.
package health

import (
	"errors"
	"time"

	"onionbalancer/descriptor"
)

// Kind is a kind of check.
type Kind string

// The kinds.
const (
	None  Kind = "none"
	TCP   Kind = "tcp"   // a connection to the port
	HTTP  Kind = "http"  // a request and its answer
	Agent Kind = "agent" // the line of an HAProxy agent
)

// Spec says how an instance is checked, in HAProxy's words. It is comparable:
// services with equal Specs for an instance share its checks.
type Spec struct {
	Kind    Kind
	Address descriptor.Address // where to connect; zero: the instance's own address
	Port    uint16
	// AnyPort makes a tor that answers enough, if it has no such port: Port was not
	// configured.
	AnyPort bool

	// For HTTP.
	Path   string
	Host   string // header; empty: the onion address
	Status string // what the status must match, see MatchStatus
	Text   string // what the body must have; empty: anything

	Patient bool // as in Visit

	Interval     time.Duration // between checks of an instance that is up or down
	FastInterval time.Duration // between checks while it is going up or down
	Timeout      time.Duration // of one check
	Rise         int           // checks in a row that must pass for an instance to be up again
	Fall         int           // checks in a row that must fail for an instance to be down
	Jitter       float64       // share of the interval by which it varies, 0 to 1

	Via string // the tor to go through; empty: the one that serves the address
}

// Stage is how far a check got.
type Stage int

// The stages, in their order.
const (
	NoTor      Stage = iota // our own tor did not take the connection: this says nothing about the instance
	NoPoint                 // no descriptor, or no introduction point that acknowledged
	Introduced              // an introduction point acknowledged, and tor did not answer
	Answered                // the instance's tor answered, and has no such port or refused
	Connected               // the port accepted
	Spoken                  // the application answered, rightly or not
)

// Result is the result of one check.
type Result struct {
	Began time.Time
	Ended time.Time
	Via   string // the tor that it went through
	Fresh bool   // whether it had circuits of its own
	Stage Stage
	Err   error // why it failed; nil if it passed
	// Points are the introduction points that were tried, in order, as far as known.
	Points []PointResult
	// Report is what the agent said; zero for nothing.
	Report AgentReport
}

// PointResult is what happened at one introduction point.
type PointResult struct {
	Relay        descriptor.Fingerprint // of the relay's RSA key
	Acknowledged bool                   // the relay knew the point
	Answered     bool                   // and tor answered at the rendezvous
}

// Admin is an administrative state.
type Admin string

// The administrative states, in the order of their precedence.
const (
	Ready Admin = "ready"
	Drain Admin = "drain" // no new visitors; checks go on
	Maint Admin = "maint" // no new visitors, no checks
)

// Operating is an operating state, as checks see it.
type Operating string

// The operating states.
const (
	Unchecked Operating = "unchecked" // no check has ended yet, or none is made
	Up        Operating = "up"
	GoingDown Operating = "going down" // used, and suspected
	Down      Operating = "down"
	GoingUp   Operating = "going up" // not used, and recovering
)

// AgentReport is the meaning of one line of HAProxy's agent check. What the line
// does not mention stays as it was.
type AgentReport struct {
	Operating Operating // Up, Down; empty: not mentioned
	Admin     Admin     // empty: not mentioned
	Weighted  bool      // whether the line has a weight
	Weight    float64   // as a factor of the configured weight
	Loaded    bool      // whether the line has a load
	Load      float64
	Text      string // the description
}

// Visit is a connection through tor to an onion service.
type Visit struct {
	Address descriptor.Address
	Port    uint16
	// Circuit names the circuits to use: visits to an address under one name share
	// circuits as long as these live, and a new name has new ones.
	Circuit string
	Via     string // the tor to go through; empty: the one that serves the address
	// Patient has tor go on to other introduction points, as clients do. Otherwise the
	// visit ends when the first one does not know the service: tor needs seconds to
	// try them all.
	Patient bool
}

// Trace is what a Visit showed on its way.
type Trace struct {
	Via    string        // the tor that it went through
	Stage  Stage         // how far it got
	Points []PointResult // the introduction points tried, in order; none on a circuit that was there
}

// Errors of a Visit whose Trace is Answered wrap one of these, if it is known which it
// was.
var (
	// ErrNoPort: tor has no such HiddenServicePort.
	ErrNoPort = errors.New("the onion service has no such port")
	// ErrRefused: tor could not connect to where its HiddenServicePort leads.
	ErrRefused = errors.New("nothing accepts connections where the onion service's port leads")
	// ErrSilent: tor answered at the rendezvous, and neither of the above.
	ErrSilent = errors.New("the onion service's port neither accepted nor refused the connection")
)
