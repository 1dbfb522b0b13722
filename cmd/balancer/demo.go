package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"onionbalancer/descriptor"
	"onionbalancer/internal/owner"
	"onionbalancer/testnet"
	"onionbalancer/testnet/lab"
)

// demoOptions are the flags of "demo".
type demoOptions struct {
	lab       lab.Config
	limit     int // max_introduction_points; 0: the default
	dir       string
	fetches   int
	hosting   bool
	customers int
	cluster   bool
	rotate    bool
	keep      bool
	asJSON    bool
}

func newDemoCommand() *cobra.Command {
	o := demoOptions{}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show balancing on a private Tor network, in about a minute",
		Long: `Shows what balancer does, on real tor processes on this machine (see "balancer
testnet"). It starts a private Tor network with three instances, runs a balancer
for a new public address with "balancer run", and checks these claims:

  - the public address answers;
  - fetches of it, each by a new visitor with circuits of its own, spread over the
    instances: each gets the share that it can expect, but for chance;
  - when an instance is killed, the address keeps answering;
  - when one is frozen, which relays do not notice, health checks take it out of the
    descriptor, and no new visitor is lost.

With more than six instances, or with --limit, no descriptor has room for all of their
introduction points, and HSDirs hold different ones. Several instances share a tor then,
each visitor fetches the descriptor anew, and the claims are these (instances for which
six descriptors of that many points have no room either get their turn at a refresh,
after an hour or two, which the demonstration does not wait for):

  - every instance is visited;
  - the instances share the visitors as planned, but for chance;
  - when a tor with several instances is killed, no visitor is lost, whether they hold
    a descriptor or not.

With --rotate it continues until the network's time period and its shared random
value have changed, which takes up to five minutes, with a client that keeps the
descriptors it has as long as a tor client does, and checks that

  - none of its requests is lost.

With --hosting it shows shared hosting: 40 customers in two shards, each with an onion
address of their own, on two replicas of each shard, behind web servers that tell them
apart by the Host header. "balancer shard new" makes the keys and the replicas' files, and
the customers are added through the API. The claims are these:

  - every customer is visited, and each visitor gets the page of the customer whose
    address was visited, though one of the balancer's two tors is killed meanwhile;
  - a customer who is added is visited within seconds, and no tor is restarted for it;
  - one who is suspended has no introduction points any more, and resumed is back;
  - when a server with a replica of each shard is killed, no visitor is lost.

With --cluster it shows several managers: three of them share four public addresses by
three etcd, which takes Debian's etcd-server, while a visitor comes each second. One
manager is drained, and later the one with most addresses is killed just before the network
has a new time period or a new shared random value. The claims are these:

  - each address has one owner, and answers;
  - a drained manager gives its addresses away, and nothing is published for it;
  - those of a killed manager are taken within 15 seconds, and published by the others
    after the change of the network;
  - no visitor is lost;
  - etcd's files have no onion address and no manager's name in them.

It takes one to four minutes. With --rotate as well, a second manager is killed at the next
change, and the last one goes on alone.

The exit status is 1 if any claim fails; logs are kept then.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(cmd.Flags().Changed); err != nil {
				return usageError{err}
			}
			return runDemo(cmd, o)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.rotate, "rotate", false, "go on over a new time period and a new shared random value")
	flags.IntVar(&o.fetches, "fetches", 90, "`NUMBER` of visitors before an instance is killed")
	flags.IntVar(&o.lab.Instances, "instances", 3, "`NUMBER` of instances")
	flags.IntVar(&o.limit, "limit", 0, "`NUMBER` of introduction points that a descriptor may have (max_introduction_points); 20 by default")
	flags.BoolVar(&o.hosting, "hosting", false, "show shared hosting instead")
	flags.BoolVar(&o.cluster, "cluster", false, "show several managers instead")
	flags.IntVar(&o.customers, "customers", 40, "`NUMBER` of customers for --hosting")
	flags.IntVar(&o.lab.Network.Relays, "relays", demoRelays, "`NUMBER` of relays; 37 by default with many instances")
	flags.DurationVar(&o.lab.Network.VotingInterval, "voting-interval", testnet.DefaultVotingInterval, "`TIME` from one consensus to the next, 10s or more; 30s by default with more than six instances, and for --hosting")
	flags.StringVar(&o.dir, "dir", "", "`DIRECTORY` for logs and state, which is kept; a temporary one by default")
	flags.StringVar(&o.lab.Network.LogLevel, "tor-log", "notice", "what the tors log, as in torrc: \"[rend]info notice\" tells more")
	flags.BoolVar(&o.keep, "keep", false, "keep the temporary directory")
	flags.BoolVar(&o.asJSON, "json", false, "print the result as JSON")
	_ = cmd.MarkFlagDirname("dir")
	return cmd
}

// check refuses what makes no demonstration, and prepares the lab, but for what flags say.
func (o *demoOptions) check(given func(flag string) bool) error {
	switch {
	case o.hosting && o.cluster:
		return errors.New("--hosting and --cluster are two demonstrations")
	case o.cluster && (given("fetches") || o.limit > 0 || o.lab.Instances > fewInstances):
		return fmt.Errorf("--fetches and --limit do not go with --cluster, nor do more than %d instances", fewInstances)
	case o.hosting && (o.customers < hostedShards || o.customers > hostedMost):
		return fmt.Errorf("the demonstration of hosting takes %d to %d customers", hostedShards, hostedMost)
	case o.hosting && (o.rotate || given("instances") || given("fetches") || o.limit > 0):
		return errors.New("--instances, --fetches, --limit and --rotate are for one address, and do not go with --hosting")
	case o.lab.Instances < 2 || o.lab.Instances > 60 || o.fetches < 10:
		return errors.New("a demonstration takes 2 to 60 instances and at least 10 fetches")
	case o.limit < 0 || o.limit > descriptor.MaxIntroductionPoints:
		return fmt.Errorf("a descriptor has 1 to %d introduction points, not %d", descriptor.MaxIntroductionPoints, o.limit)
	}
	switch {
	case o.hosting:
		o.setHosting(given)
	case o.cluster:
		o.setCluster()
	case o.crowd():
		o.setCrowd(given)
	}
	return o.lab.Network.Validate()
}

// demoRelays is enough that the introduction points of three instances need
// not share relays: each instance chooses its three without knowing of the
// others.
const demoRelays = 20

// demoChecks are quicker than a public network bears, so that nobody has to wait.
const demoChecks = `
[check]
kind = "http"
interval = "2s"
fast_interval = "500ms"
timeout = "2s"
`

// demo is a running demonstration.
type demo struct {
	options demoOptions
	line    *progressLine
	lab     *publicLab
	result  demoResult
}

// runDemo shows everything, prints the result, and tidies up.
func runDemo(cmd *cobra.Command, o demoOptions) (err error) {
	ctx := cmd.Context()
	made := o.dir == ""
	if made {
		if o.dir, err = os.MkdirTemp("", "balancer-demo-"); err != nil {
			return fmt.Errorf("making the demonstration's directory: %w", err)
		}
	} else if err := owner.Check(o.dir); err != nil {
		return err
	} else if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return fmt.Errorf("making the demonstration's directory: %w", err)
	}
	d := &demo{options: o, line: newProgressLine(cmd.ErrOrStderr())}
	began := time.Now()
	show := d.show
	switch {
	case o.hosting:
		show = d.showHosting
	case o.cluster:
		show = d.showCluster
	}
	err = show(ctx)
	d.line.clear()
	d.result.Seconds = time.Since(began).Seconds()
	if err == nil {
		err = d.result.failed()
	}
	d.result.OK = err == nil
	if o.asJSON {
		err = errors.Join(err, writeJSON(cmd.OutOrStdout(), &d.result))
	} else if len(d.result.Claims) > 0 {
		d.result.print(cmd.OutOrStdout())
	}
	if made && !o.keep && (err == nil || ctx.Err() != nil) {
		return errors.Join(err, os.RemoveAll(o.dir))
	}
	d.line.say("logs and state are in %s", o.dir)
	return err
}

// show goes through the demonstration. It returns an error only when it cannot
// go on; a claim that fails is in the result.
func (d *demo) show(ctx context.Context) (err error) {
	began := time.Now()
	checks, limit := demoChecks, ""
	if d.options.crowd() {
		checks = crowdChecks
	}
	if d.options.limit > 0 {
		limit = fmt.Sprintf("max_introduction_points = %d", d.options.limit)
	}
	if d.lab, err = startLab(ctx, d.options.dir, d.options.lab, limit, checks, d.line.tell); err != nil {
		return err
	}
	defer d.lab.Stop()
	d.result.Network = time.Since(began).Seconds()
	d.line.say("A private Tor network of %d relays and %s is up after %.0f s.",
		d.options.lab.Network.Relays+d.options.lab.Network.Authorities, tors(d.lab.Instances), d.result.Network)

	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding our own program: %w", err)
	}
	balancer, err := lab.Run(exec.Command(program, "run", "--config", d.lab.config), filepath.Join(d.lab.Dir, "balancer.log"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, balancer.Stop()) }()
	ctx, cancel := balancer.WhileRunning(ctx)
	defer cancel()

	acts := []func(context.Context, *lab.Process) error{d.firstAnswer, d.spread, d.kill, d.freeze}
	if d.options.crowd() {
		acts = []func(context.Context, *lab.Process) error{d.firstAnswer, d.crowdAll, d.crowdSpread, d.crowdKill}
	}
	for _, act := range acts {
		if err := act(ctx, balancer); err != nil {
			return err
		}
	}
	if d.options.rotate {
		return d.rotation(ctx)
	}
	return nil
}
