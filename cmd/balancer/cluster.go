package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"onionbalancer/internal/printable"
	"onionbalancer/internal/status"
)

func newClusterCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Look after a cluster: managers that share their services",
		Long: `Several managers, each a balancer with the same services in its configuration, share
them: one of them publishes a service, and when it dies, another takes the service over
within seconds. What they have to agree about is kept in an etcd of yours, sealed with a
key that etcd does not have. [cluster] in the configuration says where; doc/cluster.md
has the whole story. Two machines without an etcd (store = "standby") have nothing to
tell each other: of these commands, "cluster status" alone is for them.

"cluster key" makes the key. "cluster status" shows who is there and who owns what.
Before a manager is stopped for good, "cluster drain --wait" has the others take its
services. One that is gone for good is forgotten by itself; "cluster forget" is for a
manager of which somebody else keeps up the signs of life. "cluster restore" is for the
day on which etcd has lost everything.`,
	}
	addCommands(cmd, newClusterStatusCommand(), newClusterDrainCommand(), newClusterUndrainCommand(), newClusterKeyCommand(), newClusterForgetCommand(), newClusterRestoreCommand())
	return cmd
}

// clusterFlags are those of the commands that ask the running balancer about its cluster.
type clusterFlags struct {
	path, socket string
	json         bool
}

func (f *clusterFlags) add(cmd *cobra.Command) {
	addConfigFlag(cmd, &f.path)
	cmd.Flags().StringVar(&f.socket, "socket", "", "the status socket's `PATH`, instead of the one that the configuration implies")
	cmd.Flags().BoolVar(&f.json, "json", false, "print as JSON, for programs")
}

func newClusterStatusCommand() *cobra.Command {
	var f clusterFlags
	cmd := &cobra.Command{
		Use:   "status --config FILE",
		Short: "Show the managers of the cluster, and who owns what",
		Long: `Show the cluster as the running balancer sees it: how many services it owns itself and
how many the other managers, the store with its size and how old what is known of it may
be, until when this manager can go on without the store, and for each live manager how
long it was silent and by how much its clock differs.

Services that no live manager can certify are orphans: HSDirs drop their descriptors
after three hours. Holding are those that this manager owns and leaves as they are, as
the store has not answered for longer than cluster.reserve.

With store = "standby" it shows the public addresses that are watched: when what is
published was made, and when this machine takes over unless it sees something newer.

The exit status is 0 if all is well, and 1 if a service is an orphan or held, this
manager is not in the cluster, the store does not answer or raised an alarm, a watched
address needs attention, the active machine's heartbeat is silent or says that it cannot
publish, or no balancer answers.`,
		Example: "  balancer cluster status --config /etc/balancer/balancer.toml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			socket, broken, err := statusSocket(f.path, f.socket)
			if err != nil {
				return err
			}
			c, err := status.QueryCluster(cmd.Context(), socket)
			if err != nil {
				return asked(err, broken)
			}
			if err := show(cmd, f.json, c, func(w io.Writer) { printCluster(w, time.Now(), c) }); err != nil {
				return err
			}
			return notWell(unwellCluster(&c))
		},
	}
	f.add(cmd)
	return cmd
}

// order has the running balancer carry out an order about its cluster.
func (f *clusterFlags) order(cmd *cobra.Command, o status.ClusterOrder) (a status.ClusterAnswer, socket string, err error) {
	socket, broken, err := statusSocket(f.path, f.socket)
	if err != nil {
		return a, socket, err
	}
	a, err = status.OrderCluster(cmd.Context(), socket, o)
	return a, socket, asked(err, broken)
}

func newClusterDrainCommand() *cobra.Command {
	var f clusterFlags
	var wait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "drain --config FILE",
		Short: "Give all services of this manager to the others",
		Long: `Give all services of this manager to the others, before it is stopped for an upgrade
or taken out of service. It takes none while another manager can. Nothing is published
anew for it: what HSDirs have stays, and the new owner renews it when it is due. A
service that no other manager can certify stays where it is.

It lasts until "balancer cluster undrain", or until this balancer is started again. A
balancer that is stopped gives its services away by itself, but for five seconds only;
draining it first is for those who want to see that it went well.

With --wait it returns when this manager owns nothing any more, and fails if it was
interrupted before; the manager goes on draining. Give it a --timeout where services may
stay that no other manager can certify.`,
		Example: `  balancer cluster drain --config /etc/balancer/balancer.toml
  balancer cluster drain --config /etc/balancer/balancer.toml --wait --timeout 2m && systemctl stop balancer`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if timeout != 0 && !wait {
				return usageError{errors.New("--timeout goes with --wait")}
			}
			a, socket, err := f.order(cmd, status.ClusterOrder{Word: "drain"})
			if err != nil {
				return err
			}
			if !wait {
				return show(cmd, f.json, a, func(w io.Writer) { printDrain(w, a.Cluster) })
			}
			if a.Cluster, err = waitDrained(cmd, socket, a.Cluster, timeout); err != nil {
				return err
			}
			return show(cmd, f.json, a, func(w io.Writer) {
				fmt.Fprintf(w, "%s owns nothing any more, and can be stopped\n", printable.Text(a.Cluster.Manager))
			})
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until this manager owns nothing")
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "with --wait: give up after this `DURATION`, such as 2m")
	return cmd
}

func printDrain(w io.Writer, c status.Cluster) {
	if c.Owned == 0 {
		fmt.Fprintf(w, "%s is draining, and owns nothing\n", printable.Text(c.Manager))
	} else {
		fmt.Fprintf(w, "%s is draining: the others take its %s\n", printable.Text(c.Manager), plural(c.Owned, "service"))
	}
	switch {
	case c.Owned == 0:
	case c.Store.Error != "":
		fmt.Fprintln(w, "  note: the store does not answer: they stay until it does")
	case len(c.Members) < 2:
		fmt.Fprintln(w, "  note: no other manager is there to take them: they stay")
	}
}

// drainEvery is how often waiting asks.
const drainEvery = time.Second

// waitDrained waits until this manager owns nothing, and returns what is so then.
func waitDrained(cmd *cobra.Command, socket string, last status.Cluster, patience time.Duration) (status.Cluster, error) {
	ctx := cmd.Context()
	var timeout <-chan time.Time
	if patience > 0 {
		timeout = time.After(patience)
	}
	progress := newProgressLine(cmd.ErrOrStderr())
	defer progress.clear()
	heard := time.Now()
	for last.Owned > 0 {
		text := plural(last.Owned, "service") + " left"
		switch {
		case last.Store.Error != "":
			text += ", and the store does not answer"
		case len(last.Members) < 2:
			text += ", and no other manager to take them"
		}
		progress.tell(text)
		select {
		case <-time.After(drainEvery):
		case <-timeout:
			return last, fmt.Errorf("%s still owns %s, and goes on draining", last.Manager, plural(last.Owned, "service"))
		case <-ctx.Done():
			return last, fmt.Errorf("%s still owns %s, and goes on draining: %w", last.Manager, plural(last.Owned, "service"), context.Cause(ctx))
		}
		c, err := status.QueryCluster(ctx, socket)
		refused := (*status.RefusedError)(nil)
		switch {
		case err == nil && !c.Draining:
			return c, fmt.Errorf("%s is not draining any more: it was told so, or started again", c.Manager)
		case err == nil:
			last, heard = c, time.Now()
		case ctx.Err() != nil:
		case errors.As(err, &refused) && refused.Status < http.StatusInternalServerError || time.Since(heard) > waitSilence:
			return last, fmt.Errorf("waiting until %s owns nothing: %w", last.Manager, err)
		}
	}
	return last, nil
}

func newClusterUndrainCommand() *cobra.Command {
	var f clusterFlags
	cmd := &cobra.Command{
		Use:   "undrain --config FILE",
		Short: "Have this manager own services again",
		Long: `Have this manager own services again, after "balancer cluster drain". The others give it
its share, a few services a minute.`,
		Example: "  balancer cluster undrain --config /etc/balancer/balancer.toml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, _, err := f.order(cmd, status.ClusterOrder{Word: "undrain"})
			if err != nil {
				return err
			}
			return show(cmd, f.json, a, func(w io.Writer) {
				fmt.Fprintf(w, "%s takes part again; the others give it its share, a few services a minute\n", printable.Text(a.Cluster.Manager))
			})
		},
	}
	f.add(cmd)
	return cmd
}

func newClusterForgetCommand() *cobra.Command {
	var f clusterFlags
	cmd := &cobra.Command{
		Use:   "forget MANAGER --config FILE",
		Short: "Take a manager that is gone for dead at once",
		Long: `Take a manager that is gone for dead at once, so that the others take its services. That
is seldom needed: a manager that dies is noticed after cluster.lease, seconds, and at
the latest after three minutes without a sign of life. It is for the time in between,
when somebody who reaches etcd keeps a dead manager's lease alive.

One that has shown a sign of life in the last minute and a half is refused: stop it, or
say "balancer cluster drain" there. A manager that was seized is kept out by other means:
delete its user of etcd, and make a new cluster key.`,
		Example: "  balancer cluster forget m3 --config /etc/balancer/balancer.toml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "" {
				return usageError{errors.New("the name of the manager is empty")}
			}
			a, _, err := f.order(cmd, status.ClusterOrder{Word: "forget", Manager: args[0]})
			if err != nil {
				return err
			}
			return show(cmd, f.json, a, func(w io.Writer) {
				fmt.Fprintf(w, "%s is forgotten: the others take its services now\n", printable.Text(args[0]))
			})
		},
	}
	f.add(cmd)
	return cmd
}

func newClusterRestoreCommand() *cobra.Command {
	var f clusterFlags
	cmd := &cobra.Command{
		Use:   "restore --config FILE",
		Short: "Write what a wiped etcd has lost again, from this manager's copies",
		Long: `Write what a wiped etcd has lost again, from the copies that this manager keeps in
state_dir of the services that it owned. No manager does so by itself: an etcd that is
empty may be another one, or on the wrong side of a mistake, while the right one is
there and other managers use it.

Until it is said, each manager goes on with its services for as long as cluster.reserve
allows, and takes none. So first see that endpoints and key of all managers are right
("balancer check"), and that no other etcd has the records; if there is a backup of etcd
that is at most a few minutes old, take that instead. Then say it on one manager that
owned many of the services: the others write theirs by themselves.

Records that are there already stay as they are. An etcd that was not wiped is refused.`,
		Example: "  balancer cluster restore --config /etc/balancer/balancer.toml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, _, err := f.order(cmd, status.ClusterOrder{Word: "restore"})
			if err != nil {
				return err
			}
			return show(cmd, f.json, a, func(w io.Writer) {
				fmt.Fprintf(w, "%s wrote what it knows into the store again; the other managers write theirs by themselves\n", printable.Text(a.Cluster.Manager))
			})
		},
	}
	f.add(cmd)
	return cmd
}
