package main

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"onionbalancer/descriptor"
	"onionbalancer/internal/config"
	"onionbalancer/internal/hosting"
	"onionbalancer/internal/owner"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/probe"
	"onionbalancer/internal/shell"
	"onionbalancer/internal/state"
)

func newShardCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "shard",
		Short: "Make and look after shards: instances that many customers share",
		Long: `A shard is a few instances, its replicas, on which many customers are served, each under
an onion address of their own. A replica's tor answers for the addresses in its
ob_config alone, and reads that file when it starts. So keys are made beforehand, as
spares, and a new customer takes one: no tor is restarted for it.

"shard new" makes the keys of a new shard and what its replicas need. "shard refill"
makes more spares and writes the replicas' ob_config again; when the replicas were
restarted with it, one after the other, "shard installed" makes them available. About
250 customers and 25 spares fit well into a shard: each line of ob_config costs a
replica's tor 10 microseconds for every introduction. doc/hosting.md has the whole
story.`,
	}
	addCommands(cmd, newShardNewCommand(), newShardListCommand(), newShardRefillCommand(), newShardInstalledCommand())
	return cmd
}

// shardFlags are those of the commands about a shard of the configuration.
type shardFlags struct {
	path, socket string
	asJSON       bool
}

func (f *shardFlags) add(cmd *cobra.Command) {
	addConfigFlag(cmd, &f.path)
	cmd.Flags().BoolVar(&f.asJSON, "json", false, "print as JSON, for programs")
}

// addSocket adds the flag for commands that ask the running balancer.
func (f *shardFlags) addSocket(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.socket, "socket", "", "the running balancer's socket, where the configuration does not say it")
}

// findShard returns the shard of the configuration that is called name.
func findShard(cfg *config.Config, name string) (config.Shard, error) {
	names := make([]string, len(cfg.Shards))
	for i, s := range cfg.Shards {
		if names[i] = s.Name; s.Name == name {
			return s, nil
		}
	}
	return config.Shard{}, usageError{fmt.Errorf("%s has no shard %q; it has %s", cfg.File, name, cmp.Or(strings.Join(names, ", "), "none"))}
}

// openOwn returns the configuration, the shard in it that is called name, and its directory,
// for changes of it, which root does not make where another user rules.
func (f *shardFlags) openOwn(name string) (*config.Config, config.Shard, *hosting.Dir, error) {
	cfg, err := loadConfig(f.path)
	if err != nil {
		return nil, config.Shard{}, nil, err
	}
	shard, err := findShard(cfg, name)
	if err == nil {
		err = owner.Check(shard.Customers)
	}
	if err != nil {
		return nil, config.Shard{}, nil, err
	}
	dir, err := hosting.OpenDir(shard.Customers)
	return cfg, shard, dir, err
}

// instanceNames are the names of a shard's replicas.
func instanceNames(s config.Shard) (names []string) {
	for _, i := range s.Instances {
		names = append(names, i.Name)
	}
	return names
}

// shardView is what "balancer shard list" prints of a shard.
type shardView struct {
	hosting.Shard
	Lines     int               `json:"lines"` // of the ob_config of its replicas
	Directory string            `json:"directory"`
	Replicas  []string          `json:"replicas"`
	Troubles  []hosting.Trouble `json:"troubles,omitempty"`
}

func newShardListCommand() *cobra.Command {
	var f shardFlags
	cmd := &cobra.Command{
		Use:   "list --config FILE",
		Short: "List shards with their customers, spares and replicas",
		Long: `List the shards of the configuration: how many customers, spare and pending keys each
has, how many lines the ob_config of its replicas, and what is wrong with its directory
or the files of its replicas. It reads the directories and the stored state, whether or
not a balancer is running.`,
		Example: "  balancer shard list --config /etc/balancer/balancer.toml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(f.path)
			if err != nil {
				return err
			}
			list, err := listShards(cfg)
			if err != nil {
				return err
			}
			return show(cmd, f.asJSON, list, func(w io.Writer) { printShardList(w, list) })
		},
	}
	f.add(cmd)
	return cmd
}

func listShards(cfg *config.Config) ([]shardView, error) {
	customers, err := storedCustomers(cfg.StateDir)
	if err != nil {
		return nil, err
	}
	list := []shardView{}
	for _, s := range cfg.Shards {
		dir, err := hosting.OpenDir(s.Customers)
		if err != nil {
			return nil, err
		}
		v := shardView{Directory: s.Customers, Replicas: instanceNames(s)}
		if v.Shard, v.Troubles, err = dir.Inspect(s.Name, v.Replicas); err != nil {
			return nil, fmt.Errorf("shard %s: %w", s.Name, err)
		}
		for _, c := range customers {
			if c.Shard == s.Name && c.State == hosting.Suspended && v.Active > 0 {
				v.Active, v.Suspended = v.Active-1, v.Suspended+1
			}
		}
		v.Lines = v.Shard.Lines()
		list = append(list, v)
	}
	return list, nil
}

func printShardList(w io.Writer, list []shardView) {
	if len(list) == 0 {
		fmt.Fprintln(w, "no [[shard]] is in the configuration; \"balancer shard new\" makes one")
		return
	}
	table(func(w io.Writer) {
		fmt.Fprintln(w, "SHARD\tACTIVE\tSUSPENDED\tREMOVED\tSPARES\tPENDING\tLINES\tREPLICAS")
		for _, v := range list {
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s\n", v.Name, v.Active, v.Suspended, v.Removed, v.Spares, v.Pending, v.Lines,
				printable.Text(strings.Join(v.Replicas, " ")))
		}
	})(w)
	for _, v := range list {
		for _, trouble := range v.Troubles {
			fmt.Fprintf(w, "\n%s: %s\n  -> %s\n", v.Name, printable.Text(trouble.Detail), printable.Text(trouble.Fix))
		}
	}
}

// storedCustomers returns the records of all customers; none where nothing is stored.
func storedCustomers(stateDir string) ([]hosting.Customer, error) {
	store, err := state.OpenReadOnly(stateDir, slog.New(slog.DiscardHandler))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return hosting.Customers(store)
}

// writeReplicas writes the files of a shard's replicas: ob_config anew, a torrc where there is
// none. It returns the replicas whose ob_config is another now.
func writeReplicas(stateDir, shard string, dir *hosting.Dir, instances []config.Instance, ports []hosting.Port) (changed []string, err error) {
	lines, err := dir.Lines()
	if err != nil {
		return nil, err
	}
	for _, i := range instances {
		its := lines
		if i.Probe {
			address, err := probeAddress(stateDir, i.Address)
			if err != nil {
				return nil, err
			}
			if address != (descriptor.Address{}) {
				its = append(slices.Clone(lines), address)
			}
		}
		new, err := dir.WriteLines(shard, i.Name, its)
		if err == nil {
			err = dir.WriteTorrc(shard, i.Name, ports)
		}
		if err != nil {
			return nil, err
		}
		if new {
			changed = append(changed, i.Name)
		}
	}
	return changed, nil
}

// probeAddress returns the probe address of an instance; the zero Address while it has none.
func probeAddress(stateDir string, instance descriptor.Address) (descriptor.Address, error) {
	store, err := state.OpenReadOnly(stateDir, slog.New(slog.DiscardHandler))
	if errors.Is(err, os.ErrNotExist) {
		return descriptor.Address{}, nil
	}
	if err != nil {
		return descriptor.Address{}, err
	}
	return probe.Find(store, instance)
}

// replicaPath is the directory of a replica's files, for a shell.
func replicaPath(dir *hosting.Dir, replica string) string {
	path, err := dir.ReplicaDir(replica)
	if err != nil {
		return err.Error() // not reached: it was written to before
	}
	return shell.Quote(path)
}

// makeKeys makes n pending keys, those on disk with progress on standard error.
func makeKeys(cmd *cobra.Command, dir *hosting.Dir, token string, n int) error {
	if token != "" && n > 0 {
		if err := dir.NewSealed(cmd.Context(), token, n); err != nil {
			return fmt.Errorf("made 0 of %d keys: %w", n, err)
		}
		return nil
	}
	progress := newProgressLine(cmd.ErrOrStderr())
	defer progress.clear()
	began := time.Now()
	for i := range n {
		if err := cmd.Context().Err(); err != nil {
			return fmt.Errorf("made %d of %d keys: %w", i, n, err)
		}
		if _, err := dir.NewKey(rand.Reader); err != nil {
			return fmt.Errorf("made %d of %d keys: %w", i, n, err)
		}
		if time.Since(began) > time.Second {
			progress.tell(fmt.Sprintf("making keys: %d of %d", i+1, n))
		}
	}
	return nil
}
