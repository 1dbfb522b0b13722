package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"onionbalancer/descriptor"
	"onionbalancer/internal/config"
	"onionbalancer/internal/hosting"
	"onionbalancer/internal/owner"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/status"
	"onionbalancer/keystore/offline"
	"onionbalancer/keystore/token"
)

func newCeremonyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ceremony",
		Short: "Keep identity keys on a machine without a network",
		Long: `The identity key of a service stays on a machine without a network. Every month or
two it signs, there, the certificates that the balancer needs for the next periods
(a period is a day). The balancer never has the key. Anyone who steals the balancer
can publish under the address for the prepared periods, and not a day longer.

  1. "ceremony request", where the balancer runs (the manager), makes
     descriptor-signing keys for the next periods and writes a request: their
     public halves. It shows a fingerprint of the request.
  2. "ceremony sign", on the machine that has the identity key, shows the request
     and the fingerprint again. Compare the two fingerprints: this protects you
     from anyone who had the stick in between. It writes a bundle. It needs no
     network, no tor and no configuration: this program and the key are enough.
  3. "ceremony install", on the manager, checks every certificate of the bundle
     against the onion address and against the keys that are there, before it
     replaces anything. A running balancer notices by itself.

Do the next one when "balancer status" warns, with a third of the time left. The
present certificates stay in use meanwhile, and their periods may overlap with the
new ones. Without a ceremony in time the last descriptor stays published, and the
service is unreachable soon after its last period is over.

Requests and bundles hold no identity key. A request is public. A bundle is nearly
so: it also has the keys of the revision counters, which tell when a descriptor was
made. Both are useless without the manager's signing keys.`,
		Example: `  balancer ceremony request --dir front.offline ADDRESS.onion --out request.json
  balancer ceremony sign request.json --key front --out bundle.json
  balancer ceremony install bundle.json --dir front.offline
  balancer ceremony show front.offline`,
	}
	addTryPINFlag(cmd.PersistentFlags())
	addCommands(cmd, newCeremonyRequestCommand(), newCeremonySignCommand(), newCeremonyInstallCommand(), newCeremonyShowCommand())
	return cmd
}

// keysDir is a directory that signing keys are made in.
type keysDir struct {
	dir     string
	signing string             // the URI of the token that they are on, if so
	address descriptor.Address // zero: the one whose directory it is
}

// preparedIn returns the directories that are meant: those that are keys in a
// configuration, services' and customers', or dir, or those in it.
func preparedIn(configPath, dir string) ([]keysDir, error) {
	switch {
	case configPath != "" && dir != "":
		return nil, usageError{errors.New("name the configuration or a directory, not both")}
	case configPath == "" && dir == "":
		return nil, usageError{errors.New("name the configuration with --config FILE, or the directory of the signing keys with --dir DIR")}
	case dir != "":
		list, err := preparedBelow(dir)
		if err == nil && len(list) == 0 {
			err = fmt.Errorf("there are no signing keys for ceremonies in %s: balancer ceremony request ADDRESS --dir DIR makes them", printable.Text(dir))
		}
		return list, err
	}
	cfg, err := config.Load(configPath)
	if err != nil {
		return nil, err
	}
	token.RememberIn(cfg.StateDir)
	var list []keysDir
	for _, s := range cfg.Services {
		is, err := offline.Look(s.Key)
		if err != nil {
			return nil, err // its supply would end while that of the others goes on
		}
		if is {
			list = append(list, keysDir{dir: s.Key, signing: s.Signing})
		}
	}
	for _, s := range cfg.Shards {
		customers, err := preparedBelow(s.Customers)
		if err != nil {
			return nil, err
		}
		list = append(list, customers...)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("no service or customer in %s has the directory of a ceremony as its key: the first time, name address and directory "+
			"(balancer ceremony request ADDRESS --dir DIR), then write key = \"DIR\"", printable.Text(configPath))
	}
	return list, nil
}

// preparedBelow returns dir, or the directories of signing keys in it; in that of a shard,
// those of its customers, spares and pending keys.
func preparedBelow(dir string) (list []keysDir, err error) {
	if offline.Is(dir) {
		return []keysDir{{dir: dir}}, nil
	}
	for _, in := range hosting.KeyDirs(dir) {
		entries, err := os.ReadDir(in)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			path := filepath.Join(in, e.Name())
			is, err := offline.Look(path)
			if err != nil {
				return nil, err
			}
			if is {
				list = append(list, keysDir{dir: path})
			}
		}
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

// isTerminal reports whether f is one that somebody can type on.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// ask writes a question to talk, and reads the line that somebody types as the
// answer. It returns early when ctx ends. Without a terminal the error says what to do instead.
func ask(ctx context.Context, question, instead string, talk io.Writer, from *os.File) (string, error) {
	if !isTerminal(from) {
		return "", errors.New("there is no terminal to ask on: " + instead)
	}
	fmt.Fprint(talk, question)
	type answer struct {
		line string
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		line, err := bufio.NewReader(from).ReadString('\n')
		answers <- answer{strings.TrimSpace(line), err}
	}()
	select {
	case a := <-answers:
		return a.line, a.err
	case <-ctx.Done():
		return "", errors.New("interrupted")
	}
}

// timing returns when periods begin, and what time it is: as the flags say, as
// the running balancer does, as the keys that are there, or as on the public
// network.
func (o *requestOptions) timing(ctx context.Context, list []keysDir) (offline.Schedule, time.Time, error) {
	now := time.Now()
	if o.length != 0 || o.offset != 0 {
		length, offset := o.length, o.offset
		if length == 0 {
			length = descriptor.DefaultPeriodLength
		}
		if offset == 0 {
			offset = length / 2
		}
		if length < time.Minute || length%time.Minute != 0 || offset < 0 || offset%time.Second != 0 {
			return offline.Schedule{}, now, usageError{errors.New("periods last whole minutes, and begin whole seconds late")}
		}
		return offline.NewSchedule(length, offset), now, nil
	}
	if o.config != "" {
		if s, at, ok := askTiming(ctx, o.config); ok {
			return s, at, nil
		}
	}
	for _, d := range list {
		if offline.Is(d.dir) {
			there, err := offline.Describe(d.dir)
			if err != nil {
				return offline.Schedule{}, now, err
			}
			return there.Schedule, now, nil
		}
	}
	return offline.Public, now, nil
}

// askTiming asks the running balancer, if it runs and knows.
func askTiming(ctx context.Context, configPath string) (s offline.Schedule, at time.Time, ok bool) {
	cfg, err := config.Load(configPath)
	if err != nil {
		return s, at, false // it has been read before, and complained of
	}
	snapshot, err := status.Query(ctx, filepath.Join(cfg.StateDir, status.SocketName))
	if err != nil || !snapshot.Consensus.Known || snapshot.Consensus.PeriodMinutes == 0 {
		return s, at, false
	}
	c := snapshot.Consensus
	return offline.Schedule{Minutes: c.PeriodMinutes, OffsetSeconds: c.OffsetSeconds}, c.ValidAfter, true
}

// first returns the number of the first period to ask for.
func (o *requestOptions) first(s offline.Schedule, now time.Time) (uint64, error) {
	if o.from == "" {
		return s.InUse(now).Number, nil
	}
	if number, err := strconv.ParseUint(o.from, 10, 64); err == nil {
		return number, nil
	}
	t, err := time.Parse(time.RFC3339, o.from)
	if err != nil {
		if t, err = time.Parse(time.DateOnly, o.from); err != nil {
			return 0, usageError{fmt.Errorf("--from %q is neither the number of a period nor a time as 2026-12-01T12:00:00Z", o.from)}
		}
	}
	return s.At(t).Number, nil
}

// outputs are where a document goes: as a whole to the new file out, in parts to
// the new directory split, or both. Neither is needed.
type outputs struct{ out, split string }

// check fails early if write could not create its files.
func (o outputs) check() error {
	var paths []string
	for _, path := range []string{o.out, o.split} {
		if path != "" {
			paths = append(paths, path)
		}
	}
	if err := owner.Check(paths...); err != nil {
		return err
	}
	return offline.Creatable(paths...)
}

// write writes a document, all of it or nothing, and returns the paths of its
// parts.
func (o outputs) write(whole []byte, split func() ([][]byte, error), name func(i int) string) (parts []string, err error) {
	if o.split != "" {
		contents, err := split()
		if err != nil {
			return nil, err
		}
		if parts, err = writeParts(o.split, contents, name); err != nil {
			return nil, fmt.Errorf("in parts: %w", err)
		}
	}
	if o.out != "" {
		if err := offline.WriteNew(o.out, whole); err != nil {
			return nil, errors.Join(err, os.RemoveAll(o.split))
		}
	}
	return parts, nil
}

// writeParts writes the parts of a document to the new directory dir, and
// returns their paths.
func writeParts(dir string, parts [][]byte, name func(i int) string) (paths []string, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	for i, part := range parts {
		path := filepath.Join(dir, name(i))
		if err := offline.WriteNew(path, part); err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
		paths = append(paths, path)
	}
	return paths, nil
}
