// Package managers runs managers of a cluster as processes, on a real etcd and a simulated
// network, breaks what can be broken, and checks what HSDirs got. It has tests alone.
package managers

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/cluster"
	"onionbalancer/internal/cluster/clustertest"
	"onionbalancer/internal/etcd"
	"onionbalancer/internal/failpoint"
	"onionbalancer/internal/state"
	"onionbalancer/internal/status"
	"onionbalancer/testnet/etcdlab"
	"onionbalancer/testnet/managers/history"
	"onionbalancer/testnet/sim"
)

// program is the balancer with failpoints.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "managers")
	if err == nil {
		program = filepath.Join(dir, "balancer")
		build := exec.Command("go", "build", "-tags", "failpoints", "-o", program, "onionbalancer/cmd/balancer")
		build.Stderr = os.Stderr
		err = build.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "building the balancer:", err)
		os.Exit(1)
	}
	flag.Parse()
	_ = flag.Set("test.parallel", "4") // they wait most of the time
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// soaking says that tests take as long as they should, and not as long as can be borne.
func soaking() bool { return os.Getenv("BALANCER_SOAK") != "" }

// options are what a world is like.
type options struct {
	services int
	hosted   bool     // services are customers' of a shard
	without  []string // managers that have no key of a customer's
	managers []string
	etcd     etcdlab.Config
	network  sim.Config
	reserve  time.Duration // default: ten minutes
}

// world is managers with what they share.
type world struct {
	t        *testing.T
	dir      string
	hosted   bool
	reserve  time.Duration
	net      *sim.Network
	etcd     *etcdlab.Lab
	log      *history.Log
	services []descriptor.Address // by number
	web      []*sim.Instance
	changes  int // of them
	managers []*manager
	prefix   string         // of what the cluster has in etcd
	store    *cluster.Store // that the harness itself follows
}

// manager is one, with its processes one after the other.
type manager struct {
	w     *world
	name  string
	dir   string
	tor   *sim.Tor
	etcd  *proxy
	skew  time.Duration
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has
}

// newWorld starts all but the managers.
func newWorld(t *testing.T, o options) (w *world) {
	t.Helper()
	settled()
	dir, err := os.MkdirTemp("", "world") // sockets need a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.keepLogs(); os.RemoveAll(dir) })
	w = &world{t: t, dir: dir, hosted: o.hosted, reserve: max(o.reserve, 10*time.Minute), log: new(history.Log)}
	if o.network.Latency == 0 {
		o.network.Latency = latency
	}
	w.net = sim.New(o.network)
	t.Cleanup(w.net.Close)
	if w.etcd, err = etcdlab.Start(t.Context(), o.etcd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.etcd.Stop() })
	for n := range 3 {
		w.web = append(w.web, w.net.AddInstance(sim.InstanceConfig{Name: fmt.Sprint("web", n), Start: 10 * time.Millisecond}))
	}
	for n := range o.services {
		w.addService(n, o)
	}
	key := cluster.NewKey()
	if w.prefix, err = cluster.Prefix(key, "main"); err != nil {
		t.Fatal(err)
	}
	key.Text().Do(func(text []byte) { w.write("cluster.key", string(text)) })
	w.follow(key)
	names := map[*sim.Tor]string{}
	for _, name := range o.managers {
		m := &manager{w: w, name: name, dir: filepath.Join(dir, name), tor: w.net.AddTor(sim.TorConfig{ConsensusDelay: time.Second}), etcd: newProxy(w.etcd.Endpoints())}
		t.Cleanup(m.etcd.close)
		l, err := net.Listen("unix", filepath.Join(dir, name+".tor"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go m.tor.Serve(l)
		names[m.tor] = name
		if err := os.Mkdir(m.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		w.managers = append(w.managers, m)
		t.Cleanup(func() { m.signal(syscall.SIGCONT); m.kill() })
	}
	w.net.OnPost(func(p sim.Posted) {
		w.log.Upload(history.Upload{At: p.At, Service: p.Address, Period: p.Blinded, HSDir: p.To.Nickname(), Counter: p.Counter, Manager: names[p.Through], Stored: p.Stored})
	})
	return w
}

// latency is how long HSDirs take to answer.
const latency = 50 * time.Millisecond

func (w *world) write(name, text string) {
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// addService makes the key of a service, which all managers read, or of a customer, of which
// each manager has a copy.
func (w *world) addService(n int, o options) {
	key, err := descriptor.IdentityKeyFromSeed(append(make([]byte, 30), byte(n>>8), byte(n)))
	if err != nil {
		w.t.Fatal(err)
	}
	dirs := []string{filepath.Join("keys", fmt.Sprint(n))}
	if o.hosted {
		dirs = nil
		for _, name := range o.managers {
			if !slices.Contains(o.without, name) {
				dirs = append(dirs, filepath.Join(name+".customers", fmt.Sprint("c", n)))
			}
		}
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(filepath.Join(w.dir, dir), 0o700); err != nil {
			w.t.Fatal(err)
		}
		w.write(filepath.Join(dir, "hs_ed25519_secret_key"), "== ed25519v1-secret: type0 ==\x00\x00\x00"+string(key.Expanded()))
	}
	w.services = append(w.services, key.Address())
}

// engine connects to etcd.
func (w *world) engine() *cluster.Etcd {
	engine, err := cluster.NewEtcd(etcd.Config{Endpoints: w.etcd.Endpoints()})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(engine.Close)
	return engine
}

// follow has the history told who owns what.
func (w *world) follow(key *cluster.Key) {
	var err error
	if w.store, err = cluster.Open(cluster.Config{Engine: w.engine(), Key: key, Name: "main"}); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(w.store.Close)
	last := map[descriptor.Address]uint64{}
	w.store.Subscribe(state.ServicePrefix, func(changed []state.Key) {
		for _, k := range changed {
			a, err := state.ServiceOf(k)
			value, _, getErr := w.store.Get(k)
			var record state.Service
			if err != nil || getErr != nil || json.Unmarshal(value, &record) != nil || record.Term == last[a] {
				continue
			}
			last[a] = record.Term
			w.log.Turn(history.Turn{At: time.Now(), Service: a, Owner: record.Owner, Term: record.Term})
		}
	})
}

func (w *world) manager(name string) *manager {
	return w.managers[slices.IndexFunc(w.managers, func(m *manager) bool { return m.name == name })]
}

// configure writes the manager's configuration.
func (m *manager) configure() {
	var b strings.Builder
	fmt.Fprintf(&b, "state_dir = %q\n[log]\nlevel = \"debug\"\n[tor]\ncontrol = \"unix:%s.tor\"\npublish_rate = 200\n", m.dir, m.dir)
	endpoints, _ := json.Marshal(m.etcd.endpoints()) // strings
	fmt.Fprintf(&b, "[cluster]\nstore = \"etcd\"\nmanager = %q\nendpoints = %s\nkey = \"cluster.key\"\nreserve = %q\nshare_keys = false\n", m.name, endpoints, m.w.reserve)
	if m.w.hosted {
		fmt.Fprintf(&b, "[[shard]]\nname = \"s1\"\ncustomers = %q\nfetch_interval = \"2s\"\n", m.name+".customers")
		m.instances(&b, "shard")
	} else {
		for n := range m.w.services {
			fmt.Fprintf(&b, "[[service]]\nkey = \"keys/%d\"\nfetch_interval = \"2s\"\n", n)
			m.instances(&b, "service")
		}
	}
	m.w.write(m.name+".toml", b.String())
}

func (m *manager) instances(b *strings.Builder, of string) {
	for _, i := range m.w.web {
		fmt.Fprintf(b, "[[%s.instance]]\nname = %q\naddress = %q\n", of, i.Name(), i.Address())
	}
}

// start starts a process of the manager.
func (m *manager) start() {
	m.w.t.Helper()
	m.configure()
	log, err := os.OpenFile(m.dir+".log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		m.w.t.Fatal(err)
	}
	defer log.Close()
	m.cmd = exec.Command(program, "run", "--config", m.dir+".toml")
	m.cmd.Stderr = log
	m.cmd.Env = append(os.Environ(), failpoint.Directory+"="+m.dir, failpoint.Skew+"="+m.skew.String())
	if err := m.cmd.Start(); err != nil {
		m.w.t.Fatal(err)
	}
	m.ended = make(chan struct{})
	go func() {
		defer close(m.ended)
		_ = m.cmd.Wait() // tests look at what it did
	}()
}

func (m *manager) signal(s syscall.Signal) {
	if m.cmd != nil {
		_ = m.cmd.Process.Signal(s) // it may have ended
	}
}

// kill ends the process with SIGKILL, and stop with SIGTERM.
func (m *manager) kill() { m.end(syscall.SIGKILL) }
func (m *manager) stop() { m.end(syscall.SIGTERM) }

func (m *manager) end(s syscall.Signal) {
	if m.cmd != nil {
		m.signal(s)
		<-m.ended
	}
}

// arm has the process stop itself when it reaches a failpoint next.
func (m *manager) arm(point string) {
	m.w.write(filepath.Join(m.name, point), "")
}

// reached reports whether it has.
func (m *manager) reached(point string) bool {
	_, err := os.Stat(filepath.Join(m.dir, point+".reached"))
	return err == nil && m.paused()
}

// paused reports whether the process is stopped.
func (m *manager) paused() bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.cmd.Process.Pid))
	_, rest, _ := strings.Cut(string(stat), ") ")
	return err == nil && strings.HasPrefix(rest, "T")
}

// status asks the process how its cluster is; the zero Cluster if it does not answer.
func (m *manager) status() status.Cluster {
	ctx, cancel := context.WithTimeout(m.w.t.Context(), 2*time.Second)
	defer cancel()
	c, _ := status.QueryCluster(ctx, filepath.Join(m.dir, status.SocketName))
	return c
}

// snapshot asks the process for its whole status; the zero Snapshot if it does not answer.
func (m *manager) snapshot() status.Snapshot {
	ctx, cancel := context.WithTimeout(m.w.t.Context(), 5*time.Second)
	defer cancel()
	s, _ := status.Query(ctx, filepath.Join(m.dir, status.SocketName))
	return s
}

// logged returns the lines of the log that contain a text.
func (m *manager) logged(text string) (lines []string) {
	log, _ := os.ReadFile(m.dir + ".log")
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, text) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// until waits until a condition holds, and returns how long that took.
func (w *world) until(what string, limit time.Duration, done func() bool) time.Duration {
	w.t.Helper()
	began := time.Now()
	limit += time.Duration(len(w.services)) * 50 * time.Millisecond
	for {
		asked := time.Now()
		if done() {
			return time.Since(began)
		}
		if time.Since(began) > limit {
			w.t.Errorf("%s: not within %s: %v", what, limit, w.shares())
			for _, m := range w.managers {
				if lines := m.logged("level=ERROR"); len(lines) > 0 {
					w.t.Logf("%s: %s", m.name, strings.Join(lines[max(0, len(lines)-5):], "\n"))
				}
			}
			w.t.FailNow()
		}
		time.Sleep(max(20*time.Millisecond, time.Since(asked))) // of thousands it takes a while
	}
}

// shares returns how many services each manager owns by the store.
func (w *world) shares() map[string]int { return w.log.Shares() }

// within fails the test if something took too long. That is only looked at when there is
// time for it: a machine that does much else is slow.
func (w *world) within(what string, took, limit time.Duration) {
	w.t.Helper()
	w.t.Logf("%s within %s", what, took.Round(time.Millisecond))
	if took > limit && soaking() {
		w.t.Errorf("%s within %s, more than %s", what, took, limit)
	}
}

// ownedBy reports whether all services are owned by the managers named, as the store says
// and each of them.
func (w *world) ownedBy(names ...string) func() bool {
	return func() bool {
		owners, sum := w.shares(), 0
		for _, name := range names {
			sum += owners[name]
		}
		if sum < len(w.services) {
			return false
		}
		for _, name := range names {
			if m := w.manager(name); m.status().Owned != owners[name] {
				return false
			}
		}
		return true
	}
}

// servedBy reports whether the managers named have all customers, and have planned for them.
func (w *world) servedBy(names ...string) func() bool {
	return func() bool {
		served := 0
		for _, name := range names {
			for _, s := range w.manager(name).snapshot().Shards {
				served += s.Customers.Served()
			}
		}
		return served == len(w.services)
	}
}

// quiet waits until nothing has been uploaded for a while: all that was due is published.
func (w *world) quiet(during time.Duration) {
	w.t.Helper()
	w.until("all is published", 2*time.Minute, func() bool {
		return len(w.log.Uploads(time.Now().Add(-during))) == 0
	})
}

// published reports whether HSDirs have what a service published since a moment, with no
// slot left out.
func (w *world) published(since time.Time) func() bool { return w.publishedBy("", since) }

// publishedBy does so for uploads of one manager; of any if it is empty.
func (w *world) publishedBy(name string, since time.Time) func() bool {
	return func() bool {
		stored := map[descriptor.Address]map[string]bool{}
		for _, u := range w.log.Uploads(since) {
			if u.Stored && (name == "" || u.Manager == name) {
				if stored[u.Service] == nil {
					stored[u.Service] = map[string]bool{}
				}
				stored[u.Service][u.HSDir+string(u.Period[:])] = true
			}
		}
		for _, a := range w.services {
			first, second, err := w.net.Responsible(a)
			if err != nil || len(stored[a]) < len(first)+len(second) {
				return false
			}
		}
		return true
	}
}

// change has an instance take other introduction points: one after the other, as one that does
// so often is not heeded at once.
func (w *world) change() {
	w.web[w.changes%len(w.web)].ReplacePoints()
	w.changes++
}

// changed is change, and waits until all services are published with that.
func (w *world) changed() {
	w.t.Helper()
	began := time.Now()
	w.change()
	took := w.until("what changed is published", 2*time.Minute, w.published(began))
	w.t.Logf("a change is published within %s", took.Round(time.Millisecond))
}

// settled returns after a moment in which tors switch to another period, if one is near: what
// is published then is due.
func settled() {
	for now := time.Now().UTC(); now.Hour()%12 == 11 && now.Minute() >= 57 || now.Hour()%12 == 0 && now.Minute() == 0; now = time.Now().UTC() {
		time.Sleep(time.Second)
	}
}

// judge fails the test for what the history forbids, for visits that were lost, and for what
// somebody can read who has etcd's files.
func (w *world) judge() {
	w.t.Helper()
	list := w.log.Breaches()
	for _, b := range list[:min(len(list), 10)] {
		w.t.Error(b)
	}
	visits, lost := w.log.Visits(time.Time{})
	w.t.Logf("%d uploads, %d visits, %d of them lost, broken: %v", len(w.log.Uploads(time.Time{})), visits, len(lost), history.Count(list))
	if len(lost) > 0 {
		w.t.Errorf("%d visits were lost (V6), %s at first", len(lost), lost[0].Err)
	}
	w.readFiles()
}

// readFiles looks for addresses and names in all of etcd's files.
func (w *world) readFiles() {
	w.t.Helper()
	var all []string
	for _, m := range w.managers {
		all = append(all, m.name)
	}
	bytes := 0
	for member := range w.etcd.Members() {
		err := filepath.WalkDir(w.etcd.DataDir(member), func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			content, err := os.ReadFile(path)
			if found := clustertest.Readable(content, w.services, all); len(found) > 0 {
				w.t.Errorf("%s shows %q", filepath.Base(path), found)
			}
			bytes += len(content)
			return err
		})
		if err != nil {
			w.t.Error(err)
		}
	}
	if bytes == 0 {
		w.t.Error("etcd has no files: nothing was looked at")
	}
}

// visitAll has somebody who knows nothing visit one service after another, several a second,
// until stop is called.
func (w *world) visitAll(each time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var wait sync.WaitGroup
	wait.Go(func() {
		clients := map[descriptor.Address]*sim.Client{}
		for n := 0; ctx.Err() == nil; n++ {
			a := w.services[n%len(w.services)]
			if clients[a] == nil {
				clients[a] = w.net.NewClient(a, sim.ClientConfig{})
			}
			clients[a].Forget()
			w.log.Visit(history.Visit{At: time.Now(), Service: a, Err: clients[a].Request().Err})
			time.Sleep(each)
		}
	})
	return func() { cancel(); wait.Wait() }
}

// order has the process carry out an order about the cluster.
func (m *manager) order(o status.ClusterOrder) {
	m.w.t.Helper()
	m.w.until(o.Word, time.Minute, func() bool {
		ctx, cancel := context.WithTimeout(m.w.t.Context(), 10*time.Second)
		defer cancel()
		_, err := status.OrderCluster(ctx, filepath.Join(m.dir, status.SocketName), o)
		return err == nil
	})
}

// begin starts all managers, and has all but the first, which takes everything at once, own
// the services; and everything be published.
func (w *world) begin() {
	w.t.Helper()
	var others []string
	for n, m := range w.managers {
		m.start()
		if n == 0 {
			w.until("the first", time.Minute, w.ownedBy(m.name))
		} else {
			others = append(others, m.name)
			w.until("the next", time.Minute, func() bool { return m.status().Joined })
		}
	}
	began := time.Now()
	if first := w.managers[0]; len(others) > 0 {
		first.order(status.ClusterOrder{Word: "drain"})
		w.until("drained", time.Minute, w.ownedBy(others...))
		first.order(status.ClusterOrder{Word: "undrain"})
		w.until("undrained", time.Minute, func() bool { return !first.status().Draining })
	}
	w.until("published", 2*time.Minute, w.published(time.Time{}))
	w.quiet(2 * time.Second)
	w.t.Logf("ready after %s: %v, %d uploads", time.Since(began).Round(time.Millisecond), w.shares(), len(w.log.Uploads(time.Time{})))
}

// keepLogs copies the managers' logs to where the environment says.
func (w *world) keepLogs() {
	to := os.Getenv("BALANCER_TEST_LOGS")
	for _, m := range w.managers {
		if log, err := os.ReadFile(m.dir + ".log"); err == nil && to != "" {
			_ = os.WriteFile(filepath.Join(to, w.t.Name()+"."+m.name+".log"), log, 0o600)
		}
	}
}
