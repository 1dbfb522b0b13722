package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"onionbalancer/descriptor"
	"onionbalancer/internal/clients"
	"onionbalancer/internal/config"
	"onionbalancer/internal/durable"
	"onionbalancer/internal/owner"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/shell"
)

func newClientCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "client",
		Short: "Say who may read the descriptor of a restricted service",
		Long: `Adds, removes and lists the authorized clients of a service: the only ones who can
read its descriptor, and so find it (restricted discovery). The service has a directory
for them in the configuration ("clients = …"), in the format of tor's authorized_clients:
a file NAME.auth for each client. A running balancer notices within seconds what is
added to it, changed or removed, by these commands or otherwise, and publishes at once.

It never lets everybody in for that: while a file is broken, the directory is empty, or
there are more clients than a descriptor has room for, those authorized before stay, and
"balancer status" says why.`,
	}
	addCommands(cmd, newClientAddCommand(), newClientRemoveCommand(), newClientListCommand())
	return cmd
}

// clientsOf is a service with its directory of clients.
type clientsOf struct {
	config, address string // flags

	service config.Service
	of      descriptor.Address
}

func (c *clientsOf) addFlags(cmd *cobra.Command) {
	addConfigFlag(cmd, &c.config)
	addServiceFlag(cmd, &c.address)
}

// find looks for the service in the configuration, which load reads.
func (c *clientsOf) find(load func(path string) (*config.Config, error)) error {
	cfg, err := load(c.config)
	if err != nil {
		return err
	}
	c.service, c.of, err = findService(cfg, c.address, `services with "clients"`, func(s config.Service) bool { return s.Clients != "" })
	switch {
	case err != nil && c.address == "" && !errors.As(err, new(usageError)):
		return fmt.Errorf(`%w; add a line such as clients = "authorized_clients" to its [[service]]`, err)
	case err != nil:
		return err
	case c.service.Clients == "":
		return fmt.Errorf(`everybody may read the descriptor of %s: add a line such as clients = "authorized_clients" to its [[service]]`, c.of)
	}
	return nil
}

// findOwn is find for commands that write to the directory.
func (c *clientsOf) findOwn() error {
	if err := c.find(loadOwnConfig); err != nil {
		return err
	}
	return owner.Check(c.service.Clients)
}

// read returns the clients that are there. A directory without any, or none, is no
// error.
func (c *clientsOf) read() ([]clients.Client, error) {
	list, err := clients.Read(c.service.Clients)
	if errors.Is(err, clients.ErrNone) {
		err = nil
	}
	if _, missing := os.Lstat(c.service.Clients); errors.Is(missing, fs.ErrNotExist) {
		err = nil
	}
	return list, err
}

// addOptions are the flags of "balancer client add".
type addOptions struct {
	clientsOf
	public, out string
	asJSON      bool
}

func newClientAddCommand() *cobra.Command {
	var o addOptions
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Authorize a client, and make its key",
		Long: `Makes a pair of keys for a new client, writes the public half to NAME.auth, and prints
the secret half for the client: it is shown once and kept nowhere. --out writes it to a
new file instead, as tor's clients want it, with mode 0600.

Better is a client who makes the keys and hands over only the public one, for --public
("descriptor:x25519:" and 52 characters, or these alone).

NAME is the name of the file and nothing else; clients never see it. A name or a key that
is there already is refused, and so is a client that a descriptor has no room for.`,
		Example: `  balancer client add alice --config /etc/balancer/balancer.toml
  balancer client add bob --config /etc/balancer/balancer.toml --out bob.auth_private
  balancer client add carol --config /etc/balancer/balancer.toml --public descriptor:x25519:OM7TGIVRYMY6PFX6GAC6ATRTA5U6WW6U7A4ZNHQDI6OVL52XVV2Q`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.asJSON && o.public == "" && o.out == "" {
				return usageError{errors.New("--json shows no secret: give --public KEY, or --out FILE for the client's half")}
			}
			if o.public != "" && o.out != "" {
				return usageError{errors.New("with --public KEY, the client's half is not known here: there is nothing for --out")}
			}
			added, err := o.add(args[0])
			if err != nil {
				return err
			}
			defer clear(added.secret)
			return showLine(cmd, o.asJSON, added, added.write)
		},
	}
	o.addFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.public, "public", "", "the client's public `KEY`, rather than a new one")
	f.StringVar(&o.out, "out", "", "write the client's half to a new `FILE`, an .auth_private of tor's")
	f.BoolVar(&o.asJSON, "json", false, "print as JSON, without the client's half")
	return cmd
}

// clientAdded is what the command prints.
type clientAdded struct {
	clientShown
	Service string `json:"service"`
	Out     string `json:"auth_private_file,omitempty"` // the client's half

	label  string
	secret []byte // base32; nil if it is not to be shown
}

func (o *addOptions) add(name string) (*clientAdded, error) {
	if err := clients.CheckName(name); err != nil {
		return nil, usageError{err}
	}
	if err := o.findOwn(); err != nil {
		return nil, err
	}
	client := clients.Client{Name: name}
	var secret *descriptor.ClientKey
	var err error
	if o.public != "" {
		client.Key, err = descriptor.ParseAuthorizedClient([]byte(o.public))
	} else if secret, err = descriptor.NewClientKey(rand.Reader); err == nil {
		client.Key = secret.Client()
	}
	if err != nil {
		return nil, usageError{err}
	}
	if err := o.check(client); err != nil {
		return nil, fmt.Errorf("adding client %s: %w", name, err)
	}
	added := &clientAdded{clientShown: o.show(client), Service: o.of.String(), label: o.of.Label()}
	if secret != nil {
		added.secret = secret.Text()
	}
	if o.out != "" {
		// First, so that nobody is authorized whose key is lost.
		if added.Out, err = added.keep(o.out); err != nil {
			return nil, err
		}
	}
	if err = clients.Add(o.service.Clients, client); err != nil && added.Out != "" {
		err = errors.Join(err, os.Remove(added.Out))
	}
	if _, missing := os.Lstat(o.service.Clients); errors.Is(err, fs.ErrPermission) && errors.Is(missing, fs.ErrNotExist) {
		err = fmt.Errorf("%w: run as root: install -d -m 700 -o %s %s", err, owner.Name(os.Geteuid()), shell.Quote(o.service.Clients))
	}
	return added, err
}

// check refuses a client beside those who are there.
func (o *addOptions) check(client clients.Client) error {
	if _, err := os.Lstat(clients.Path(o.service.Clients, client.Name)); err == nil {
		return fmt.Errorf("there is one of this name already in %s", o.service.Clients)
	}
	list, err := o.read()
	if err != nil {
		return err
	}
	for _, other := range list {
		if other.Key == client.Key {
			return fmt.Errorf("its key is that of %s", other.Name)
		}
	}
	var records []descriptor.CAA
	for _, line := range o.service.CAA {
		record, err := descriptor.ParseCAA(line)
		if err != nil {
			return err
		}
		records = append(records, record)
	}
	return clients.CheckRoom(append(list, client), records, clients.Keys(list))
}

// keep writes the client's half to a new file.
func (a *clientAdded) keep(path string) (string, error) {
	err := owner.Check(path)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err == nil {
		line := a.line()
		defer clear(line)
		err = durable.WriteNew(path, append(line, '\n'), 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("writing the client's half: %w", err)
	}
	clear(a.secret)
	a.secret = nil
	return path, nil
}

// line is the content of an .auth_private file.
func (a *clientAdded) line() []byte {
	const between = ":descriptor:x25519:"
	line := make([]byte, 0, len(a.label)+len(between)+len(a.secret)+1)
	return append(append(append(line, a.label...), between...), a.secret...)
}

func (a *clientAdded) write(w io.Writer) {
	fmt.Fprintf(w, "client   %s\nservice  %s\nfile     %s\npublic   %s\n", a.Name, a.Service, printable.Text(a.Path), a.Public)
	switch {
	case a.secret != nil:
		line := a.line()
		defer clear(line)
		fmt.Fprintf(w, `
For this client alone, and shown only now. Tor Browser asks for the key:

  %s

Another tor wants a file %s.auth_private in its ClientOnionAuthDir, with this line:

  %s
`, a.secret, a.Name, line)
	case a.Out != "":
		fmt.Fprintf(w, "\nFor this client alone: %s, for the ClientOnionAuthDir of its tor. Tor\nBrowser asks for the part behind the last colon. Remove the file when it is there.\n", printable.Text(a.Out))
	}
	fmt.Fprint(w, "\nA running balancer that has the directory in its configuration lets it in within seconds.\n")
}

func newClientRemoveCommand() *cobra.Command {
	var c clientsOf
	var force, asJSON bool
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Authorize a client no more",
		Long: `Removes NAME.auth. A running balancer encrypts the descriptor anew within seconds, so
that the client cannot read the next one it fetches. What it fetched before it can use
for up to three hours, until the period changes or the introduction points do.

The last client is not removed: a directory without any is not taken, and the client
would stay authorized. Add another one first. To let everybody in instead, take "clients"
out of the configuration and reload; to let nobody in, take the service out. --force
removes the file all the same; a balancer that is started then leaves the service out.`,
		Example: `  balancer client remove alice --config /etc/balancer/balancer.toml`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.findOwn(); err != nil {
				return err
			}
			left, err := c.remove(args[0], force)
			if err != nil {
				return err
			}
			removed := map[string]any{"name": args[0], "service": c.of.String(), "left": left}
			return showLine(cmd, asJSON, removed, func(w io.Writer) {
				fmt.Fprintf(w, "%s is removed; %s left.\n", printable.Text(args[0]), plural(left, "client"))
			})
		},
	}
	c.addFlags(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "remove the last client, too")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return cmd
}

// remove removes a client, and returns how many are left.
func (c *clientsOf) remove(name string, force bool) (left int, err error) {
	list, _ := clients.Read(c.service.Clients) // what is broken may be what is removed
	here := false
	for _, client := range list {
		here = here || client.Name == name
		if client.Name != name {
			left++
		}
	}
	if here && left == 0 && !force {
		return 0, fmt.Errorf(`removing client %s: it is the last one, and would stay authorized, as a directory without clients is not taken. `+
			`Add another client first. To let everybody in, take "clients" out of the configuration and reload; to let nobody in, take the service out. `+
			`--force removes the file all the same`, name)
	}
	return left, clients.Remove(c.service.Clients, name)
}

// clientShown is one authorized client.
type clientShown struct {
	Name   string `json:"name"`
	Public string `json:"public_key"`
	Path   string `json:"path"`
}

func (c *clientsOf) show(client clients.Client) clientShown {
	return clientShown{client.Name, client.Key.String(), clients.Path(c.service.Clients, client.Name)}
}

func newClientListCommand() *cobra.Command {
	var c clientsOf
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the authorized clients of a service",
		Long: `Lists the authorized clients of a service, by the files in its directory. A file that
is no client's is an error; what is in force then, "balancer status" knows.`,
		Example: `  balancer client list --config /etc/balancer/balancer.toml --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.find(loadConfig); err != nil {
				return err
			}
			list, err := c.read()
			shown := []clientShown{}
			for _, client := range list {
				shown = append(shown, c.show(client))
			}
			v := map[string]any{"service": c.of.String(), "directory": c.service.Clients, "clients": shown}
			return errors.Join(err, show(cmd, asJSON, v, table(func(w io.Writer) {
				for _, s := range shown {
					fmt.Fprintf(w, "%s\t%s\t\n", printable.Text(s.Name), strings.TrimSpace(s.Public))
				}
			})))
		},
	}
	c.addFlags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return cmd
}
