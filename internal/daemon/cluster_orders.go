package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"onionbalancer/internal/cluster"
	"onionbalancer/internal/config"
	"onionbalancer/internal/event"
	"onionbalancer/internal/status"
)

// Cluster implements status.Operator.
func (d *Daemon) Cluster() status.ClusterOperator { return d.sharing.operator() }

// tellCluster records something about the cluster.
func (d *Daemon) tellCluster(level slog.Level, text string, attrs ...slog.Attr) {
	d.events.Record(event.Event{At: time.Now(), Kind: event.Cluster, Level: level, Text: text, Attrs: attrs})
}

// managers is what orders need of a *cluster.Cluster.
type managers interface {
	Drain(on bool)
	Forget(ctx context.Context, manager string) error
	Restore(ctx context.Context) error
}

var _ managers = (*cluster.Cluster)(nil)

// clusterOrders carries out orders about the cluster.
type clusterOrders struct {
	managers managers
	status   func() status.Cluster
}

// Status implements status.ClusterOperator.
func (c clusterOrders) Status() status.Cluster { return c.status() }

// Drain implements status.ClusterOperator.
func (c clusterOrders) Drain(on bool) error {
	c.managers.Drain(on)
	return nil
}

// Forget implements status.ClusterOperator.
func (c clusterOrders) Forget(ctx context.Context, manager string) error {
	return refusedOf(c.managers.Forget(ctx, manager))
}

// Restore implements status.ClusterOperator.
func (c clusterOrders) Restore(ctx context.Context) error {
	return refusedOf(c.managers.Restore(ctx))
}

// refusedOf has those errors of a cluster refused that are an order's fault, or the store's.
func refusedOf(err error) error {
	for of, code := range map[error]int{
		cluster.ErrNoMember: http.StatusNotFound, cluster.ErrAlive: http.StatusConflict, cluster.ErrUnavailable: http.StatusServiceUnavailable, cluster.ErrUnread: http.StatusServiceUnavailable, cluster.ErrUnknown: http.StatusServiceUnavailable,
	} {
		if errors.Is(err, of) {
			return refuse(code, "%v", err)
		}
	}
	return err
}

// standbyOrders refuses orders: two machines without a store have nothing to say to each
// other.
type standbyOrders struct{ status func() status.Cluster }

// Status implements status.ClusterOperator.
func (s standbyOrders) Status() status.Cluster { return s.status() }

// Drain implements status.ClusterOperator.
func (standbyOrders) Drain(bool) error { return errNoStore() }

// Forget implements status.ClusterOperator.
func (standbyOrders) Forget(context.Context, string) error { return errNoStore() }

// Restore implements status.ClusterOperator.
func (standbyOrders) Restore(context.Context) error { return errNoStore() }

func errNoStore() error {
	return refuse(http.StatusConflict, "two machines with store = \"standby\" share nothing by which one could be told: stop the active one, and the other takes over when clients would miss it")
}

// clusterSight is what the status of a cluster that shares a store is made of.
type clusterSight struct {
	name     string
	owning   cluster.Status
	store    cluster.Stats
	err      error     // why the store does not answer; nil: it does
	bytes    int64     // of the store's file; 0: not known
	alarms   []string  // of the store
	holding  int       // services whose reservation has ended
	reserved time.Time // until when this manager goes on without the store; zero if it owns nothing
	held     uint64    // uploads that were not launched as nothing was reserved for them
	stale    uint64    // uploads that were dropped as another manager owns the service
}

// describe returns the status.
func (v clusterSight) describe() status.Cluster {
	s, swaps := v.owning, v.store.Swaps
	c := status.Cluster{
		Mode: config.StoreEtcd, Name: v.name, Manager: s.Manager, Joined: s.Joined, Lease: max(s.Lease, 0).Seconds(), Reserved: v.reserved,
		Store: status.ClusterStore{
			Age: v.store.Age.Seconds(), Bytes: v.bytes, Alarms: v.alarms, Records: v.store.Records, Damaged: v.store.Damaged, OldKey: v.store.Old,
		},
		Members: []status.Member{}, Services: s.Services, Owned: s.Owned, Holding: v.holding, Elsewhere: s.Others, Orphaned: len(s.Orphans),
		Draining: s.Draining, Unfit: s.Unfit, Warnings: s.Troubles,
		Counts: status.ClusterCounts{
			Given: s.Counts.Given, Fenced: s.Counts.Fenced, Failed: s.Counts.Failed,
			Taken:        status.Taken{Dead: s.Counts.Dead, Free: s.Counts.Taken - s.Counts.Dead - s.Counts.Again, Restart: s.Counts.Again},
			Swaps:        status.Swaps{OK: swaps.Made, Fenced: swaps.Conflicts, Unknown: swaps.Unknown, Error: swaps.Errors},
			Transactions: v.store.Sent, Seconds: v.store.Took.Seconds(), Held: v.held, Stale: v.stale,
		},
	}
	if v.err != nil {
		c.Store.Error = v.err.Error()
	}
	if v.store.Sent > 0 {
		c.Store.Latency = v.store.Took.Seconds() / float64(v.store.Sent)
	}
	for _, m := range s.Members {
		if m.Manager == s.Manager {
			m.Owned = s.Owned // it said so up to a minute ago
		}
		c.Members = append(c.Members, status.Member{
			Name: m.Manager, Version: m.Version, Since: m.Since, Owned: m.Owned, Draining: m.Draining, Unfit: m.Unfit,
			Silent: m.Silent.Seconds(), Skew: m.Skew.Seconds(),
		})
	}
	for _, a := range s.Orphans[:min(len(s.Orphans), status.MaxOrphans)] {
		c.Orphans = append(c.Orphans, a.String())
	}
	return c
}

// ownerOf describes who owns a service. holding says that it is left as it is.
func ownerOf(o cluster.Ownership, holding bool) *status.Owner {
	owner := &status.Owner{Manager: o.Owner, Term: o.Term, Owning: status.Owning(o.State)}
	switch {
	case o.State == "free":
		owner.Owning = status.OwningTaking
	case o.State == "owned" && holding:
		owner.Owning = status.OwningHolding
	}
	return owner
}
