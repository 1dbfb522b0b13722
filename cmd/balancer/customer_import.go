package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"onionbalancer/descriptor"
	"onionbalancer/internal/config"
	"onionbalancer/internal/hosting"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/shell"
	"onionbalancer/keystore"
	"onionbalancer/keystore/pkcs11uri"
)

func newCustomerImportCommand() *cobra.Command {
	var f shardFlags
	var o importOptions
	cmd := &cobra.Command{
		Use:   "import PATH... --shard SHARD --config FILE",
		Short: "Bring the onion services of a host into a shard",
		Long: `Copies the keys of onion services that tors serve each for itself to a shard, whose
customers they become, each with the address that it has and called as its directory is.
PATH is a torrc, a HiddenServiceDir, or a directory of those. A torrc says as well which
ports visitors came to and where these led, which is printed: the web servers behind the
shard's replicas have to do the same, and tell the customers apart by the Host header.

The keys are pending: replicas answer for them when "balancer shard refill" has written
their ob_config and they were restarted. "balancer shard installed" then makes them
customers, and balancer publishes their addresses. Until then the old tors serve them.

Nothing is moved or removed at the source. Refused are: services that only authorized
clients can find, backends of an onion balancer, version 2 addresses, and names and
addresses that are here already. The others are copied all the same. If the shard has a
token, the copies are sealed by it.

--dry-run says what would be done, and does nothing. Keys that only tor's user can read
are copied to where the user that balancer runs as may read them first, as root:

  cp -a /var/lib/tor/sites /etc/balancer/import && chown -R balancer: /etc/balancer/import`,
		Example: `  balancer customer import /etc/balancer/import --shard s1 --dry-run --config /etc/balancer/balancer.toml
  balancer customer import old/torrc --shard s1 --config /etc/balancer/balancer.toml`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, &f, args) },
	}
	f.add(cmd)
	cmd.Flags().StringVar(&o.shard, "shard", "", "the `SHARD` whose customers they become")
	cmd.Flags().BoolVar(&o.dry, "dry-run", false, "only say what would be done")
	cmd.Flags().BoolVar(&o.force, "force", false, fmt.Sprintf("go over %d addresses all the same", hosting.ShardMost))
	return cmd
}

// importOptions are the flags of "balancer customer import".
type importOptions struct {
	shard      string
	dry, force bool
}

// imported is what became of an onion service.
type imported struct {
	Name    string             `json:"name"`
	Source  string             `json:"source"`
	Address descriptor.Address `json:"address,omitzero"`
	Ports   []string           `json:"ports,omitempty"` // as HiddenServicePort has them
	Options []string           `json:"options,omitempty"`
	Result  string             `json:"result"` // "imported", "there already" or "refused"
	Reason  string             `json:"reason,omitempty"`
}

const (
	resultImported = "imported"
	resultThere    = "there already"
	resultRefused  = "refused"
)

// importView is what "balancer customer import" prints.
type importView struct {
	Shard  string     `json:"shard"`
	DryRun bool       `json:"dry_run,omitempty"`
	List   []imported `json:"services"`
	Notes  []string   `json:"notes,omitempty"`

	file string // the configuration
}

func (o *importOptions) run(cmd *cobra.Command, f *shardFlags, paths []string) error {
	if o.shard == "" {
		return usageError{errors.New("name the shard with --shard SHARD")}
	}
	cfg, shard, dir, err := f.openOwn(o.shard)
	if err != nil {
		return err
	}
	v := &importView{Shard: o.shard, DryRun: o.dry, file: cfg.File}
	here, err := whoIsHere(cfg)
	if err != nil {
		return err
	}
	var found []hosting.Found
	for _, path := range paths {
		some, notes, err := hosting.Find(path)
		if err != nil {
			return err
		}
		found = append(found, some...)
		for _, note := range notes {
			v.Notes = append(v.Notes, path+": "+note)
		}
	}
	for _, one := range found {
		v.List = append(v.List, here.judge(one, o.shard))
	}
	lines, err := dir.Lines()
	if err != nil {
		return err
	}
	if n := len(lines) + v.count(resultImported); n > hosting.ShardMost && !o.force {
		return fmt.Errorf("%s would have %d addresses, each of which costs its replicas 10 microseconds for every introduction: "+
			"bring some to another shard, or add --force", o.shard, n)
	}
	v.Notes = append(v.Notes, missingPorts(dir, found)...)
	if !o.dry && v.count(resultImported) > 0 {
		if err := v.bring(cmd.Context(), dir, shard.Token); err != nil {
			return err
		}
	}
	if err := show(cmd, f.asJSON, v, v.write); err != nil {
		return err
	}
	if n := v.count(resultRefused); n > 0 {
		return fmt.Errorf("%s of %d refused", plural(n, "onion service"), len(v.List))
	}
	return nil
}

// bring copies the keys to dir; where the shard has a token, it seals them, together.
func (v *importView) bring(ctx context.Context, dir *hosting.Dir, token string) (err error) {
	var sealer *keystore.Sealer
	if token != "" {
		uri, err := pkcs11uri.Parse(token)
		if err != nil {
			return err
		}
		if sealer, err = keystore.OpenSealer(ctx, uri); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, sealer.Close()) }()
	}
	for _, one := range v.List {
		if one.Result != resultImported {
			continue
		}
		if sealer != nil {
			err = dir.BringSealed(ctx, one.Source, sealer, one.Name)
		} else {
			err = dir.Bring(one.Source, one.Address, one.Name)
		}
		if err != nil {
			return fmt.Errorf("bringing %s: %w", one.Name, err)
		}
	}
	return nil
}

// present is whose names and addresses are taken.
type present struct {
	names     map[string]string             // by name, where
	addresses map[descriptor.Address]string // by address, where
	called    map[descriptor.Address]string // by address, the name in that shard; empty if it has none
}

// whoIsHere looks at the directories of all shards, at the records, and at the instances.
func whoIsHere(cfg *config.Config) (*present, error) {
	p := &present{map[string]string{}, map[descriptor.Address]string{}, map[descriptor.Address]string{}}
	customers, err := storedCustomers(cfg.StateDir)
	if err != nil {
		return nil, err
	}
	for _, c := range customers {
		if c.State != hosting.Removed {
			p.add(c.Address, c.Name, c.Shard)
		}
	}
	for _, s := range cfg.Shards {
		dir, err := hosting.OpenDir(s.Customers)
		if err != nil {
			return nil, err
		}
		if err := p.look(dir, s.Name); err != nil {
			return nil, fmt.Errorf("shard %s: %w", s.Name, err)
		}
	}
	for _, s := range cfg.Services {
		p.addInstances(s.Balancing)
	}
	for _, s := range cfg.Shards {
		p.addInstances(s.Balancing)
	}
	return p, nil
}

func (p *present) add(a descriptor.Address, name, shard string) {
	p.addresses[a], p.called[a] = shard, name
	if name != "" {
		p.names[name] = shard
	}
}

func (p *present) addInstances(b config.Balancing) {
	for _, i := range b.Instances {
		p.addresses[i.Address] = "the instances of the configuration"
	}
}

// look adds the customers in a shard's directory, and those that are to come.
func (p *present) look(dir *hosting.Dir, shard string) error {
	brought, err := dir.Brought()
	if err != nil {
		return err
	}
	for a, name := range brought {
		p.add(a, name, shard)
	}
	names, _, err := dir.Customers()
	if err != nil {
		return err
	}
	for _, name := range names {
		a, err := dir.Address(name)
		if err != nil {
			return err
		}
		p.add(a, name, shard)
	}
	return nil
}

// judge says what is to become of a service, and takes its name and address.
func (p *present) judge(f hosting.Found, shard string) imported {
	one := imported{Name: f.Name, Source: f.Dir, Address: f.Address, Options: f.Options, Result: resultRefused}
	for _, port := range f.Ports {
		one.Ports = append(one.Ports, port.String())
	}
	where, known := p.addresses[f.Address]
	_, taken := p.names[f.Name]
	switch {
	case f.Refused != nil:
		one.Reason = f.Refused.Error()
	case known && where == shard && p.called[f.Address] == f.Name:
		one.Result = resultThere
	case known:
		one.Reason = "its address is here already, that of " + strings.TrimSpace(p.called[f.Address]+" in "+where)
	case taken:
		one.Reason = fmt.Sprintf("its name is taken, in %s: copy its directory to one called otherwise", p.names[f.Name])
	default:
		one.Result = resultImported
		p.add(f.Address, f.Name, shard)
	}
	return one
}

func (v *importView) count(result string) (n int) {
	for _, one := range v.List {
		if one.Result == result {
			n++
		}
	}
	return n
}

// missingPorts tells of ports that visitors came to and that the shard's replicas do not have.
func missingPorts(dir *hosting.Dir, found []hosting.Found) (notes []string) {
	has := make(map[uint16]bool)
	for _, p := range knownPorts(dir) {
		has[p.Virtual] = true
	}
	lack := make(map[uint16][]string)
	for _, f := range found {
		for _, p := range f.Ports {
			if f.Refused == nil && !has[p.Virtual] {
				lack[p.Virtual] = append(lack[p.Virtual], f.Name)
			}
		}
	}
	for port, names := range lack {
		slices.Sort(names)
		notes = append(notes, fmt.Sprintf("visitors of %s came to port %d as well, which the replicas' torrc has not: every HiddenServicePort there is for all customers",
			strings.Join(names, ", "), port))
	}
	slices.Sort(notes)
	return notes
}

func (v *importView) write(w io.Writer) {
	table(func(w io.Writer) {
		for _, one := range v.List {
			text := one.Address.String()
			if one.Address == (descriptor.Address{}) {
				text = "-"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\n", one.Result, printable.Text(one.Name), text)
		}
	})(w)
	for _, one := range v.List {
		if one.Reason != "" {
			fmt.Fprintf(w, "\n%s is refused: %s\n", printable.Text(one.Name), printable.Text(one.Reason))
		}
	}
	for _, note := range v.Notes {
		fmt.Fprintf(w, "\nnote: %s\n", printable.Text(note))
	}
	if v.count(resultImported) == 0 {
		return
	}
	v.writeHosts(w)
	if v.DryRun {
		fmt.Fprintln(w, "\nNothing was done.")
		return
	}
	file := shell.Quote(v.file)
	fmt.Fprintf(w, `
Next:

  balancer shard refill %[1]s --config %[2]s

restart the replicas as that says, then remove the services from their old tors (README,
"Moving from a single tor", from step 3 on), and at once:

  balancer shard installed %[1]s --config %[2]s
`, v.Shard, file)
}

// writeHosts says what the web servers behind the replicas have to do.
func (v *importView) writeHosts(w io.Writer) {
	fmt.Fprint(w, "\nOn each replica, the web server has to answer by the Host header as these did:\n\n")
	for _, one := range v.List {
		if one.Result != resultImported {
			continue
		}
		fmt.Fprintf(w, "  %s\n", one.Address)
		for _, port := range one.Ports {
			fmt.Fprintf(w, "    HiddenServicePort %s\n", printable.Text(port))
		}
		for _, option := range one.Options {
			fmt.Fprintf(w, "    %s (not taken over: the replicas' torrc is for all customers)\n", printable.Text(option))
		}
		if len(one.Ports) == 0 {
			fmt.Fprintf(w, "    served from %s\n", printable.Text(filepath.Base(one.Source)))
		}
	}
}
