package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"onionbalancer/descriptor"
	"onionbalancer/internal/config"
	"onionbalancer/internal/hosting"
	"onionbalancer/internal/owner"
	"onionbalancer/internal/shell"
	"onionbalancer/keystore/pkcs11uri"
)

// shardNewOptions are the flags of "balancer shard new".
type shardNewOptions struct {
	customers, token string
	replicas, ports  []string
	keys             int
	force, asJSON    bool
}

func newShardNewCommand() *cobra.Command {
	var o shardNewOptions
	cmd := &cobra.Command{
		Use:   "new NAME --customers DIR --replica NAME...",
		Short: "Make a new shard: keys for its customers, and what its replicas need",
		Long: fmt.Sprintf(`Makes the directory DIR of a new shard, with keys for customers to come, and for each
replica a directory DIR/.replicas/NAME: ob_config with the addresses of all these keys,
a torrc, and a HiddenServiceDir with a key of the replica's own. Prints the [[shard]] of
the configuration, complete, and what is to be done on each replica.

No balancer needs to run for it, and none is told. Nothing is overwritten: the same
command goes on where an earlier one was interrupted. The keys are pending until the
replicas run and "balancer shard installed NAME" says so; then they are spares, which
"balancer customer add" takes.

Each key is an onion address. --keys says how many: %d customers and %d spares unless
you say otherwise. Every line of ob_config costs a replica's tor 10 microseconds for each
introduction, so more than %d need --force. Make another shard instead. Keys that are in
DIR/.pending already count, such as those of an offline ceremony.

--port is VIRTUAL:TARGET, as a HiddenServicePort: the port that visitors ask for, and the
address or "unix:" socket of the web server on the replica's machine. It may be given
several times. That web server tells the customers apart by the Host header.

With --token, the URI of a key on a token (as for "balancer key seal", without x-sealed),
the customers' keys are sealed by it as soon as they are made, and are on no disk in the
clear. Each is opened once as a trial, so many take a while. Back up DIR, or at least the
keys in it: an address is lost with its key.

Run it as the user that balancer runs as.`, hosting.ShardSize, hosting.ShardSpares, hosting.ShardMost),
		Example: `  balancer shard new s1 --customers /etc/balancer/customers/s1 --replica web1 --replica web2
  balancer shard new s2 --customers customers/s2 --replica web1 --replica web2 --port 80:127.0.0.1:8080 --port 443:127.0.0.1:8443 --keys 100`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0]) },
	}
	f := cmd.Flags()
	f.StringVar(&o.customers, "customers", "", "the `DIR` of the shard")
	f.StringArrayVar(&o.replicas, "replica", nil, "a replica's `NAME`; give it for each")
	f.StringArrayVar(&o.ports, "port", []string{"80:127.0.0.1:8080"}, "`VIRTUAL:TARGET` of a port; may be repeated")
	f.StringVar(&o.token, "token", "", "seal the keys by the token's key of this `URI`")
	f.IntVar(&o.keys, "keys", hosting.ShardSize+hosting.ShardSpares, "how many keys the shard is to have")
	f.BoolVar(&o.force, "force", false, fmt.Sprintf("make more than %d keys all the same", hosting.ShardMost))
	f.BoolVar(&o.asJSON, "json", false, "print as JSON, for programs")
	_ = cmd.MarkFlagDirname("customers")
	return cmd
}

// shardNew is what "balancer shard new" prints.
type shardNew struct {
	Name          string       `json:"name"`
	Customers     string       `json:"customers"`
	Keys          int          `json:"keys"`
	Replicas      []replicaNew `json:"replicas"`
	Configuration string       `json:"configuration"`

	dir *hosting.Dir
}

type replicaNew struct {
	Name    string             `json:"name"`
	Address descriptor.Address `json:"address"`
	Files   string             `json:"files"`
}

func (o *shardNewOptions) run(cmd *cobra.Command, name string) error {
	ports, err := o.check(name)
	if err != nil {
		return usageError{err}
	}
	path, err := filepath.Abs(o.customers)
	if err != nil {
		return err
	}
	if err := owner.Check(path); err != nil {
		return err
	}
	dir, err := hosting.MakeDir(path)
	if err != nil {
		return err
	}
	made := &shardNew{Name: name, Customers: path, dir: dir}
	for _, replica := range o.replicas {
		r := replicaNew{Name: replica}
		if r.Files, err = dir.ReplicaDir(replica); err == nil {
			r.Address, err = dir.MakeReplica(replica)
		}
		if err != nil {
			return err
		}
		made.Replicas = append(made.Replicas, r)
	}
	made.Configuration = o.configuration(made)
	parsed, err := config.Parse([]byte(made.Configuration), filepath.Join(path, "shard.toml"))
	if err != nil {
		return fmt.Errorf("the configuration of the shard would not be read: %w", err)
	}
	there, err := dir.Lines()
	if err == nil {
		err = makeKeys(cmd, dir, o.token, max(o.keys-len(there), 0))
	}
	if err == nil {
		_, err = writeReplicas("", name, dir, parsed.Shards[0].Instances, ports)
	}
	if err != nil {
		return err
	}
	pending, err := dir.Pending()
	if err != nil {
		return err
	}
	made.Keys = len(pending)
	return show(cmd, o.asJSON, made, made.write)
}

// check refuses what makes no shard, before anything is made, and reads the ports. It makes
// the token's paths absolute.
func (o *shardNewOptions) check(name string) (ports []hosting.Port, err error) {
	switch {
	case o.customers == "":
		return nil, errors.New("name the directory of the shard with --customers DIR")
	case len(o.replicas) == 0:
		return nil, errors.New("name each replica with --replica NAME; a shard should have two at least")
	case o.keys < 1:
		return nil, errors.New("--keys: want one at least")
	case o.keys > hosting.ShardMost && !o.force:
		return nil, fmt.Errorf("--keys: more than %d make each visit dear (see --help): make another shard, or add --force", hosting.ShardMost)
	}
	for _, replica := range o.replicas {
		if _, err := new(hosting.Dir).ReplicaDir(replica); err != nil {
			return nil, fmt.Errorf("--replica: %w", err)
		}
	}
	for _, text := range o.ports {
		p, err := hosting.ParsePort(text)
		if err != nil {
			return nil, fmt.Errorf("--port: %w", err)
		}
		ports = append(ports, p)
	}
	if o.token != "" {
		uri, err := pkcs11uri.Parse(o.token)
		if err != nil {
			return nil, fmt.Errorf("--token: %w", err)
		}
		here, err := filepath.Abs(".")
		if err != nil {
			return nil, err
		}
		o.token = uri.Resolve(here).String()
	}
	return ports, o.try(name)
}

// try has the configuration judge the names and the token, with replicas of any addresses.
func (o *shardNewOptions) try(name string) error {
	trial := &shardNew{Name: name, Customers: "/trial"}
	for _, replica := range o.replicas {
		public, _, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		trial.Replicas = append(trial.Replicas, replicaNew{Name: replica, Address: descriptor.Address(public)})
	}
	_, err := config.Parse([]byte(o.configuration(trial)), "/trial")
	if bad := (*config.Error)(nil); errors.As(err, &bad) {
		return fmt.Errorf("%s: %w", bad.Key, bad.Err)
	}
	return err
}

// configuration writes the [[shard]].
func (o *shardNewOptions) configuration(made *shardNew) string {
	var text strings.Builder
	fmt.Fprintf(&text, "[[shard]]\nname = %q\ncustomers = %q\n", made.Name, made.Customers)
	if o.token != "" {
		fmt.Fprintf(&text, "token = %q\n", o.token)
	}
	for _, r := range made.Replicas {
		fmt.Fprintf(&text, "\n  [[shard.instance]]\n  name = %q\n  address = \"%s\"\n", r.Name, r.Address)
	}
	return text.String()
}

func (made *shardNew) write(w io.Writer) {
	fmt.Fprintf(w, "%s pending in %s, the files of %s in .replicas below it.\n\nAdd this to the configuration:\n\n%s",
		plural(made.Keys, "key"), shell.Quote(made.Customers), plural(len(made.Replicas), "replica"), made.Configuration)
	fmt.Fprint(w, "\nThen, as root, set up the replicas. Each is the name of its machine here. The torrc is for a\n"+
		"tor of its own; to one that serves more, add what begins with HiddenServiceDir.\n")
	for n, r := range made.Replicas {
		fmt.Fprintf(w, "\n%d. %s\n\n", n+1, r.Name)
		for _, line := range installCommands(made.Name, r.Name, shell.Quote(r.Files)) {
			fmt.Fprintf(w, "     %s\n", line)
		}
	}
	fmt.Fprintf(w, `
%d. Check it, until all replicas are found, and start balancer or reload it:

     balancer check --config FILE

%d. Make the keys spares, and give the first to a customer:

     balancer shard installed %[3]s --config FILE
     balancer customer add NAME --shard %[3]s --config FILE

All of it has to belong to the user that balancer runs as. The replicas' own keys, %[4]s,
are not needed here once they are in place. Back up the customers' keys, somewhere nobody
else can read: when they are lost, so are the addresses.
`, len(made.Replicas)+1, len(made.Replicas)+2, made.Name, hosting.ServiceDir)
}

// installCommands put the files of a new replica in place.
func installCommands(shard, replica, files string) []string {
	copied, dir := "shard-"+shard, "/var/lib/tor/"+shard
	return []string{
		"scp -rp " + files + " root@" + replica + ":" + copied,
		"ssh root@" + replica,
		"install -d -m 0700 -o debian-tor -g debian-tor " + dir,
		"install -m 0600 -o debian-tor -g debian-tor " + copied + "/" + hosting.ServiceDir + "/* " + copied + "/" + hosting.LinesFile + " " + dir + "/",
		"install -m 0644 " + copied + "/" + hosting.TorrcFile + " /etc/tor/torrc",
		"rm -r " + copied + " && systemctl restart tor && exit",
	}
}
