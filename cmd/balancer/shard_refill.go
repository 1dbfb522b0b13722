package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"onionbalancer/internal/config"
	"onionbalancer/internal/hosting"
	"onionbalancer/internal/hosting/api"
	"onionbalancer/internal/shell"
)

func newShardRefillCommand() *cobra.Command {
	var f shardFlags
	var spares int
	var force bool
	cmd := &cobra.Command{
		Use:   "refill SHARD --config FILE",
		Short: "Make more spare keys for a shard, and write its replicas' files again",
		Long: fmt.Sprintf(`Makes keys until the shard has as many spares as --spares says, those that are pending
included, and writes the ob_config of each replica again, whole: the addresses of all
customers, spares and pending keys. Those of removed customers are left out. Then it
prints how the replicas are restarted with it, one after the other. Without anything to
make, it writes and prints the same.

The new keys are pending until "balancer shard installed SHARD" says that all replicas
were restarted. Customers who were to come from elsewhere, by "balancer customer import"
or "balancer customer move", become the shard's by the same step. Do not refill again
between copying the files and saying so.

Nothing is restarted or copied by this command, and the running balancer need not be told.
A torrc is written only for a replica that has none yet: yours may have been edited.

Keys that are kept offline are not made here: have a ceremony put them into .pending of the
shard's directory, and give --spares 0 to write the files.

A shard with more than %d addresses is refused without --force.`, hosting.ShardMost),
		Example: `  balancer shard refill s1 --config /etc/balancer/balancer.toml
  balancer shard refill s1 --spares 50 --config /etc/balancer/balancer.toml`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if spares < 0 {
				return usageError{errors.New("--spares: want 0 or more")}
			}
			return f.refill(cmd, args[0], spares, force)
		},
	}
	f.add(cmd)
	cmd.Flags().IntVar(&spares, "spares", hosting.ShardSpares, "how many spares the shard is to have, pending ones included")
	cmd.Flags().BoolVar(&force, "force", false, fmt.Sprintf("go over %d addresses all the same", hosting.ShardMost))
	return cmd
}

// shardRefill is what "balancer shard refill" prints.
type shardRefill struct {
	Shard    string   `json:"shard"`
	Made     int      `json:"made"`    // keys
	Lines    int      `json:"lines"`   // of each ob_config
	Left     int      `json:"removed"` // customers whose lines were left out
	Changed  []string `json:"changed"` // replicas with another ob_config than before
	Restarts []string `json:"restart"` // replicas, in this order
	Unused   []string `json:"unused"`  // replicas with files here that the configuration does not have

	dir  *hosting.Dir
	cfg  *config.Config
	last time.Duration // how long it takes until all descriptors are uploaded
}

func (f *shardFlags) refill(cmd *cobra.Command, name string, spares int, force bool) error {
	cfg, shard, dir, err := f.openOwn(name)
	if err != nil {
		return err
	}
	missing, err := missingSpares(dir, spares)
	if err != nil {
		return err
	}
	lines, err := dir.Lines()
	if err != nil {
		return err
	}
	if n := len(lines) + missing; n > hosting.ShardMost && !force {
		return fmt.Errorf("%s would have %d addresses, each of which costs its replicas 10 microseconds for every introduction: "+
			"make another shard with \"balancer shard new\", ask for fewer --spares, or add --force", name, n)
	}
	if err := makeKeys(cmd, dir, shard.Token, missing); err != nil {
		return err
	}
	changed, err := writeReplicas(cfg.StateDir, name, dir, shard.Instances, knownPorts(dir))
	if err != nil {
		return err
	}
	done := &shardRefill{Shard: name, Made: missing, Changed: append([]string{}, changed...), Restarts: instanceNames(shard), Unused: []string{}, dir: dir, cfg: cfg}
	if lines, err = dir.Lines(); err != nil {
		return err
	}
	removed, err := dir.Removed()
	if err != nil {
		return err
	}
	replicas, err := dir.Replicas()
	if err != nil {
		return err
	}
	for _, name := range replicas {
		if !slices.Contains(done.Restarts, name) {
			done.Unused = append(done.Unused, name)
		}
	}
	done.Lines, done.Left = len(lines), len(removed)
	done.last = uploading(len(lines), cfg.Tor)
	return show(cmd, f.asJSON, done, done.write)
}

// missingSpares is how many keys are to be made for the shard to have that many spares.
func missingSpares(dir *hosting.Dir, wanted int) (int, error) {
	spares, err := dir.Spares()
	if err != nil {
		return 0, err
	}
	pending, err := dir.Pending()
	if err != nil {
		return 0, err
	}
	brought, err := dir.Brought()
	return max(wanted-len(spares)-len(pending)+len(brought), 0), err
}

// knownPorts are those of the first replica that has a torrc.
func knownPorts(dir *hosting.Dir) []hosting.Port {
	replicas, _ := dir.Replicas()
	for _, replica := range replicas {
		if ports, err := dir.Ports(replica); err == nil && len(ports) > 0 {
			return ports
		}
	}
	return []hosting.Port{hosting.DefaultPort}
}

// uploading is how long it takes at least to upload the descriptors of n addresses.
func uploading(n int, t config.Tor) time.Duration {
	const each = 16 // uploads: 8 HSDirs for each of two descriptors
	tors := max(t.Count, len(t.Controls), 1)
	return time.Duration(n*each/(t.PublishRate*tors)) * time.Second
}

func (r *shardRefill) write(w io.Writer) {
	fmt.Fprintf(w, "%s made, %s in the ob_config of each replica.\n", plural(r.Made, "key"), plural(r.Lines, "line"))
	if r.Left > 0 {
		fmt.Fprintf(w, "%s left out, to whom the replicas answer until they are restarted. Their keys stay\n"+
			"in .removed; \"balancer shard installed %s --erase-removed\" erases them afterwards.\n", plural(r.Left, "removed customer"), r.Shard)
	}
	for _, name := range r.Unused {
		fmt.Fprintf(w, "%s is no instance of the shard in the configuration. Remove its files when its tor is gone:\n"+
			"until then the new keys stay pending.\n\n     rm -r %s\n\n", name, replicaPath(r.dir, name))
	}
	if len(r.Changed) == 0 {
		fmt.Fprintln(w, "No ob_config has changed: replicas that were restarted since need nothing.")
	}
	config := shell.Quote(r.cfg.File)
	fmt.Fprintf(w, `
Now restart the replicas, one after the other, when few visitors come. Each is the name of its
machine here. As root:
`)
	for n, name := range r.Restarts {
		fmt.Fprintf(w, "\n%d. %s\n\n", n+1, name)
		for _, line := range restartCommands(r.Shard, name, replicaPath(r.dir, name)) {
			fmt.Fprintf(w, "     %s\n", line)
		}
		fmt.Fprintf(w, "\n   Its old introduction points are dead now, and visitors go to the others. Go on when\n\n"+
			"     balancer status --shard %s --config %s\n\n   says that %s is ok and was renewed since", r.Shard, config, name)
		if minutes := int(r.last.Minutes()) + 1; n+1 < len(r.Restarts) {
			fmt.Fprintf(w, ", and of no upload that is not confirmed yet:\n   the descriptors of all customers have its new ones then, after about %s", plural(minutes, "minute"))
		}
		fmt.Fprintln(w, ".")
	}
	fmt.Fprintf(w, "\n%d. balancer shard installed %s --config %s\n", len(r.Restarts)+1, r.Shard, config)
}

// restartCommands put a new ob_config in place, and restart the tor.
func restartCommands(shard, replica, files string) []string {
	dir := "/var/lib/tor/" + shard
	return []string{
		fmt.Sprintf("scp %s/%s root@%s:%s/%[2]s.new", files, hosting.LinesFile, replica, dir),
		fmt.Sprintf("ssh root@%s 'cd %s && chown debian-tor:debian-tor %s.new && chmod 0600 %[3]s.new && mv %[3]s.new %[3]s && systemctl restart tor'",
			replica, dir, hosting.LinesFile),
	}
}

func newShardInstalledCommand() *cobra.Command {
	var f shardFlags
	var erase bool
	cmd := &cobra.Command{
		Use:   "installed SHARD --config FILE",
		Short: "Say that a shard's replicas were restarted with their new files",
		Long: `Says that all replicas of the shard were restarted with the ob_config that "balancer
shard new" or "balancer shard refill" wrote last. Its pending keys are spares from now on,
which "balancer customer add" takes, and customers who came from elsewhere are published
from this shard. A key that is not in the ob_config of every replica stays pending.

The running balancer does it; if none runs, it is done in the shard's directory, and the
next one finds it so.

A key that replicas do not know must not become a spare: visitors of a customer who got
it would find nobody. So say it only when it is so.

With --erase-removed the keys of removed customers are erased whose addresses the replicas
no longer have, and who were removed more than four hours ago: then no HSDir has a
descriptor of theirs. These addresses cannot be brought back by anyone without a backup.`,
		Example: "  balancer shard installed s1 --config /etc/balancer/balancer.toml",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return f.installed(cmd, args[0], erase) },
	}
	f.add(cmd)
	f.addSocket(cmd)
	cmd.Flags().BoolVar(&erase, "erase-removed", false, "erase the keys of removed customers whom the replicas no longer know")
	return cmd
}

// shardInstalled is what "balancer shard installed" prints.
type shardInstalled struct {
	hosting.Shard
	Erased int  `json:"erased"`  // keys of removed customers
	Daemon bool `json:"running"` // whether a balancer runs and knows
}

func (f *shardFlags) installed(cmd *cobra.Command, name string, erase bool) error {
	cfg, shard, dir, err := f.openOwn(name)
	if err != nil {
		return err
	}
	socket, broken, err := statusSocket(f.path, f.socket)
	if err != nil {
		return err
	}
	done := &shardInstalled{}
	if erase {
		if done.Erased, err = eraseRemoved(cfg, dir); err != nil {
			return err
		}
	}
	done.Shard, err = api.Client(socket).Installed(cmd.Context(), name)
	switch {
	case err == nil:
		done.Daemon = true
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		if _, _, err = dir.Install(); err != nil {
			return err
		}
		if done.Shard, _, err = dir.Inspect(name, instanceNames(shard)); err != nil {
			return err
		}
	default:
		return asked(err, broken)
	}
	return show(cmd, f.asJSON, done, done.write)
}

func (s *shardInstalled) write(w io.Writer) {
	fmt.Fprintf(w, "%s of %s can be taken", plural(s.Spares, "spare key"), s.Name)
	if s.Pending > 0 {
		fmt.Fprintf(w, ", %s pending: not in the ob_config of all replicas", plural(s.Pending, "key"))
	}
	fmt.Fprintln(w)
	if s.Erased > 0 {
		fmt.Fprintf(w, "%s of removed customers erased\n", plural(s.Erased, "key"))
	}
	if !s.Daemon {
		fmt.Fprintln(w, "no balancer runs; the next one finds it so")
	}
}

// forgotten is after how long no HSDir has a descriptor of a removed customer: they keep one
// for three hours.
const forgotten = 4 * time.Hour

// eraseRemoved erases the keys of removed customers whose addresses are in no replica's
// ob_config, and returns how many.
func eraseRemoved(cfg *config.Config, dir *hosting.Dir) (erased int, err error) {
	customers, err := storedCustomers(cfg.StateDir)
	if err != nil {
		return 0, err
	}
	removed, err := dir.Removed()
	if err != nil {
		return 0, err
	}
	known, replicas, err := dir.Known()
	if err == nil && replicas == 0 {
		err = errors.New("no files of replicas are in the shard's directory, so nobody can tell whom the replicas know")
	}
	if err != nil {
		return 0, err
	}
	for _, a := range removed {
		recent := slices.ContainsFunc(customers, func(c hosting.Customer) bool {
			return c.Address == a && time.Since(c.Since) < forgotten
		})
		if recent || known[a] > 0 {
			continue
		}
		if err := dir.Erase(a); err != nil {
			return erased, err
		}
		erased++
	}
	return erased, nil
}
