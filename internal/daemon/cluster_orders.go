package daemon

import (
	"context"
	"errors"
	"net/http"
	"time"

	"onionbalancer/internal/cluster"
	"onionbalancer/internal/status"
)

// Cluster implements status.Operator.
func (d *Daemon) Cluster() status.ClusterOperator { return nil }

// managers is what orders need of a *cluster.Cluster.
type managers interface {
	Drain(on bool)
	Forget(ctx context.Context, manager string) error
	// Restore writes the records of this manager into a store that was wiped.
	Restore(ctx context.Context) (services int, err error)
}

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
func (c clusterOrders) Restore(ctx context.Context) (int, error) {
	n, err := c.managers.Restore(ctx)
	return n, refusedOf(err)
}

// refusedOf has those errors of a cluster refused that are an order's fault, or the store's.
func refusedOf(err error) error {
	for of, code := range map[error]int{
		cluster.ErrNoMember: http.StatusNotFound, cluster.ErrAlive: http.StatusConflict, cluster.ErrUnavailable: http.StatusServiceUnavailable,
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
func (standbyOrders) Restore(context.Context) (int, error) { return 0, errNoStore() }

func errNoStore() error {
	return refuse(http.StatusConflict, "two machines with store = \"standby\" share nothing by which one could be told: stop the active one, and the other takes over when clients would miss it")
}

// clusterStatus describes a cluster that shares a store. holding is how many services are
// left as they are, and reserved until when this manager goes on without the store.
func clusterStatus(mode, name string, s cluster.Status, store status.ClusterStore, holding int, reserved time.Time) status.Cluster {
	c := status.Cluster{
		Mode: mode, Name: name, Manager: s.Manager, Joined: s.Joined, Lease: max(s.Lease, 0).Seconds(), Store: store, Reserved: reserved,
		Members: []status.Member{}, Services: s.Services, Owned: s.Owned, Holding: holding, Elsewhere: s.Others, Orphaned: len(s.Orphans),
		Draining: s.Draining, Unfit: s.Unfit, Warnings: s.Troubles,
		Counts: status.ClusterCounts{Given: s.Counts.Given, Fenced: s.Counts.Fenced, Failed: s.Counts.Failed, Taken: status.Taken{Dead: s.Counts.Taken}},
	}
	for _, m := range s.Members {
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
