// Package standby lets two machines stand in for each other without anything that they
// share: the active one publishes as a manager alone does, and the standby looks at the
// public descriptor as any client would, and publishes when clients would miss the active
// one. A third machine may watch, without any key.
//
// Neither machine ever hears from the other what it publishes. What HSDirs hand out is
// signed, so that an HSDir can hand out an older descriptor or none, and nothing else; and
// the revision counter in it, which nobody else can read, tells who holds the identity key
// when it was made. See Decide for what follows from it.
//
// Clients, and so tor, fetch the descriptor of one period at any time; a service has two.
// What the other of the two is at HSDirs nobody can ask. The active one makes each at least
// every two hours, so the other is at most that much older than the one that is read; and with
// a heartbeat, than the moment when the active one was last well.
package standby

import (
	"context"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/event"
	"onionbalancer/internal/state"
)

// Role is what a machine does for its services.
type Role string

// The roles. An active machine runs its services as a manager alone does, and needs no
// Watcher: it never yields.
const (
	Active  Role = "active"
	Standby Role = "standby"
	Watch   Role = "watch" // alarms only
)

// Kind is the kind of this package's events.
const Kind = event.Standby

// Service is a public address to follow.
type Service struct {
	Address  descriptor.Address
	Hosted   bool // it is renewed as late as HSDirs allow
	Ordinary bool // it keeps introduction points that its instances show no more

	// View has the instances as this machine sees them. nil: their introduction points are
	// not judged, as those of a service with restricted discovery are not, which only its
	// clients can read.
	View func() backend.View
	// Revision returns the key of the revision counters of a period, as a Custodian does.
	// An error says that this machine could not publish then. nil, for Watch: there is none.
	Revision func(ctx context.Context, p descriptor.Period) (descriptor.RevisionKey, error)
}

// Fetcher asks one HSDir for the descriptor that clients fetch, as *hsdir.Fetcher does.
type Fetcher interface {
	AskOuter(ctx context.Context, c *hsdir.Consensus, keys descriptor.PeriodKeys, hsdir [20]byte, now time.Time) (hsdir.FetchResult, error)
}

// Runner publishes for a service while this machine has taken it over. Its methods are
// called for one service at a time, and may be called for several at once.
type Runner interface {
	// Start publishes above the floors, what else is stored of the service notwithstanding
	// (Raise does that to a record). Without floors it goes on from what is stored. An
	// error leaves the service as it was, and Start is called again later.
	Start(ctx context.Context, a descriptor.Address, floors []state.Ceiling) error
	// Stop ends that, and withdraws uploads which wait. It returns when the service has ended.
	Stop(a descriptor.Address)
	// Made reports whether this machine made a descriptor, in this process or an earlier
	// one.
	Made(a descriptor.Address, d Made) bool
}

// Made identifies a descriptor. Who made it has a signing key of its own, unless both
// machines have the same token or offline certificates: then a counter that it has not used
// shows that it was the other.
type Made struct {
	Period  descriptor.Period
	Counter uint64
	Signer  [32]byte // descriptor-signing key
}

// Beat is the heartbeat of the active machine. It says no more than that the machine could
// publish, so it makes the standby patient, and does not hold it up: what clients get
// decides, and its end only where nobody can read what they will get.
type Beat struct {
	Heard time.Time // when it was last heard; zero if never
	Fit   bool      // it said that its tor works and that HSDirs confirm its uploads
}

// Heartbeat tells what was heard of the active machine. It returns at once.
type Heartbeat func() Beat

// Config is the configuration of a Watcher.
type Config struct {
	Role      Role // Standby or Watch
	Consensus backend.Source
	Fetcher   Fetcher
	Runner    Runner    // nil for Watch
	Heartbeat Heartbeat // nil: none is configured
	Timing    Timing    // zero values stand for DefaultTiming
	Record    event.Recorder
	Now       func() time.Time // nil stands for time.Now
}

// Timing says how often HSDirs are asked, and how long to wait for the active machine.
type Timing struct {
	Every   time.Duration // between readings of a service
	Taken   time.Duration // and of one that is taken over
	Confirm time.Duration // from the first sign of a missing descriptor to the next reading
	Beat    time.Duration // without a heartbeat until it counts as silent

	Alone  Patience      // no heartbeat is configured
	Silent Patience      // it is silent
	Heard  Patience      // it is heard
	Hosted time.Duration // added to Patience.Silence for a hosted service

	Start time.Duration // least Patience.Missing for a service of which nothing was seen yet
	Ahead time.Duration // how far ahead of the clock a counter may be
}

// Patience is for how long each sign that clients miss the active machine is borne.
type Patience struct {
	Missing time.Duration // clients find no descriptor
	Unmet   time.Duration // no published introduction point is a healthy instance's
	Silence time.Duration // since the published descriptor was made
}

// HSDirs keep a descriptor for keptFor. An active machine renews it after 60 to 120
// minutes, or 130 to 150 if it is hosted, and may have to wait for other uploads.
const (
	keptFor    = 3 * time.Hour
	renewal    = 2 * time.Hour    // at the latest, and Timing.Hosted more for a hosted service
	dropMargin = 15 * time.Minute // before that another has to be there
)

// DefaultTiming is right for the public network.
var DefaultTiming = Timing{
	Every: 5 * time.Minute, Taken: 150 * time.Second, Confirm: time.Minute, Beat: 3 * time.Minute,
	Alone:  Patience{Missing: time.Minute, Unmet: 10 * time.Minute, Silence: 130 * time.Minute},
	Silent: Patience{Missing: time.Minute, Unmet: 5 * time.Minute, Silence: 130 * time.Minute},
	// A machine that says it is well, and of which clients find nothing, is not.
	Heard:  Patience{Missing: 10 * time.Minute, Unmet: 30 * time.Minute, Silence: 140 * time.Minute},
	Hosted: 30 * time.Minute,
	Start:  5 * time.Minute, Ahead: 6 * time.Hour,
}
