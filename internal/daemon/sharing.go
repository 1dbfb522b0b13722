package daemon

import (
	"context"

	"onionbalancer/descriptor"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/check"
	"onionbalancer/internal/cluster"
	"onionbalancer/internal/config"
	"onionbalancer/internal/state"
	"onionbalancer/internal/status"
)

// sharing decides which services this manager publishes. Alone it publishes all of them; with
// others it begins and ceases as they agree. The methods return at once unless they say
// otherwise, and those that are called with Daemon.mu held say so.
type sharing interface {
	// records are what all managers share: their own store for one that is alone.
	records() records
	// environ completes the environment of services.
	environ(*balance.Env)
	// awake returns balance.Env.Awake of a service.
	awake(descriptor.Address) func() bool
	// publishes reports whether a service that is added now is to be started. Daemon.mu is
	// held.
	publishes(descriptor.Address) bool
	// changed is told that services were added or removed. Daemon.mu is held.
	changed()
	// run decides until ctx ends, which it waits for.
	run(ctx context.Context)
	// reload opens what is read again of a new configuration. take takes it over.
	reload(*config.Config) (take func(), err error)
	// leave gives the services that are published to others, for some seconds at most. It is
	// called after run has returned.
	leave()
	// close is called when all services have ended.
	close()
	// describe completes the status of the daemon, but for its services.
	describe(*status.Snapshot)
	// owner describes who publishes a service; nil if there is nobody else.
	owner(descriptor.Address) *status.Owner
	// operator takes orders; nil if there are none to take.
	operator() status.ClusterOperator
}

// records are keys with versions, as *state.DB and *cluster.Copied have them.
type records interface {
	state.Records
	// Subscribe has f called with the keys of records that others changed, too.
	Subscribe(prefix state.Key, f func(changed []state.Key)) (stop func())
}

var _ records = (*cluster.Copied)(nil)

// ownRecords are those of a manager that is alone: nobody else changes them.
type ownRecords struct{ *state.DB }

// Subscribe implements records.
func (ownRecords) Subscribe(state.Key, func([]state.Key)) (stop func()) { return func() {} }

// alone is the sharing of a manager without others.
type alone struct{ store *state.DB }

func (a alone) records() records                     { return ownRecords{a.store} }
func (alone) environ(*balance.Env)                   {}
func (alone) awake(descriptor.Address) func() bool   { return nil }
func (alone) publishes(descriptor.Address) bool      { return true }
func (alone) changed()                               {}
func (alone) run(ctx context.Context)                { <-ctx.Done() }
func (alone) reload(*config.Config) (func(), error)  { return func() {}, nil }
func (alone) leave()                                 {}
func (alone) close()                                 {}
func (alone) describe(*status.Snapshot)              {}
func (alone) owner(descriptor.Address) *status.Owner { return nil }
func (alone) operator() status.ClusterOperator       { return nil }

// openSharing opens what the configuration shares services by.
// onions dials onion addresses.
func (d *Daemon) openSharing(onions check.Dialer) (sharing, error) {
	switch d.cfg.Cluster.Store {
	case config.StoreEtcd:
		return openMembers(d, onions)
	case config.StoreStandby:
		return openStandby(d, onions)
	}
	return alone{d.store}, nil
}
