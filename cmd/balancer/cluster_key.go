package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"onionbalancer/internal/cluster"
	"onionbalancer/internal/durable"
	"onionbalancer/internal/owner"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/shell"
)

// rotations are the steps by which a cluster key is replaced, and what to do after each.
var rotations = []struct {
	word string
	make func(*cluster.Key) (*cluster.Key, error)
	next string
}{
	{"add", (*cluster.Key).Add, `The new key opens what is sealed with it, and seals nothing yet. Now copy %[1]s to all
managers, and reload each ("systemctl reload balancer"). When all have it:
    balancer cluster key --rotate use %[1]s
`},
	{"use", (*cluster.Key).Turn, `The new key seals from now on, and the old one still opens. Now copy %[1]s to all
managers, and reload each. When "balancer cluster status" says of none that records are
sealed with the old key:
    balancer cluster key --rotate drop %[1]s
`},
	{"drop", (*cluster.Key).Drop, `The old key is gone. Now copy %[1]s to all managers, and reload each.
`},
}

// keyMade is what "balancer cluster key" prints about a file.
type keyMade struct {
	Path string `json:"path"`
	Step string `json:"step,omitempty"` // of a rotation
	Next string `json:"next"`
}

func newClusterKeyCommand() *cobra.Command {
	var rotate string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "key [FILE] | --rotate STEP FILE",
		Short: "Make the key of a cluster, or replace it",
		Long: `Make the key with which managers seal what they keep in etcd, and under which names. It
goes to FILE, with mode 0600, or to standard output. FILE is not overwritten. Every
manager of the cluster needs the same file (cluster.key), and etcd must not have it. No
balancer needs to run for it.

Whoever has the key and etcd's data knows the services and the managers, and with
cluster.share_keys has the keys of all customers. If it is lost, so is what is sealed
with it: then make a new key and a new cluster.name; the services go on.

To replace it while the managers run, there are three steps; after each, FILE is copied
to all managers, and all are reloaded, before the next:

  --rotate add   adds a new key, which opens what is sealed with it
  --rotate use   has the new key seal, instead of the old one
  --rotate drop  takes the old key out

Where a manager was seized, do the same at once, without the seized one; and keep it out
of etcd before, by deleting its user and revoking its certificate: it has read all that
was there. The names of records are made with a part of the key that stays: they tell
who has seen both how many services there are, and no addresses.`,
		Example: `  balancer cluster key /etc/balancer/cluster.key
  balancer cluster key > cluster.key
  balancer cluster key --rotate add /etc/balancer/cluster.key`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := ""
			if len(args) > 0 {
				if path = args[0]; path == "" {
					return usageError{errors.New("the path of the key file is empty")}
				}
			}
			if rotate != "" {
				return rotateKey(cmd, rotate, path, asJSON)
			}
			return newClusterKey(cmd, path, asJSON)
		},
	}
	cmd.Flags().StringVar(&rotate, "rotate", "", "replace the key in FILE: the `STEP` \"add\", \"use\" or \"drop\"")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print what was made of FILE as JSON, for programs")
	return cmd
}

// newClusterKey makes a new key, and writes it to a new file, or to standard output if there
// is no path.
func newClusterKey(cmd *cobra.Command, path string, asJSON bool) error {
	if path == "" {
		if asJSON {
			return usageError{errors.New("--json goes with FILE")}
		}
		warnOfReaders(cmd)
		return writeKey(cluster.NewKey(), func(text []byte) error {
			_, err := binary(cmd.OutOrStdout()).Write(text)
			return err
		})
	}
	if err := owner.Check(path); err != nil {
		return err
	}
	err := writeKey(cluster.NewKey(), func(text []byte) error {
		err := durable.WriteNew(path, text, 0o600)
		if errors.Is(err, os.ErrExist) {
			return fmt.Errorf("%q exists already, and is not overwritten: %w; --rotate replaces the key in it", path, os.ErrExist)
		}
		if err != nil {
			return err
		}
		return durable.SyncDir(filepath.Dir(path))
	})
	if err != nil {
		return err
	}
	made := keyMade{Path: path, Next: fmt.Sprintf("Copy %s to all managers of the cluster, with mode 0600, and to a backup of which etcd knows\nnothing. In the configuration of each: key = %q under [cluster].\n", shell.Quote(path), path)}
	return show(cmd, asJSON, made, func(w io.Writer) { fmt.Fprint(w, printable.Lines(made.Next)) })
}

// rotateKey makes a step by which the key in a file is replaced.
func rotateKey(cmd *cobra.Command, step, path string, asJSON bool) error {
	if path == "" {
		return usageError{errors.New("name the file of the key: balancer cluster key --rotate " + step + " FILE")}
	}
	for _, r := range rotations {
		if r.word != step {
			continue
		}
		if err := owner.Check(path); err != nil {
			return err
		}
		key, err := cluster.ReadKey(path)
		if err != nil {
			return err
		}
		if key, err = r.make(key); err != nil {
			return fmt.Errorf("replacing the cluster key: %w", err)
		}
		err = writeKey(key, func(text []byte) error {
			return durable.ReplaceChecked(path, text, func(written string) error {
				_, err := cluster.ReadKey(written)
				return err
			})
		})
		if err != nil {
			return err
		}
		made := keyMade{Path: path, Step: step, Next: fmt.Sprintf(r.next, shell.Quote(path))}
		return show(cmd, asJSON, made, func(w io.Writer) { fmt.Fprint(w, printable.Lines(made.Next)) })
	}
	return usageError{fmt.Errorf("--rotate %q: want \"add\", \"use\" or \"drop\"", step)}
}

// writeKey hands the text of a key file to write, and erases it.
func writeKey(key *cluster.Key, write func(text []byte) error) (err error) {
	text := key.Text()
	defer text.Wipe()
	text.Use(func(text []byte) { err = write(text) })
	return err
}

// warnOfReaders says that the key on standard output goes to a file that others can read.
func warnOfReaders(cmd *cobra.Command) {
	o, is := cmd.OutOrStdout().(*output)
	if !is {
		return
	}
	if info, err := o.file.Stat(); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "warning: others can read the file that this goes to, which balancer refuses: chmod 600 it\n")
	}
}
