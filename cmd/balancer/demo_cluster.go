package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"onionbalancer/internal/status"
	"onionbalancer/testnet"
	"onionbalancer/testnet/etcdlab"
	"onionbalancer/testnet/lab"
)

// The demonstration of a cluster has this many public addresses, all on the same instances,
// and etcd servers; and tors of visitors who fetch descriptors anew.
const (
	clusterServices = 4
	clusterServers  = 3
	clusterTors     = 4

	// clusterPrefix is where managers keep what they share.
	clusterPrefix = "/balancer/"
)

// clusterManagers are the names of the managers, and of their tors.
var clusterManagers = []string{"amsterdam", "bergen", "chania"}

// clusterTables are the tables of a manager's configuration beside the services.
const clusterTables = `state_dir = %q

[tor]
control = %q
publish_rate = 100   # relays on this machine need no mercy

[cluster]
store = "etcd"
manager = %q
endpoints = [%s]
ca = %q
cert = %q
cert_key = %q
user = %q
password_file = %q
key = "cluster.key"
`

// setCluster prepares the lab for several managers.
func (o *demoOptions) setCluster() {
	o.lab.Managers, o.lab.Crowd = clusterManagers, clusterTors
	o.lab.Network.ClientOptions = []string{"MaxCircuitDirtiness 10"} // as for a crowd
}

// clusterDemo is a demonstration of several managers.
type clusterDemo struct {
	*demo
	*lab.Lab
	program   string // ours
	fronts    []string
	etcd      *etcdlab.Lab
	managers  []*clusterManager
	visitors  *lab.Tally
	addresses map[string]bool // onion addresses that etcd must not learn
}

// clusterManager is one of the managers.
type clusterManager struct {
	name    string
	config  string
	socket  string
	process *lab.Process
	dead    bool
}

// showCluster goes through the demonstration of several managers.
func (d *demo) showCluster(ctx context.Context) (err error) {
	d.result.Cluster = &clusterResult{}
	c := &clusterDemo{demo: d, addresses: map[string]bool{}}
	if c.program, err = os.Executable(); err != nil {
		return fmt.Errorf("finding our own program: %w", err)
	}
	began := time.Now()
	defer func() { err = errors.Join(err, c.stop()) }()
	if err := c.start(ctx); err != nil {
		return err
	}
	d.result.Network = time.Since(began).Seconds()
	config := d.options.lab
	d.line.say("A private Tor network of %d relays, %s and %d etcd are up after %.0f s.",
		config.Network.Relays+config.Network.Authorities, tors(c.Instances), clusterServers, d.result.Network)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for _, m := range c.managers {
		if err := c.run(m, cancel); err != nil {
			return err
		}
	}
	if err := c.published(ctx); err != nil {
		return err
	}
	return c.whileVisited(ctx, func(ctx context.Context) error {
		acts := []func(context.Context) error{c.drained, c.killed}
		if d.options.rotate {
			acts = append(acts, c.killed)
		}
		for _, act := range acts {
			if err := act(ctx); err != nil {
				return err
			}
		}
		return c.sealed()
	})
}

// start makes keys, and starts the network and etcd.
func (c *clusterDemo) start(ctx context.Context) error {
	config := c.options.lab
	config.Dir, config.Tell = c.options.dir, c.line.tell
	for n := range clusterServices {
		front, err := labKey(filepath.Join(c.options.dir, frontName(n)))
		if err != nil {
			return err
		}
		c.fronts, c.addresses[front] = append(c.fronts, front), true
	}
	config.Masters = c.fronts
	users := make([]etcdlab.User, len(clusterManagers))
	for n := range users {
		users[n] = etcdlab.User{Name: fmt.Sprintf("m%d", n+1), Password: rand.Text(), Prefix: clusterPrefix}
	}
	group, starting := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		c.Lab, err = lab.Start(starting, config)
		return err
	})
	group.Go(func() (err error) {
		c.etcd, err = etcdlab.Start(starting, etcdlab.Config{
			Dir: filepath.Join(c.options.dir, "etcd"), Members: clusterServers, TLS: true, ClientCert: true, Users: users,
		})
		return err
	})
	if err := group.Wait(); err != nil {
		return err
	}
	for _, i := range c.Instances {
		c.addresses[i.Address()] = true
	}
	key := filepath.Join(c.Dir, "cluster.key")
	if _, err := os.Stat(key); errors.Is(err, os.ErrNotExist) {
		if out, err := exec.CommandContext(ctx, c.program, "cluster", "key", key).CombinedOutput(); err != nil {
			return fmt.Errorf("making the cluster key: %w: %s", err, out)
		}
	}
	for n, name := range clusterManagers {
		m := &clusterManager{name: name, config: filepath.Join(c.Dir, name+".toml"), socket: filepath.Join(c.Dir, name, status.SocketName)}
		if err := c.configure(m, users[n]); err != nil {
			return fmt.Errorf("making the configuration of %s: %w", name, err)
		}
		c.managers = append(c.managers, m)
	}
	return nil
}

func frontName(n int) string { return fmt.Sprintf("front%d", n+1) }

// configure writes the files of a manager.
func (c *clusterDemo) configure(m *clusterManager, user etcdlab.User) error {
	cert, certKey, err := c.etcd.Certificate(user.Name)
	if err != nil {
		return err
	}
	password := filepath.Join(c.Dir, user.Name+".password")
	if err := os.WriteFile(password, []byte(user.Password+"\n"), 0o600); err != nil {
		return err
	}
	// What an earlier demonstration left is about another etcd.
	if err := os.RemoveAll(filepath.Dir(m.socket)); err != nil {
		return err
	}
	var endpoints []string
	for _, e := range c.etcd.Endpoints() {
		endpoints = append(endpoints, fmt.Sprintf("%q", e))
	}
	text := fmt.Sprintf(clusterTables, filepath.Dir(m.socket), c.Net.ControlTarget(m.name), m.name, strings.Join(endpoints, ", "),
		c.etcd.CAFile(), cert, certKey, user.Name, password)
	for n := range c.fronts {
		text += fmt.Sprintf("\n[[service]]\nkey = %q\n", frontName(n)) + c.List("\n  [[service.instance]]\n  name = %q\n  address = %q\n")
	}
	return os.WriteFile(m.config, []byte(text), 0o600)
}

// run starts a manager. If it ends by itself, so does the demonstration.
func (c *clusterDemo) run(m *clusterManager, cancel context.CancelCauseFunc) (err error) {
	m.process, err = lab.Run(exec.Command(c.program, "run", "--config", m.config), filepath.Join(c.Dir, m.name+".log"))
	if err != nil {
		return err
	}
	ended, _ := m.process.WhileRunning(context.Background())
	go func() {
		<-ended.Done()
		cancel(context.Cause(ended))
	}()
	return nil
}

// stop ends everything that runs.
func (c *clusterDemo) stop() (err error) {
	for _, m := range c.managers {
		if m.process != nil {
			err = errors.Join(err, m.process.Stop())
		}
	}
	if c.etcd != nil {
		err = errors.Join(err, c.etcd.Stop())
	}
	if c.Lab != nil {
		err = errors.Join(err, c.Lab.Stop())
	}
	return err
}

// alive are the managers that were not killed.
func (c *clusterDemo) alive() (list []*clusterManager) {
	for _, m := range c.managers {
		if !m.dead {
			list = append(list, m)
		}
	}
	return list
}

// ownership is who publishes what, as those who are alive say.
type ownership struct {
	owned   map[*clusterManager]int
	owner   map[string]*clusterManager // by public address
	waiting []string                   // addresses that are not well: no owner, or not all HSDirs have confirmed
}

// ask asks all live managers.
func (c *clusterDemo) ask(ctx context.Context) (o ownership, err error) {
	o = ownership{owned: map[*clusterManager]int{}, owner: map[string]*clusterManager{}}
	well := map[string]bool{}
	for _, m := range c.alive() {
		s, err := status.Query(ctx, m.socket)
		if err != nil {
			return o, err
		}
		for _, service := range s.Services {
			if service.Owner == nil || service.Owner.Owning != status.OwningHere {
				continue
			}
			o.owned[m]++
			o.owner[service.Address] = m
			well[service.Address] = lab.Published(service)
		}
	}
	for _, front := range c.fronts {
		if !well[front] {
			o.waiting = append(o.waiting, front)
		}
	}
	return o, nil
}

// await asks until what the managers say is as wanted.
func (c *clusterDemo) await(ctx context.Context, what string, wanted func(ownership) bool) (o ownership, err error) {
	ctx, cancel := limited(ctx, what)
	defer cancel()
	for {
		o, err = c.ask(ctx)
		if err == nil && wanted(o) {
			return o, nil
		}
		select {
		case <-ctx.Done():
			return o, context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// most is the manager that owns most services.
func (o ownership) most() (manager *clusterManager) {
	for m, n := range o.owned {
		if manager == nil || n > o.owned[manager] || n == o.owned[manager] && m.name < manager.name {
			manager = m
		}
	}
	return manager
}

// text says in words who owns how many.
func (o ownership) text(managers []*clusterManager) string {
	var list []string
	for _, m := range managers {
		list = append(list, fmt.Sprintf("%s %d", m.name, o.owned[m]))
	}
	return strings.Join(list, ", ")
}

// whileVisited has a visitor come each second while f runs: to one address after the other,
// in turn one whose tor was there before and one whose tor fetches the descriptor anew.
func (c *clusterDemo) whileVisited(ctx context.Context, f func(context.Context) error) error {
	c.visitors = &lab.Tally{}
	visiting, stop := context.WithCancel(ctx)
	defer stop()
	group := new(errgroup.Group)
	group.Go(func() error {
		return lab.Every(ctx, time.Second, func() bool { return visiting.Err() != nil }, func(n int) { c.visitors.Add(c.visit(ctx, n)) })
	})
	err := f(ctx)
	stop()
	if err := errors.Join(err, group.Wait()); err != nil {
		return err
	}
	r := newTallyResult(c.Names(), c.visitors)
	c.result.Cluster.Visitors = r
	c.result.claim(len(r.Failures) == 0, "no visitor is lost", "%d of %d, one a second; half of the answers took %.1f s at most, the slowest %.1f s",
		r.answered(), r.Visitors, r.Median, r.Slowest)
	c.line.say("%s", strings.TrimRight(r.chart(), "\n"))
	return nil
}

// visit sends the visitor of a number.
func (c *clusterDemo) visit(ctx context.Context, n int) (name string, took time.Duration, err error) {
	front := c.fronts[n%len(c.fronts)]
	began := time.Now()
	if n/len(c.fronts)%2 == 0 {
		name, took, err = c.Visit(ctx, front)
	} else {
		name, took, err = c.NewVisit(ctx, front)
	}
	if err != nil {
		err = fmt.Errorf("visitor %d at %s: %w", n, clock(began), err)
	}
	return name, took, err
}

// change is when the network next has a new time period or a new shared random value.
func change(c *testnet.Consensus) (at time.Time, what string) {
	at, what = c.NextPeriod(), "time period"
	if random := c.NextSharedRandom(); random.Before(at) {
		at, what = random, "shared random value"
	}
	return at, what
}
