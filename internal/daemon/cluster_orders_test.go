package daemon

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/cluster"
	"onionbalancer/internal/status"
)

// managersOf answers orders with an error.
type managersOf struct {
	drained bool
	err     error
}

func (m *managersOf) Drain(on bool)                        { m.drained = on }
func (m *managersOf) Forget(context.Context, string) error { return m.err }
func (m *managersOf) Restore(context.Context) error        { return m.err }

func TestClusterOrders(t *testing.T) {
	m := &managersOf{}
	var c status.ClusterOperator = clusterOrders{m, func() status.Cluster { return status.Cluster{Name: "main"} }}
	if err := c.Drain(true); err != nil || !m.drained || c.Status().Name != "main" {
		t.Errorf("drain: %v", err)
	}
	if err := c.Restore(t.Context()); err != nil {
		t.Errorf("restore: %v", err)
	}
	for want, err := range map[int]error{404: cluster.ErrNoMember, 409: cluster.ErrAlive, 503: cluster.ErrUnavailable, 0: errors.New("another")} {
		m.err = fmt.Errorf("forgetting manager \"m3\": %w", err)
		refused, code := (*status.RefusedError)(nil), 0
		if err := c.Forget(t.Context(), "m3"); errors.As(err, &refused) {
			code = refused.Status
		}
		if code != want {
			t.Errorf("%v: status %d, want %d", err, code, want)
		}
	}
	c = standbyOrders{c.Status}
	for _, err := range []error{c.Drain(true), c.Forget(t.Context(), "m1"), c.Restore(t.Context())} {
		if refused := (*status.RefusedError)(nil); !errors.As(err, &refused) || refused.Status != 409 {
			t.Errorf("without a store: %v", err)
		}
	}
	if (&Daemon{sharing: alone{}}).Cluster() != nil {
		t.Error("a manager that is alone is in a cluster")
	}
}

func TestClusterStatus(t *testing.T) {
	since := time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)
	orphans := make([]descriptor.Address, 25)
	store := cluster.Stats{Records: 1, Damaged: 2, Old: 3, Bytes: 4, Age: time.Second, Took: 3 * time.Second, Sent: 2}
	store.Swaps.Made, store.Swaps.Conflicts, store.Swaps.Unknown, store.Swaps.Errors = 5, 6, 7, 8
	got := clusterSight{name: "main", store: store, err: errors.New("no quorum"), bytes: 9, alarms: []string{"NOSPACE"}, holding: 5, reserved: since, held: 10, stale: 11, owning: cluster.Status{
		Manager: "m1", Joined: true, Lease: 7500 * time.Millisecond, Services: 100, Owned: 40, Others: 30, Orphans: orphans, Draining: true, Unfit: "no tor",
		Members:  []cluster.MemberStatus{{Member: cluster.Member{Manager: "m2", Version: "v1", Since: since, Owned: 30, Unfit: "u", Draining: true}, Silent: 90 * time.Second, Skew: -time.Minute}},
		Counts:   cluster.Counts{Taken: 9, Dead: 5, Again: 3, Given: 2, Fenced: 3, Failed: 4},
		Troubles: []string{"t"},
	}}.describe()
	first := make([]string, status.MaxOrphans)
	for n := range first {
		first[n] = descriptor.Address{}.String()
	}
	want := status.Cluster{
		Mode: "etcd", Name: "main", Manager: "m1", Joined: true, Lease: 7.5, Store: status.ClusterStore{Error: "no quorum", Age: 1, Latency: 1.5, Bytes: 9, Alarms: []string{"NOSPACE"}, Records: 1, Damaged: 2, OldKey: 3}, Reserved: since,
		Members:  []status.Member{{Name: "m2", Version: "v1", Since: since, Owned: 30, Unfit: "u", Draining: true, Silent: 90, Skew: -60}},
		Services: 100, Owned: 40, Holding: 5, Elsewhere: 30, Orphaned: 25, Orphans: first, Draining: true, Unfit: "no tor", Warnings: []string{"t"},
		Counts: status.ClusterCounts{
			Taken: status.Taken{Dead: 5, Free: 1, Restart: 3}, Given: 2, Fenced: 3, Failed: 4, Swaps: status.Swaps{OK: 5, Fenced: 6, Unknown: 7, Error: 8}, Transactions: 2, Seconds: 3, Held: 10, Stale: 11,
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want\n%+v", got, want)
	}
	for _, test := range []struct {
		state   string
		holding bool
		want    status.Owning
	}{
		{"owned", false, status.OwningHere}, {"owned", true, status.OwningHolding}, {"elsewhere", true, status.OwningElsewhere},
		{"free", false, status.OwningTaking}, {"orphan", false, status.OwningOrphan}, {"damaged", false, status.OwningDamaged},
	} {
		if got := ownerOf(cluster.Ownership{Owner: "m1", Term: 4, State: test.state}, test.holding); *got != (status.Owner{Manager: "m1", Term: 4, Owning: test.want}) {
			t.Errorf("%+v: %+v", test, got)
		}
	}
}
