package daemon

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"onionbalancer/internal/check"
	"onionbalancer/internal/cluster"
	"onionbalancer/internal/config"
	"onionbalancer/internal/etcd"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/shell"
	"onionbalancer/internal/state"
)

// certificateSoon is how long before the end of a certificate check warns.
const certificateSoon = 30 * 24 * time.Hour

// checkClusterFiles checks [cluster] as far as no network is needed. It reports whether all
// files could be opened.
func (c *checker) checkClusterFiles() (f clusterFiles, good bool) {
	cfg := c.cfg.Cluster
	switch cfg.Store {
	case config.StoreStandby:
		c.checkStandby()
		return f, false
	case config.StoreEtcd:
	default:
		return f, false
	}
	f, err := openClusterFiles(cfg)
	if err != nil {
		fix := ""
		if errors.Is(err, os.ErrNotExist) && f.key == nil {
			fix = "copy it from another manager; for the first one of a cluster: balancer cluster key " + shell.Quote(cfg.Key)
		}
		c.fail("cluster", fix, err)
		return f, false
	}
	if cfg.PasswordFile != "" {
		if _, err := clusterPassword(cfg.PasswordFile); err != nil {
			c.fail("cluster", "", err)
			return f, false
		}
	}
	if f.certificate != nil && f.certificate.Leaf != nil {
		switch end := f.certificate.Leaf.NotAfter; {
		case time.Now().After(end):
			c.fail("cluster.cert", "have the authority that etcd trusts make another", fmt.Errorf("it ended at %s", utc(end)))
		case time.Until(end) < certificateSoon:
			c.warn("cluster.cert", "have the authority that etcd trusts make another", "it ends at %s", utc(end))
		}
	}
	c.ok("cluster "+cfg.Name, "key and certificates can be read")
	return f, true
}

// standbyMost is how many services a standby can look at without being seen.
const standbyMost = 50

// checkStandby looks at what two machines without a store can do.
func (c *checker) checkStandby() {
	what := "cluster " + c.cfg.Cluster.Name
	role := c.cfg.Cluster.Standby.Role
	if n := len(c.cfg.Services); role != config.RoleActive && n > standbyMost {
		c.warn(what, "use store = \"etcd\"", "%d services are looked at, each by four fetches every five minutes: more than %d are too many", n, standbyMost)
	}
	if len(c.cfg.Shards) > 0 {
		c.warn(what, "use store = \"etcd\"", "the customers of shards are not shared: the other machine learns of none that is added, suspended or removed")
	}
	c.ok(what, "two machines without a store, of which this one is %q", role)
	c.checkListen()
}

// engine is what checks need of an *etcd.Client.
type engine interface {
	Endpoints() []string
	Status(ctx context.Context, endpoint string) (etcd.Status, error)
	Openness(ctx context.Context, endpoint, prefix string) (etcd.Openness, error)
	Alarms(ctx context.Context) ([]etcd.Alarm, error)
	Range(ctx context.Context, prefix string) ([]etcd.KV, int64, error)
	Txn(ctx context.Context, ops []etcd.Op) (etcd.Result, error)
	Watch(ctx context.Context, prefix string, from int64, f func(revision int64, changes []etcd.KV)) error
	Grant(ctx context.Context, ttl time.Duration) (id int64, err error)
	Revoke(ctx context.Context, id int64) error
}

var _ engine = (*etcd.Client)(nil)

// clusterRecords are the records of a cluster, as they open with the cluster's key.
type clusterRecords struct {
	entries []state.Entry
	damaged int // that do not open
	old     int // that another key than the first sealed
}

// openedRecords reads the records of a cluster that is there: without its layout record a
// store would be begun.
func openedRecords(ctx context.Context, cfg cluster.Config) (r clusterRecords, err error) {
	store, err := cluster.Open(cfg)
	if err != nil {
		return r, err
	}
	defer store.Close()
	if err := store.Ready(ctx); err != nil {
		return r, err
	}
	if r.entries, err = store.List(""); err != nil {
		return r, err
	}
	stats := store.Stats()
	r.damaged, r.old = stats.Damaged, stats.Old
	return r, nil
}

// checkStore looks at the store of the cluster, if there is one whose files can be used.
func (c *checker) checkStore(ctx context.Context, onions check.Dialer) {
	if c.store == nil {
		return
	}
	cfg := c.cfg.Cluster
	what := "cluster " + cfg.Name
	prefix, err := cluster.Prefix(c.store.key, cfg.Name)
	if err != nil {
		c.fail(what, "", err)
		return
	}
	etcd, err := cluster.NewEtcd(c.store.etcd(cfg, storeDial(onions)))
	if err != nil {
		c.fail(what, "", err)
		return
	}
	defer etcd.Close()
	(&clusterCheck{
		checker: c, engine: etcd.Client(), prefix: prefix, now: time.Now,
		records: func(ctx context.Context) (clusterRecords, error) {
			return openedRecords(ctx, cluster.Config{Engine: etcd, Key: c.store.key, Name: cfg.Name, ID: c.clusterID()})
		},
	}).run(ctx)
}

// clusterID identifies the cluster as this manager knows it; empty if it was never in it.
func (c *checker) clusterID() string {
	store, err := state.OpenReadOnly(c.cfg.StateDir, slog.New(slog.DiscardHandler))
	if err != nil {
		return ""
	}
	id, _, _ := store.Get(idKey(c.cfg.Cluster.Name))
	return string(id)
}

// clusterCheck looks at the etcd of a cluster.
type clusterCheck struct {
	*checker
	engine engine
	prefix string // of all keys of the cluster
	// records reads what is there, and changes nothing. cluster.ErrKey says that the layout
	// record does not open, state.ErrNewer that it is of a later version.
	records func(ctx context.Context) (clusterRecords, error)
	now     func() time.Time
}

// etcdPatience is the timeout for all checks of a cluster.
const etcdPatience = time.Minute

// run checks everything, and changes nothing that stays.
func (c *clusterCheck) run(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, etcdPatience)
	defer cancel()
	if !c.servers(ctx) {
		return
	}
	c.alarms(ctx)
	if c.role(ctx) {
		c.content(ctx)
	}
}

// servers looks at each endpoint, and reports whether one can be used.
func (c *clusterCheck) servers(ctx context.Context) (usable bool) {
	var first etcd.Status
	var firstAt string
	for _, endpoint := range c.engine.Endpoints() {
		what := "etcd at " + endpoint
		began := c.now()
		s, err := c.engine.Status(ctx, endpoint)
		if err != nil {
			c.fail(what, c.fixEtcd(err), err)
			continue
		}
		took := c.now().Sub(began)
		if firstAt == "" {
			first, firstAt = s, endpoint
		} else if s.Cluster != first.Cluster {
			c.fail(what, "name the servers of one etcd, and of no other", fmt.Errorf("it is of another etcd than %s: services would have an owner in each", firstAt))
			continue
		}
		if c.server(what, s, took) && c.openness(ctx, what, endpoint) {
			usable = true
		}
	}
	return usable
}

// server reports whether a server is one to use.
func (c *clusterCheck) server(what string, s etcd.Status, took time.Duration) bool {
	fix := "use etcd 3.4 or later, from Debian's etcd-server for instance"
	switch old, err := tooOld(s.Version); {
	case err != nil:
		c.fail(what, fix, err)
		return false
	case old:
		c.fail(what, fix, fmt.Errorf("it is etcd %s", s.Version))
		return false
	}
	if s.Leader == 0 {
		c.fail(what, "see that more than half of etcd's servers run and reach each other", errors.New("it knows no leader, so nothing can be changed"))
		return false
	}
	for _, text := range s.Errors {
		c.warn(what, "see etcd's log", "it says: %s", text)
	}
	if wronglyRevokes(s.Version) {
		c.warn(what, "use 3.4.31, 3.5.13, 3.6 or later", "etcd %s may end all leases when its leader is stuck (etcd #15247), unless your distribution has mended it: "+
			"then services move between managers for nothing, and stay published", s.Version)
	}
	const mebi = 1 << 20
	if s.Size > quotaWarning {
		c.warn(what, "etcdctl compact and etcdctl defrag, and have it compact by itself: --auto-compaction-mode=periodic --auto-compaction-retention=1h",
			"its file has %d MiB, of %d MiB that it may have unless --quota-backend-bytes says otherwise; %d MiB are in use", s.Size/mebi, etcdQuota/mebi, s.InUse/mebi)
	}
	c.ok(what, "version %s, answers in %s, %.1f MiB", s.Version, took.Round(time.Millisecond), float64(s.Size)/mebi)
	return true
}

const (
	etcdQuota    = 2 << 30 // 2 GiB, etcd's own default
	quotaWarning = etcdQuota / 4 * 3
)

// versionNumbers returns the three numbers of a version of etcd.
func versionNumbers(version string) (n [3]int, err error) {
	text, _, _ := strings.Cut(version, "-")
	text, _, _ = strings.Cut(text, "+")
	parts := strings.Split(text, ".")
	if len(parts) != len(n) {
		return n, fmt.Errorf("it says that its version is %q", version)
	}
	for i, part := range parts {
		if n[i], err = strconv.Atoi(part); err != nil {
			return n, fmt.Errorf("it says that its version is %q", version)
		}
	}
	return n, nil
}

// tooOld reports whether a version of etcd lacks what we need of it.
func tooOld(version string) (bool, error) {
	n, err := versionNumbers(version)
	return slices.Compare(n[:], []int{3, 4, 0}) < 0, err
}

// wronglyRevokes reports whether a version of etcd may revoke leases that are alive (#15247).
func wronglyRevokes(version string) bool {
	n, err := versionNumbers(version)
	mended := map[int]int{4: 31, 5: 13}
	patch, affected := mended[n[1]]
	return err == nil && n[0] == 3 && affected && n[2] < patch
}

// openness reports whether a server lets in only who should be.
func (c *clusterCheck) openness(ctx context.Context, what, endpoint string) bool {
	o, err := c.engine.Openness(ctx, endpoint, c.prefix)
	if err != nil {
		c.fail(what, "", fmt.Errorf("trying what it lets others do: %w", err))
		return false
	}
	cfg := c.cfg.Cluster
	network, _, encrypted, onion := config.Endpoint(endpoint)
	switch {
	case encrypted && o.NoCertificate:
		c.fail(what, "start etcd with --client-cert-auth and --trusted-ca-file", errors.New("it lets in who has no certificate: anyone who reaches it can keep a dead manager alive"))
		return false
	case cfg.User != "" && o.NoUser:
		c.fail(what, "etcdctl auth enable", errors.New("it tells its keys to who has no password, so users do not count"))
		return false
	case !encrypted && network == "tcp" && !onion && cfg.EndpointsPlain:
		c.warn(what, "use https://", "the connection is not encrypted: anyone on the way learns the password, and can keep a dead manager alive")
	case o.NoUser && cfg.User == "":
		c.warn(what, "give each manager a user of its own (cluster.user), and a role that reads and writes below "+c.prefix+" alone",
			"there are no users: a manager that is seized cannot be kept out by taking its user away")
	}
	return true
}

// alarms tells of the alarms that etcd has raised.
func (c *clusterCheck) alarms(ctx context.Context) {
	list, err := c.engine.Alarms(ctx)
	switch {
	case errors.Is(err, etcd.ErrDenied): // it takes a role of its own
	case err != nil:
		c.warn("etcd", "", "its alarms cannot be read: %w", err)
	}
	for _, a := range list {
		fix := "see etcd's documentation of this alarm"
		if a.Kind == "NOSPACE" {
			fix = "etcdctl compact, etcdctl defrag and then etcdctl alarm disarm; and have it compact by itself: --auto-compaction-mode=periodic --auto-compaction-retention=1h"
		}
		c.fail("etcd", fix, fmt.Errorf("its member %x raised the alarm %s", a.Member, a.Kind))
	}
}

// fixEtcd says what to do about an error of etcd's.
func (c *clusterCheck) fixEtcd(err error) string {
	says := func(words string) bool { return strings.Contains(err.Error(), words) } // the errors of x509 come as text
	switch {
	case says("unknown authority"):
		return "name the authority that signed its certificate in cluster.ca"
	case says("certificate is valid for"), says("doesn't contain any IP SANs"):
		return "name it in cluster.endpoints by a name that is in its certificate"
	case says("certificate required"), says("bad certificate"):
		return "name this manager's certificate in cluster.cert, by an authority that etcd trusts"
	case errors.Is(err, etcd.ErrDenied):
		return "etcdctl role grant-permission ROLE --prefix=true readwrite " + c.prefix
	case errors.Is(err, etcd.ErrNoSpace):
		return "etcdctl compact, etcdctl defrag and then etcdctl alarm disarm"
	}
	return "is etcd running, and is cluster.endpoints right?"
}

// checkLease is how long a key that check writes lives at most.
const checkLease = 30 * time.Second

// role tries to write, read and delete a key of the cluster's, with a lease, and reports
// whether it can.
func (c *clusterCheck) role(ctx context.Context) bool {
	const what = "etcd role"
	began := c.now()
	if err := c.tryRole(ctx); err != nil {
		c.fail(what, c.fixEtcd(err), fmt.Errorf("trying to write, read and delete a key: %w", err))
		return false
	}
	took := c.now().Sub(began)
	switch _, _, err := c.engine.Range(ctx, outside); {
	case errors.Is(err, etcd.ErrDenied):
		c.ok(what, "reads, writes and deletes below %s in %s, and nothing else", c.prefix, took.Round(time.Millisecond))
	case err == nil && c.cfg.Cluster.User != "":
		c.warn(what, "etcdctl role grant-permission ROLE --prefix=true readwrite "+c.prefix+", and no more", "the user %q may read all of etcd, and not only what is below %s", c.cfg.Cluster.User, c.prefix)
	default:
		c.ok(what, "reads, writes and deletes below %s in %s", c.prefix, took.Round(time.Millisecond))
	}
	return true
}

// outside is no key of a cluster's.
const outside = "/balancer-check-outside/"

func (c *clusterCheck) tryRole(ctx context.Context) error {
	lease, err := c.engine.Grant(ctx, checkLease)
	if err != nil {
		return err
	}
	defer func() { // also after a timeout: with the lease the key ends
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = c.engine.Revoke(ending, lease)
	}()
	key, value := c.prefix+"check/"+rand.Text(), []byte("balancer check")
	result, err := c.engine.Txn(ctx, []etcd.Op{{Key: key, Value: value, Lease: lease}})
	if err == nil && !result.Made {
		err = errors.New("it says that a new key is there already")
	}
	if err != nil {
		return err
	}
	kvs, _, err := c.engine.Range(ctx, key)
	if err == nil && (len(kvs) != 1 || !bytes.Equal(kvs[0].Value, value)) {
		err = errors.New("what was written is not what is read")
	}
	if err != nil {
		return err
	}
	result, err = c.engine.Txn(ctx, []etcd.Op{{Key: key, Want: result.Revision}})
	if err == nil && !result.Made {
		err = errors.New("the key could not be deleted")
	}
	return err
}

// content looks at the records of the cluster.
func (c *clusterCheck) content(ctx context.Context) {
	what := "cluster " + c.cfg.Cluster.Name
	kvs, revision, err := c.engine.Range(ctx, c.prefix)
	if err != nil {
		c.fail(what, c.fixEtcd(err), err)
		return
	}
	c.compaction(ctx, revision)
	if len(kvs) == 0 {
		c.empty(ctx, what)
		return
	}
	r, err := c.records(ctx)
	switch {
	case errors.Is(err, cluster.ErrKey):
		c.fail(what, "copy cluster.key from a manager that is in the cluster", err)
	case errors.Is(err, cluster.ErrWiped):
		c.fail(what, "see that cluster.endpoints and cluster.name are right; \"balancer cluster restore --help\" says what to do if etcd has lost its data", err)
	case errors.Is(err, state.ErrNewer):
		c.fail(what, "update balancer on this manager, too", err)
	case err != nil:
		c.fail(what, "", err)
	default:
		c.described(what, r)
	}
}

// empty tells of a cluster that is not there. The key is a part of where it would be.
func (c *clusterCheck) empty(ctx context.Context, what string) {
	root, _, _ := strings.Cut(strings.TrimPrefix(c.prefix, "/"), "/")
	if others, _, err := c.engine.Range(ctx, "/"+root+"/"); err == nil && len(others) > 0 {
		c.warn(what, "if managers run already, copy cluster.key from one of them, and see that cluster.name is the same", "nothing is stored by this name and with this key, but by another name or key there is")
		return
	}
	c.ok(what, "nothing is stored yet: the first manager that starts begins it")
}

// manyRevisions is how many changes etcd has seen when somebody should have compacted them.
const manyRevisions = 100_000

// compactionPatience is how long a watch takes at most to say that revisions are gone.
const compactionPatience = 3 * time.Second

// compaction warns of an etcd that keeps all that ever was.
func (c *clusterCheck) compaction(ctx context.Context, revision int64) {
	if revision < manyRevisions {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, compactionPatience)
	defer cancel()
	if err := c.engine.Watch(ctx, c.prefix+"check/", 1, func(int64, []etcd.KV) {}); !errors.Is(err, etcd.ErrCompacted) {
		c.warn("etcd", "start it with --auto-compaction-mode=periodic --auto-compaction-retention=1h", "it keeps all of %d changes: some day its quota is full", revision)
	}
}

const (
	// clocksApart is by how much clocks may differ.
	clocksApart = 2 * time.Minute
	// memberBeat is how old what a member says of its clock may be.
	memberBeat = time.Minute
)

// described tells of the records and of the members.
func (c *clusterCheck) described(what string, r clusterRecords) {
	if r.damaged > 0 {
		c.warn(what, "was the cluster key replaced, and this manager left out? Copy cluster.key from another one", "records that do not open with the cluster key: %d", r.damaged)
	}
	if r.old > 0 {
		c.warn(what, "when all managers have the new key and were reloaded, this ends by itself; see \"balancer cluster key --help\"",
			"records that are sealed with another key than the first in cluster.key: %d", r.old)
	}
	look := cluster.LookAt(c.now(), r.entries)
	var names []string
	for _, m := range look.Members {
		names = append(names, m.Manager)
		ahead := m.Clock.Sub(c.now())
		if m.Clock.IsZero() {
			ahead = 0
		}
		// What it says is up to a minute old.
		if ahead > clocksApart || ahead < -clocksApart-memberBeat {
			c.warn("clock of "+m.Manager, "set both right, by NTP for instance", "it differs from this machine's by about %s", ahead.Abs().Round(time.Second))
		}
		if m.Unfit != "" {
			c.warn("manager "+m.Manager, "", "it cannot publish: %s", m.Unfit)
		}
	}
	switch n := len(look.Unowned); {
	case len(look.Members) == 0:
		c.warn(what, "start a manager", "%s stored, and no manager is there", printable.Count(look.Services, "service"))
		return
	case n > 0:
		c.warn(what, "if it stays so for a minute, no manager can certify them: see what \"balancer check\" says on each of keys and ceremonies",
			"%s, %s among them, have no live manager", printable.Count(n, "service"), look.Unowned[0].Short())
	}
	c.ok(what, "the key opens %s; %s: %s", printable.Count(len(r.entries), "record"), printable.Count(len(names), "manager"), strings.Join(names, ", "))
}
