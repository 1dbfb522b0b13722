package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"onionbalancer/internal/status"
)

// clusterOperator answers with its clusters one after the other, the last again and again.
type clusterOperator struct {
	drainOperator
	clusters []status.Cluster
	orders   []string
	err      error
}

func (o *clusterOperator) Cluster() status.ClusterOperator { return o }

func (o *clusterOperator) Status() status.Cluster {
	c := o.clusters[0]
	if len(o.clusters) > 1 {
		o.clusters = o.clusters[1:]
	}
	return c
}

func (o *clusterOperator) Drain(on bool) error {
	o.orders = append(o.orders, fmt.Sprintf("drain %t", on))
	return o.err
}

func (o *clusterOperator) Forget(_ context.Context, manager string) error {
	o.orders = append(o.orders, "forget "+manager)
	return o.err
}

func (o *clusterOperator) Restore(context.Context) error {
	o.orders = append(o.orders, "restore")
	return o.err
}

// runCluster runs a command against a daemon whose cluster o is; nil: it is in none.
func runCluster(t *testing.T, o *clusterOperator, args ...string) (out string, err error) {
	t.Helper()
	dir, err := os.MkdirTemp("", "cluster") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	if o == nil {
		serveOperator(t, path, status.Snapshot{}, &drainOperator{})
	} else {
		serveOperator(t, path, status.Snapshot{}, o)
	}
	var stdout, stderr bytes.Buffer
	root := newRootCommand()
	root.SetArgs(append(append([]string{"cluster"}, args...), "--socket", path))
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	err = root.Execute()
	return stdout.String(), err
}

// wellCluster is a cluster that needs nobody.
func wellCluster() status.Cluster {
	return status.Cluster{
		Mode: "etcd", Name: "main", Manager: "m1", Joined: true, Lease: 8, Reserved: statusNow.Add(5 * time.Hour),
		Services: 10000, Owned: 3341, Elsewhere: 6659, Store: status.ClusterStore{Latency: 0.0124, Age: 1, Bytes: 7 << 20, Records: 10004},
		Members: []status.Member{
			{Name: "m1", Version: "v1", Since: statusNow.Add(-time.Hour), Owned: 3341},
			{Name: "m2", Version: "v1", Since: statusNow.Add(-24 * time.Hour), Owned: 3330, Silent: 12.2, Skew: -1.4},
			{Name: "m3", Version: "v2", Since: statusNow.Add(-25 * time.Hour), Owned: 3329, Silent: 40, Skew: 7},
		},
		Counts: status.ClusterCounts{Taken: status.Taken{Dead: 1, Free: 2, Restart: 3}, Given: 4, Fenced: 5},
	}
}

func TestClusterStatus(t *testing.T) {
	out, err := runCluster(t, &clusterOperator{clusters: []status.Cluster{wellCluster()}}, "status")
	want := `cluster main: 3 managers, m1 (this) owns 3341 of 10000, 0 orphans; etcd ok (12 ms), reserved until 2026-11-20 14:30 UTC
  services: 3341 owned here, 6659 elsewhere, 0 being taken, 0 orphans
  store: 10004 records, at most 1s old, 7.0 MiB
  since the start: 1 taken from dead managers, 2 that nobody owned, 3 of its own again; 4 given, 5 fenced
  manager    since                 owns  state  sign of life  clock     version
  m1 (this)  2026-11-20 08:30 UTC  3341  ok     0s ago        same      v1
  m2         2026-11-19 09:30 UTC  3330  ok     12s ago       same      v1
  m3         2026-11-19 08:30 UTC  3329  ok     40s ago       7s ahead  v2
`
	if err != nil || out != want {
		t.Errorf("%v\n%s, want\n%s", err, out, want)
	}
	unread := wellCluster()
	unread.Store = status.ClusterStore{Error: "no quorum", Age: time.Duration(math.MaxInt64).Seconds()}
	if out, _ = runCluster(t, &clusterOperator{clusters: []status.Cluster{unread}}, "status"); !strings.Contains(out, "\n  store: not read yet\n") {
		t.Errorf("not read yet:\n%s", out)
	}
	if got := ownerText(status.Owner{}); got != "not known yet (term 0)" {
		t.Error(got)
	}
	bad := wellCluster()
	bad.Joined, bad.Draining, bad.Unfit, bad.Warnings = false, true, "no tor", []string{"changing the owner of 3 services: full"}
	bad.Store = status.ClusterStore{Error: "no quorum", Alarms: []string{"NOSPACE"}, Damaged: 2, OldKey: 7, Age: 600}
	bad.Holding, bad.Orphaned, bad.Orphans, bad.Elsewhere = 12, 23, []string{"a.onion", "b.onion"}, 6000
	bad.Members[1].Draining, bad.Members[2].Unfit, bad.Members[2].Skew = true, "its consensus is old", -200
	out, err = runCluster(t, &clusterOperator{clusters: []status.Cluster{bad}}, "status")
	for _, line := range []string{
		"cluster main: 3 managers, m1 (this) owns 3341 of 10000, 23 orphans; etcd DOES NOT ANSWER: no quorum, ALARM NOSPACE; HOLDING 12 services: the reservation has ended; " +
			"NOT IN THE CLUSTER: the others do not see this manager; draining; unfit: no tor",
		"  WARNING  changing the owner of 3 services: full",
		"  services: 3341 owned here, 6000 elsewhere, 636 being taken, 23 orphans",
		"  store: 0 records, at most 10m0s old, 2 that DO NOT OPEN, 7 sealed with the old key",
		"  m2         2026-11-19 09:30 UTC  3330  draining  12s ago       same         v1",
		"  m3         2026-11-19 08:30 UTC  3329  unfit     40s ago       3m20s behind  v2",
		"    unfit  its consensus is old",
		"    WARNING  its clock and that of this machine differ: set both right, by NTP for instance",
		"  orphans: a.onion b.onion",
		"    and 21 more",
	} {
		if !strings.Contains("\n"+strings.Join(strings.Fields(out), " ")+"\n", strings.Join(strings.Fields(line), " ")) {
			t.Errorf("no line %q in\n%s", line, out)
		}
	}
	for _, part := range []string{"not in the cluster", "does not answer", "raised NOSPACE", "23 services that no live manager can certify", "12 services held"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v, want %q", err, part)
		}
	}
	out, err = runCluster(t, &clusterOperator{clusters: []status.Cluster{wellCluster()}}, "status", "--json")
	if err != nil || !strings.Contains(out, `"reserved_until": "2026-11-20T14:30:00Z"`) || !strings.Contains(out, `"owned": 3341`) {
		t.Errorf("JSON: %v\n%s", err, out)
	}
	if out, err = runCluster(t, nil, "status"); err == nil || out != "" || !strings.Contains(err.Error(), "this balancer is in no cluster") {
		t.Errorf("alone: %v, %q", err, out)
	}
}

func TestClusterStandby(t *testing.T) {
	c := status.Cluster{Mode: "standby", Name: "two", Standby: &status.Standby{Role: "standby", Heard: new(bool), Silence: "no circuit", Watched: []status.Watched{
		{Address: "a.onion", Made: statusNow.Add(-time.Hour), Read: statusNow.Add(-time.Minute), Until: statusNow.Add(time.Hour)},
		{Address: "b.onion", Taken: true, Since: statusNow, Why: "it was not renewed", Read: statusNow, Alarm: "look at the active machine"},
	}}}
	var out strings.Builder
	printCluster(&out, statusNow, c)
	want := `cluster two: this machine is on standby: 2 services watched, 1 published here, last read 1m0s ago, NO HEARTBEAT of the active machine: no circuit, 1 service in need of attention
  service  published by        made        read      takes over
  a.onion  the active machine  1h0m0s ago  1m0s ago  at 2026-11-20 10:30:00 UTC if nothing newer is seen
  b.onion  this machine        none        0s ago    has
    since 2026-11-20 09:30:00 UTC  it was not renewed
    ALARM  look at the active machine
`
	if out.String() != want {
		t.Errorf("%s, want\n%s", out.String(), want)
	}
	if bad := unwellCluster(&c); !slices.Equal(bad, []string{"b.onion: look at the active machine", "the active machine does not say that it can publish"}) {
		t.Errorf("%q", bad)
	}
	c.Standby.Silence = ""
	if got := clusterText(statusNow, c); !strings.Contains(got, "the active machine says that it CANNOT PUBLISH") {
		t.Error(got)
	}
	for owning, want := range map[status.Owning]string{status.OwningHere: "this machine, which has taken over from the active one", status.OwningElsewhere: "the active machine"} {
		if got := ownerText(status.Owner{Owning: owning}); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	c.Standby = &status.Standby{Role: "active"}
	if got := clusterText(statusNow, c); got != "two: this is the active machine" {
		t.Error(got)
	}
}

func TestClusterDrain(t *testing.T) {
	draining, less, none := wellCluster(), wellCluster(), wellCluster()
	draining.Draining, less.Draining, none.Draining = true, true, true
	less.Owned, none.Owned = 1, 0
	all := func() []status.Cluster { return []status.Cluster{draining, less, none} }

	o := &clusterOperator{clusters: all()}
	out, err := runCluster(t, o, "drain")
	if err != nil || out != "m1 is draining: the others take its 3341 services\n" || !slices.Equal(o.orders, []string{"drain true"}) {
		t.Errorf("%v, %q, %q", err, out, o.orders)
	}
	if out, err = runCluster(t, &clusterOperator{clusters: all()}, "drain", "--wait"); err != nil || out != "m1 owns nothing any more, and can be stopped\n" {
		t.Errorf("waited: %v, %q", err, out)
	}
	if out, err = runCluster(t, &clusterOperator{clusters: all()}, "drain", "--wait", "--json"); err != nil || !strings.HasPrefix(out, "{") || !strings.Contains(out, `"owned": 0,`) {
		t.Errorf("JSON: %v, %q", err, out)
	}
	_, err = runCluster(t, &clusterOperator{clusters: []status.Cluster{draining}}, "drain", "--wait", "--timeout", "1ms")
	if err == nil || err.Error() != "m1 still owns 3341 services, and goes on draining" {
		t.Errorf("no patience: %v", err)
	}
	if _, err = runCluster(t, &clusterOperator{clusters: []status.Cluster{draining, wellCluster()}}, "drain", "--wait"); err == nil || !strings.Contains(err.Error(), "not draining any more") {
		t.Errorf("undrained meanwhile: %v", err)
	}
	alone := draining
	alone.Members = alone.Members[:1]
	if out, err = runCluster(t, &clusterOperator{clusters: []status.Cluster{alone}}, "drain"); err != nil || !strings.HasSuffix(out, "\n  note: no other manager is there to take them: they stay\n") {
		t.Errorf("alone: %v, %q", err, out)
	}
	silent := draining
	silent.Store.Error = "no quorum"
	if out, err = runCluster(t, &clusterOperator{clusters: []status.Cluster{silent}}, "drain"); err != nil || !strings.HasSuffix(out, "\n  note: the store does not answer: they stay until it does\n") {
		t.Errorf("without the store: %v, %q", err, out)
	}
	if out, err = runCluster(t, &clusterOperator{clusters: []status.Cluster{none}}, "drain"); err != nil || out != "m1 is draining, and owns nothing\n" {
		t.Errorf("nothing: %v, %q", err, out)
	}
	if _, err = runCluster(t, &clusterOperator{}, "drain", "--timeout", "1h"); !errors.As(err, new(usageError)) {
		t.Errorf("a timeout without --wait: %v", err)
	}
	o = &clusterOperator{clusters: all()}
	if out, err = runCluster(t, o, "undrain"); err != nil || !strings.HasPrefix(out, "m1 takes part again") || !slices.Equal(o.orders, []string{"drain false"}) {
		t.Errorf("undrain: %v, %q, %q", err, out, o.orders)
	}
}

func TestClusterForgetRestore(t *testing.T) {
	o := &clusterOperator{clusters: []status.Cluster{wellCluster()}}
	out, err := runCluster(t, o, "forget", "m3")
	if err != nil || out != "m3 is forgotten: the others take its services now\n" {
		t.Errorf("%v, %q", err, out)
	}
	out, err = runCluster(t, o, "restore")
	if err != nil || out != "m1 wrote what it knows into the store again; the other managers write theirs by themselves\n" || !slices.Equal(o.orders, []string{"forget m3", "restore"}) {
		t.Errorf("%v, %q, %q", err, out, o.orders)
	}
	if out, err = runCluster(t, o, "restore", "--json"); err != nil || !strings.Contains(out, `"manager": "m1"`) {
		t.Errorf("JSON: %v, %q", err, out)
	}
	o.err = &status.RefusedError{Status: http.StatusConflict, Reason: "forgetting manager \"m2\": it shows signs of life: stop it, or drain it there"}
	if _, err = runCluster(t, o, "forget", "m2"); err == nil || err.Error() != o.err.Error() {
		t.Errorf("refused: %v", err)
	}
	for _, args := range [][]string{{"forget"}, {"forget", ""}, {"forget", "a", "b"}, {"restore", "x"}} {
		if _, err = runCluster(t, o, args...); !errors.As(err, new(usageError)) {
			t.Errorf("%q: %v", args, err)
		}
	}
	for _, args := range [][]string{{"drain"}, {"undrain"}, {"forget", "m2"}, {"restore"}} {
		if _, err = runCluster(t, nil, args...); err == nil || !strings.Contains(err.Error(), "this balancer is in no cluster") {
			t.Errorf("%q of a manager that is alone: %v", args, err)
		}
	}
}

// The status of a balancer has a line about its cluster, and services and shards have one
// about their owners.
func TestStatusCluster(t *testing.T) {
	s, c := shardSnapshot(), wellCluster()
	s.Cluster = &c
	s.Services[0].State, s.Services[0].Owner = status.StateElsewhere, &status.Owner{Manager: "m2", Term: 4, Owning: status.OwningElsewhere}
	s.Shards[0].Owners = map[string]int{"m2": 100, "m1": 139, "": 1}
	s.Shards = s.Shards[:1]
	out, _, err := statusOf(t, s)
	for _, line := range []string{
		"cluster        main: 3 managers, m1 (this) owns 3341 of 10000, 0 orphans; etcd ok (12 ms), reserved until 2026-11-20 14:30 UTC",
		"  owner: m2, another manager (term 4)",
		"  owners  m1 139, m2 100, nobody 1",
		"a.onion  ELSEWHERE, strategy spread",
	} {
		if !strings.Contains("\n"+out, "\n"+line+"\n") {
			t.Errorf("no line %q in\n%s", line, out)
		}
	}
	if err != nil {
		t.Error(err)
	}
	if out, _, err = statusOf(t, s, "--shard", "s1"); err != nil || !strings.Contains(out, "\n  owners: m1 139, m2 100, nobody 1\n  keys: ") {
		t.Errorf("%v\n%s", err, out)
	}
	c.Orphaned = 1
	if _, _, err = statusOf(t, s); err == nil || !strings.Contains(err.Error(), "1 service that no live manager can certify") {
		t.Errorf("an orphan: %v", err)
	}
}

// Nothing in an answer moves the cursor, or begins a line.
func TestClusterHostile(t *testing.T) {
	const evil = "x\x1b[2J\r\u202egnp\n\nballot OK"
	for _, c := range []status.Cluster{
		{
			Mode: evil, Name: evil, Manager: evil, Unfit: evil, Warnings: []string{evil}, Orphaned: 1, Orphans: []string{evil},
			Store: status.ClusterStore{Error: evil, Alarms: []string{evil}}, Members: []status.Member{{Name: evil, Version: evil, Unfit: evil}},
		},
		{Mode: evil, Name: evil, Standby: &status.Standby{Role: evil, Heard: new(bool), Silence: evil, Watched: []status.Watched{{Address: evil, Why: evil, Alarm: evil}}}},
	} {
		var out strings.Builder
		printCluster(&out, statusNow, c)
		s := wellSnapshot()
		s.Cluster = &c
		s.Services[0].Owner = &status.Owner{Manager: evil, Owning: evil}
		printStatus(&out, s)
		printDrain(&out, c)
		text := out.String() + strings.Join(unwellCluster(&c), " ")
		if strings.ContainsAny(text, "\x1b\r\u202e") || strings.Contains(text, "\nballot") {
			t.Errorf("got through: %q", text)
		}
	}
}
