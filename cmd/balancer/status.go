package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"onionbalancer/internal/printable"
	"onionbalancer/internal/shell"
	"onionbalancer/internal/socket"
	"onionbalancer/internal/status"
)

// statusFlags are those of "balancer status".
type statusFlags struct {
	path, socket    string
	customer, shard string
	json, metrics   bool
}

func newStatusCommand() *cobra.Command {
	var f statusFlags
	cmd := &cobra.Command{
		Use:   "status --config FILE",
		Short: "Show what the running balancer is doing",
		Long: `Show what the running balancer is doing: its tor, the consensus, the shards with
their customers in numbers, and for each service the custody of its keys and how long
it lasts, its instances, its published descriptors and how many HSDirs confirmed them.
The answer comes over a unix socket in state_dir, which only the balancer's user and
root can open. It names the configuration in force, and says whether a newer one was
refused.

"ok" means that an instance's descriptor is fresh and that its health checks pass; the
column "check" says what they found. With [check] kind = "tcp" a web server that
answers only errors passes, with "http" it does not.

The exit status is 0 if all is in force as configured and every service and shard is
"ok" or "degraded": visitors are served. It is 1 if a service, a shard or a customer
has failed, if a service or shard is "starting" or was left out, if the last reload
was refused, if tor's control port is lost, or if no balancer answers; of a cluster,
"balancer cluster status --help" says when. With --customer it is about that one alone.
With --metrics it is 0 if there was an answer.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.show(cmd) },
	}
	addConfigFlag(cmd, &f.path)
	cmd.Flags().StringVar(&f.socket, "socket", "", "the status socket's `PATH`, instead of the one that the configuration implies")
	cmd.Flags().StringVar(&f.customer, "customer", "", "show one customer of a shard, called `NAME`, or its address")
	cmd.Flags().StringVar(&f.shard, "shard", "", "show the shard called `NAME`")
	cmd.Flags().BoolVar(&f.json, "json", false, "print everything as JSON")
	cmd.Flags().BoolVar(&f.metrics, "metrics", false, "print metrics in Prometheus' text format")
	cmd.MarkFlagsMutuallyExclusive("json", "metrics")
	cmd.MarkFlagsMutuallyExclusive("customer", "shard", "metrics")
	return cmd
}

// show asks the running balancer and prints its answer.
func (f *statusFlags) show(cmd *cobra.Command) error {
	socket, broken, err := statusSocket(f.path, f.socket)
	if err != nil {
		return err
	}
	switch {
	case f.metrics:
		return asked(status.Metrics(cmd.Context(), socket, cmd.OutOrStdout()), broken)
	case f.customer != "":
		c, err := status.QueryCustomer(cmd.Context(), socket, f.customer)
		if err != nil {
			return asked(err, broken)
		}
		if err := show(cmd, f.json, c, func(w io.Writer) { printCustomer(w, time.Now(), c) }); err != nil {
			return err
		}
		return unwellCustomer(c)
	}
	snapshot, err := status.Query(cmd.Context(), socket)
	if err != nil {
		return asked(err, broken)
	}
	if broken != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "warning: the configuration cannot be read as it is now, and would be refused:\n%s\n", printable.Lines(broken.Error()))
	}
	if f.shard != "" {
		return f.showShard(cmd, snapshot)
	}
	if err := show(cmd, f.json, snapshot, func(w io.Writer) { printStatus(w, snapshot) }); err != nil {
		return err
	}
	return unwell(snapshot)
}

// showShard prints one shard of a snapshot.
func (f *statusFlags) showShard(cmd *cobra.Command, s status.Snapshot) error {
	n := slices.IndexFunc(s.Shards, func(one status.Shard) bool { return one.Name == f.shard })
	if n < 0 {
		var names []string
		for _, one := range s.Shards {
			names = append(names, one.Name)
		}
		return fmt.Errorf("there is no shard %q, but %s", f.shard, cmp.Or(printable.Text(strings.Join(names, ", ")), "none at all"))
	}
	if err := show(cmd, f.json, s.Shards[n], func(w io.Writer) { printShard(w, s.Now, s.Shards[n]) }); err != nil {
		return err
	}
	return notWell(unwellShards(s.Shards[n : n+1]))
}

// statusSocket returns the socket to ask at: the one that is named, or the one
// that the configuration implies. The daemon is needed most when the file is
// broken, so that is not an error; broken then has the error.
func statusSocket(path, named string) (socket string, broken, err error) {
	if named != "" {
		return named, nil, nil
	}
	dir, broken, err := stateDir(path)
	return filepath.Join(dir, status.SocketName), broken, err
}

// asked adds advice to err if there was no answer.
func asked(err, broken error) error {
	if forbidden := (*socket.ForbiddenError)(nil); errors.As(err, &forbidden) && forbidden.User != "" {
		err = fmt.Errorf("%w; run: runuser -u %s -- %s", err, shell.Quote(forbidden.User), commandLine())
	}
	if err != nil && broken != nil {
		err = fmt.Errorf("%w\n(guessed from a configuration that cannot be read; --socket PATH names another: %w)", err, broken)
	}
	return err
}

// commandLine is the typed command, to be typed again.
func commandLine() string {
	words := make([]string, len(os.Args))
	for i, word := range os.Args {
		words[i] = shell.Quote(word)
	}
	return strings.Join(words, " ")
}

// unwell returns an error that names problems for an operator.
func unwell(s status.Snapshot) error {
	var bad []string
	if refused := s.Refused(); refused != nil {
		bad = append(bad, "the configuration was refused at "+clock(refused.At))
	}
	if !s.Connected() {
		bad = append(bad, "tor's control port is lost")
	}
	if s.LeftOut > 0 {
		bad = append(bad, plural(s.LeftOut, "service")+" left out")
	}
	for _, service := range s.Services {
		if !served(service.State) {
			bad = append(bad, fmt.Sprintf("%s is %s", printable.Text(service.Address), printable.Text(string(service.State))))
		}
	}
	bad = append(bad, unwellCluster(s.Cluster)...)
	return notWell(append(bad, unwellShards(s.Shards)...))
}

// served reports whether visitors are served, as far as this manager knows.
func served(s status.State) bool {
	return s == status.StateOK || s == status.StateDegraded || s == status.StateElsewhere
}

// notWell returns an error that lists what is wrong; nil if nothing is.
func notWell(bad []string) error {
	if len(bad) == 0 {
		return nil
	}
	return fmt.Errorf("not all is well: %s", strings.Join(bad, ", "))
}
