package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"onionbalancer/internal/config"
	"onionbalancer/internal/printable"
	"onionbalancer/keystore/offline"
	"onionbalancer/keystore/token"
)

func newCeremonyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ceremony",
		Short: "Keep identity keys on a machine without a network",
		Long: `The identity key of a service stays on a machine without a network. Every month or
two it signs, there, what the balancer needs for the next periods (a period is a
day). The balancer never has the key. Who steals the balancer can publish under
the address for the periods that are prepared, and not a day longer.

  1. "ceremony request", where the balancer runs (the manager), makes
     descriptor-signing keys for the next periods and writes a request: their
     public halves. It shows a fingerprint of the request.
  2. "ceremony sign", on the machine that has the identity key, shows what is
     asked for and the fingerprint again. Compare the two: that is what protects
     you from whoever had the stick in between. It writes a bundle. It needs no
     network, no tor and no configuration: this program and the key are enough.
  3. "ceremony install", on the manager, checks every certificate of the bundle
     against the onion address and against the keys that are there, before it
     replaces anything. A running balancer notices by itself.

Do the next one when "balancer status" warns, with a third of the time left. The
present supply goes on meanwhile, and periods may overlap as they like. Without a
ceremony in time the last descriptor stays where it is, and the service is out of
reach soon after its last period is over.

Requests and bundles hold no identity key. A request is public. A bundle is nearly
so: it also has the keys of the revision counters, which tell when a descriptor was
made. Neither is of use to anybody who has not got the manager's signing keys.`,
		Example: `  balancer ceremony request --dir front.offline ADDRESS.onion --out request.json
  balancer ceremony sign request.json --key front --out bundle.json
  balancer ceremony install bundle.json --dir front.offline
  balancer ceremony show front.offline`,
		Args: misuse(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	addTryPINFlag(cmd.PersistentFlags())
	cmd.AddCommand(newCeremonyRequestCommand(), newCeremonySignCommand(), newCeremonyInstallCommand(), newCeremonyShowCommand())
	return cmd
}

// prepared is a directory that keys were made in, and the token that they are
// on, if so.
type prepared struct {
	dir, signing string
}

// preparedIn returns the directories that are meant: those that are keys in a
// configuration, or dir, or those in it.
func preparedIn(configPath, dir string) ([]prepared, error) {
	switch {
	case configPath != "" && dir != "":
		return nil, usageError{errors.New("name the configuration or a directory, not both")}
	case configPath == "" && dir == "":
		return nil, usageError{errors.New("name the configuration with --config FILE, or the directory of the signing keys with --dir DIR")}
	case dir != "":
		return preparedBelow(dir)
	}
	cfg, err := config.Load(configPath)
	if err != nil {
		return nil, err
	}
	token.RememberIn(cfg.StateDir)
	var list []prepared
	for _, s := range cfg.Services {
		is, err := offline.Look(s.Key)
		if err != nil {
			return nil, err // its supply would end while that of the others goes on
		}
		if is {
			list = append(list, prepared{s.Key, s.Signing})
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("no service in %s has the directory of a ceremony as its key: the first time, name address and directory "+
			"(balancer ceremony request ADDRESS --dir DIR), then write key = \"DIR\"", printable.Text(configPath))
	}
	return list, nil
}

func preparedBelow(dir string) ([]prepared, error) {
	if offline.Is(dir) {
		return []prepared{{dir: dir}}, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var list []prepared
	for _, e := range entries {
		if path := filepath.Join(dir, e.Name()); offline.Is(path) {
			list = append(list, prepared{dir: path})
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("there are no signing keys for ceremonies in %s: balancer ceremony request ADDRESS --dir DIR makes them", printable.Text(dir))
	}
	return list, nil
}

// documents returns the files that are meant by paths: of a directory, all that
// end in .json.
func documents(paths []string) (files []string, err error) {
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			files = append(files, path)
			continue
		}
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, err
		}
		before := len(files)
		for _, e := range entries {
			if name := e.Name(); filepath.Ext(name) == ".json" && !strings.HasPrefix(name, ".") {
				files = append(files, filepath.Join(path, name))
			}
		}
		if len(files) == before {
			return nil, fmt.Errorf("there is no file *.json in %q", path)
		}
	}
	return files, nil
}

// addKeysDirFlag adds the flag that names the directory of the signing keys.
func addKeysDirFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "dir", "", "the `DIR` of the signing keys, or one that has such directories in it")
	_ = cmd.MarkFlagDirname("dir")
}

// moment writes a time as people compare it with their calendar.
func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// days writes how long it is from one time to another.
func days(from, until time.Time) string {
	d := until.Sub(from)
	if d >= 48*time.Hour {
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	}
	return d.Round(time.Minute).String()
}
