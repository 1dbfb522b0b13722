package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"onionbalancer/internal/hosting"
	"onionbalancer/internal/hosting/api"
	"onionbalancer/internal/status"
	"onionbalancer/testnet"
	"onionbalancer/testnet/lab"
)

// The demonstration of shared hosting has this many shards, each with a replica in each of
// the tors of servers.
const (
	hostedShards   = 2
	hostedReplicas = 2
	hostedSpares   = 5 // of a shard, when all customers have their addresses
	hostedMost     = 2 * 250
	hostedTors     = 6 // of visitors

	// With more customers than this, addresses have half as many HSDirs: the relays are
	// on this machine, too, where each upload builds a circuit.
	hostedMany = 100
)

// hostedTables are the tables of the configuration beside the shards.
const hostedTables = `state_dir = "state"

[tor]
control = [%q, %q]
publish_rate = 100   # relays on this machine need no mercy

[check]
kind = "http"
path = %q
interval = "5s"
fast_interval = "1s"
timeout = "5s"
`

// The names of the balancer's tors.
var hostedManagers = []string{lab.Manager, "manager2"}

// setHosting prepares the lab for shared hosting, but for what flags say.
func (o *demoOptions) setHosting(given func(flag string) bool) {
	o.lab.Instances, o.lab.Managers, o.lab.Crowd = 0, hostedManagers, hostedTors
	if !given("voting-interval") {
		o.lab.Network.VotingInterval = crowdInterval
	}
	if o.customers > hostedMany {
		o.lab.Network.ConsensusParams = []string{"hsdir_spread_store=2", "hsdir_spread_fetch=2"}
	}
	o.lab.Network.ClientOptions = []string{"MaxCircuitDirtiness 10"} // as for a crowd
}

// hostingDemo is a demonstration of shared hosting.
type hostingDemo struct {
	*demo
	*lab.Lab
	program string // ours
	config  string
	socket  string
	api     api.Client
	shards  []*hostedShard
	servers [][]*testnet.Service // the replicas on each

	newcomer hosted
	mu       sync.Mutex // protects the result's Crossed
}

// hostedShard is a shard with its customers.
type hostedShard struct {
	name      string
	replicas  []string // names
	router    lab.Router
	customers []string // onion addresses
}

// hosted is a customer's address and where it is.
type hosted struct {
	address string
	shard   *hostedShard
}

// customers are all of them.
func (h *hostingDemo) customers() (all []hosted) {
	for _, s := range h.shards {
		for _, address := range s.customers {
			all = append(all, hosted{address, s})
		}
	}
	return all
}

// showHosting goes through the demonstration of shared hosting.
func (d *demo) showHosting(ctx context.Context) (err error) {
	d.result.Hosting = &hostingResult{}
	h := &hostingDemo{demo: d}
	if h.program, err = os.Executable(); err != nil {
		return fmt.Errorf("finding our own program: %w", err)
	}
	began := time.Now()
	config := d.options.lab
	config.Dir, config.Tell = d.options.dir, d.line.tell
	if h.Lab, err = lab.Start(ctx, config); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Stop()) }()
	h.config, h.socket = filepath.Join(h.Dir, "balancer.toml"), filepath.Join(h.Dir, "state", status.SocketName)
	h.api = api.Client(h.socket)
	if err := h.prepare(ctx); err != nil {
		return err
	}
	d.result.Network = time.Since(began).Seconds()
	d.line.say("A private Tor network of %d relays is up after %.0f s, and %d shards with %d addresses each on %s.",
		config.Network.Relays+config.Network.Authorities, d.result.Network, hostedShards, h.lines(), tors(h.Instances))

	balancer, err := lab.Run(exec.Command(h.program, "run", "--config", h.config), filepath.Join(h.Dir, "balancer.log"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, balancer.Stop()) }()
	ctx, cancel := balancer.WhileRunning(ctx)
	defer cancel()
	for _, act := range []func(context.Context, *lab.Process) error{
		h.addAll, h.published, h.allVisited, h.added, h.suspended, h.replicaKilled,
	} {
		if err := act(ctx, balancer); err != nil {
			return err
		}
	}
	return nil
}

// lines is how many addresses the replicas of a shard know.
func (h *hostingDemo) lines() int {
	return (h.options.customers+hostedShards-1)/hostedShards + hostedSpares
}

// prepare does what a hoster does once: it has keys and the files of the replicas made,
// and starts those with their files.
func (h *hostingDemo) prepare(ctx context.Context) error {
	groups := make([][]testnet.ServiceConfig, hostedReplicas)
	text := fmt.Sprintf(hostedTables, h.Net.ControlTarget(hostedManagers[0]), h.Net.ControlTarget(hostedManagers[1]), lab.HealthPath)
	for n := range hostedShards {
		s := &hostedShard{name: fmt.Sprintf("s%d", n+1)}
		h.shards = append(h.shards, s)
		command := []string{"shard", "new", s.name, "--customers", "customers/" + s.name, "--keys", fmt.Sprint(h.lines())}
		for r := range groups {
			name := s.name + string(rune('a'+r))
			s.replicas = append(s.replicas, name)
			command = append(command, "--replica", name)
		}
		var made shardNew
		out, err := h.run(ctx, append(command, "--json")...)
		if err == nil {
			err = json.Unmarshal(out, &made)
		}
		if err != nil {
			return err
		}
		text += "\n" + made.Configuration
		for r, replica := range made.Replicas {
			config, err := replicaConfig(replica)
			if err != nil {
				return err
			}
			config.Handler = s.router.Replica(replica.Name)
			groups[r] = append(groups[r], config)
		}
	}
	if err := os.WriteFile(h.config, []byte(text), 0o600); err != nil {
		return fmt.Errorf("writing the balancer's configuration: %w", err)
	}
	h.line.tell("starting the replicas")
	err := h.StartReplicas(ctx, groups...)
	for i := 0; i < len(h.Instances); i += hostedShards {
		h.servers = append(h.servers, h.Instances[i].Together())
	}
	return err
}

// replicaConfig is the service that the files of a replica are for.
func replicaConfig(r replicaNew) (testnet.ServiceConfig, error) {
	c := testnet.ServiceConfig{Name: r.Name, Files: []string{filepath.Join(r.Files, hosting.LinesFile)}}
	for _, name := range []string{"hs_ed25519_secret_key", "hs_ed25519_public_key"} {
		c.Files = append(c.Files, filepath.Join(r.Files, hosting.ServiceDir, name))
	}
	torrc, err := os.ReadFile(filepath.Join(r.Files, hosting.TorrcFile))
	if err != nil {
		return c, fmt.Errorf("reading the torrc of a replica: %w", err)
	}
	for line := range strings.Lines(string(torrc)) {
		if strings.HasPrefix(line, "HiddenServiceEnable") || strings.HasPrefix(line, "HiddenServicePoW") {
			c.Options = append(c.Options, strings.TrimSpace(line)) // the others are those of any instance
		}
	}
	return c, nil
}

// addAll has the API add all customers but one.
func (h *hostingDemo) addAll(ctx context.Context, b *lab.Process) error {
	h.line.tell("adding customers")
	if err := h.awaitStatus(ctx, "the balancer answers", func(s status.Snapshot) bool { return len(s.Shards) == hostedShards }); err != nil {
		return err
	}
	for _, s := range h.shards {
		if _, err := h.run(ctx, "shard", "installed", s.name, "--config", h.config); err != nil {
			return err
		}
	}
	began := time.Now()
	for n := range h.options.customers {
		s := h.shards[n%hostedShards]
		d, _, err := h.api.Add(ctx, fmt.Sprintf("customer%d", n+1), s.name, "")
		if err != nil {
			return err
		}
		s.customers = append(s.customers, d.Address.String())
		s.router.Serve(d.Address.String())
	}
	h.line.say("%d customers are added after %.1f s.", h.options.customers, time.Since(began).Seconds())
	return nil
}

// run runs one of our own commands, and returns what it prints.
func (h *hostingDemo) run(ctx context.Context, args ...string) ([]byte, error) {
	line := "balancer " + strings.Join(args, " ")
	h.line.say("$ %s", line)
	cmd := exec.CommandContext(ctx, h.program, args...)
	cmd.Dir = h.Dir
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", line, err, complaints.String())
	}
	return out, nil
}

// errFound ends a search.
var errFound = errors.New("found")

// event waits for an event of a kind about an address that came after the one with the
// given number.
func (h *hostingDemo) event(ctx context.Context, after uint64, kind, address string) (found api.Event, err error) {
	for {
		err = h.api.Events(ctx, after, true, func(e api.Event) error {
			after = e.ID
			if e.Kind == kind && e.Address == address {
				found = e
				return errFound
			}
			return nil
		})
		if errors.Is(err, errFound) {
			return found, nil
		}
		if ctx.Err() != nil {
			return found, fmt.Errorf("waiting for the event %q of %s: %w (%w)", kind, address, context.Cause(ctx), err)
		}
		time.Sleep(100 * time.Millisecond) // the balancer may be starting
	}
}

// lastEvent is the number of the last event so far.
func (h *hostingDemo) lastEvent(ctx context.Context) (last uint64, err error) {
	err = h.api.Events(ctx, 0, false, func(e api.Event) error {
		last = e.ID
		return nil
	})
	return last, err
}
