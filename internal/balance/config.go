package balance

import (
	"context"
	"net/netip"
	"sync/atomic"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/advice"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/event"
	"onionbalancer/internal/health"
	"onionbalancer/internal/relayset"
	"onionbalancer/internal/state"
	"onionbalancer/selection"
)

// Instance is a backend as the operator configured it for a service.
type Instance struct {
	Name        string
	Address     descriptor.Address
	Weight      float64               // for strategies that weigh; 0 drains the instance
	Client      *descriptor.ClientKey // nil for a descriptor that anybody may read
	Probe       bool                  // it has a probe address
	Check       health.Spec
	CheckClient *descriptor.ClientKey // for where Check connects
}

// Config is the configuration of a service. A running service can take a new one as
// long as the address stays. The service owns its Keys, and closes them when
// they are no longer needed.
type Config struct {
	Keys       credential.Keys
	Strategy   selection.Strategy
	Program    string         // that says what Strategy should be; empty: none does
	Room       selection.Room // for introduction points in a descriptor
	Avoid      relayset.Set   // relays whose points are used only if there are no others
	Prefer     relayset.Set   // relays whose points an instance has published first, best first
	Ordinary   bool           // upload where and when an ordinary tor would
	Instances  []Instance
	FetchEvery time.Duration                 // how often an instance is fetched while it answers; 0: leave that to the backend.Set
	Clients    []descriptor.AuthorizedClient // the only ones who can read the descriptor; everybody if none
	ClientsDir string                        // where Clients were read, for Service.Authorize; empty if everybody may
	CAA        []descriptor.CAA
	// CAACritical says that an authority that cannot read CAA must not issue.
	CAACritical bool
	Visits      Visits // of the public address
	// Hosted is for one of thousands of addresses that share instances: it publishes as
	// seldom as clients allow, and not when all others do.
	Hosted bool
	Shard  string // that the instances are of, for their events, if it is Hosted
	// Reclaim publishes above another machine that has published: the service is the active
	// one of two, the other of which then ends.
	Reclaim bool
	// Withdrawn publishes descriptors without introduction points in the place of those
	// that HSDirs may have, so that clients who ask find nobody.
	Withdrawn bool
	// Resume goes on from what the record says that HSDirs have: what an earlier process or
	// another manager published is published again when it is due, is pending or should be
	// otherwise, and not before. A Hosted service does so anyway.
	Resume bool
	// Quiet is for an address that is none of the operator's services: its events are for
	// debugging alone.
	Quiet bool
}

// Watched lists the instances for a backend.Set.
func (cfg Config) Watched() (list []backend.Instance) {
	for _, i := range cfg.Instances {
		list = append(list, backend.Instance{Name: i.Name, Address: i.Address, Client: i.Client, Spec: i.Check, CheckClient: i.CheckClient, Quiet: cfg.Quiet, Shard: cfg.Shard})
	}
	return list
}

// Uploader uploads editions, as *hsdir.UploadQueue does: it returns at once,
// retries unanswered uploads, and reports those that an HSDir rejected to the caller.
type Uploader interface {
	Upload(hsdir.Upload)
	Cancel(descriptor.Address)
}

// Fetcher asks an HSDir for the service's own descriptor, as *hsdir.Fetcher does.
type Fetcher interface {
	AskOuter(ctx context.Context, c *hsdir.Consensus, keys descriptor.PeriodKeys, hsdir [20]byte, now time.Time) (hsdir.FetchResult, error)
}

// Store keeps the record of a service, as *state.DB does. Where managers share it, SwapService
// returns an error that wraps state.ErrFenced when the record is another owner's or term's,
// and in a term nobody but the service writes the record.
type Store interface {
	Service(descriptor.Address) (record state.Service, version uint64, err error)
	SwapService(ctx context.Context, a descriptor.Address, version uint64, record state.Service) (uint64, error)
}

// Counts counts uploads, of one slot each.
type Counts struct {
	Held  atomic.Uint64 // that had to wait, as no counter was reserved for them
	Stale atomic.Uint64 // that waited, and were dropped as another manager publishes the service
}

// Env is shared by all services.
type Env struct {
	Consensus backend.Source
	Backends  *backend.Set
	Fetcher   Fetcher
	// Uploads returns the current upload queue of a service: each tor has one.
	Uploads func(descriptor.Address) Uploader
	Store   Store
	// Reserve is for how long one of several managers reserves revision counters before it
	// uses them: for as long a service goes on while Store does not answer, and no longer.
	// 0: there is one manager, which goes on anyway.
	Reserve time.Duration
	// Awake reports whether uploads may be launched: not from when the process was stopped
	// for a while until it has looked whether its services are still its own. It is called
	// often, by many goroutines, and returns at once. nil: they always may.
	Awake func() bool
	// Fenced is told, once, that another manager publishes a service now, which then does
	// nothing any more. It does not wait for the service's end. It may be nil.
	Fenced func(descriptor.Address)
	// Counts, if not nil, counts what became of uploads that had to wait for Store.
	Counts *Counts
	// Gates bound how many services have their custodians certify at once; nil: nothing does.
	Gates  *credential.Gates
	Record event.Recorder
	Now    func() time.Time // nil stands for time.Now

	// For visits of the public address; nil: there are none.
	Visitor Visitor
	// Checked returns the last result of the checks of an instance's own address; nil:
	// none are made.
	Checked func(descriptor.Address) health.Result
	// Probe returns what is known of the probe address of an instance; nil: none has one.
	Probe func(descriptor.Address) ProbePath
	// Advise asks the program of a strategy, as advice.Run does; needed if a service has one.
	Advise advice.Asker
	// Country returns the country of a relay's address, as (*tor.Countries).Of does: at
	// once. nil: none is known.
	Country func(netip.Addr) (code string, open bool)
}
