package hosting

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"onionbalancer/descriptor"
	"onionbalancer/internal/durable"
	"onionbalancer/internal/openfile"
	"onionbalancer/internal/owner"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/tor/process"
)

// What is in the directory of a replica, to be copied into the HiddenServiceDir of its tor; the
// torrc is for its tor.
const (
	LinesFile  = "ob_config"
	TorrcFile  = "torrc"
	ServiceDir = "hidden_service" // its own key, as tor keeps it
)

// maxLinesFile is above the size of an ob_config of 10,000 addresses.
const maxLinesFile = 1 << 20 // 1 MiB

// masterLine is the only option of an ob_config.
const masterLine = "MasterOnionAddress"

// ErrNoLines says that an ob_config has no address: tor crashes when it reads such a one.
var ErrNoLines = errors.New("no address: tor crashes on an ob_config without any")

// FormatLines writes the ob_config of a replica of a shard.
func FormatLines(shard string, addresses []descriptor.Address) ([]byte, error) {
	if len(addresses) == 0 {
		return nil, ErrNoLines
	}
	var text bytes.Buffer
	fmt.Fprintf(&text, "# Shard %s, %s, written by balancer: change nothing here. tor reads this at its start\n"+
		"# only, and crashes when it is empty: put a new one beside it and rename it into place.\n",
		printable.Text(shard), printable.Count(len(addresses), "line"))
	for _, a := range addresses {
		fmt.Fprintf(&text, "%s %s\n", masterLine, a)
	}
	return text.Bytes(), nil
}

// ParseLines reads an ob_config as tor does (hs_ob.c), and refuses what tor refuses or crashes
// on. It also refuses what tor takes without a word: other options, shortened ones, and
// addresses with a wrong checksum.
func ParseLines(text []byte) ([]descriptor.Address, error) {
	options, err := process.Options(text)
	if err != nil {
		return nil, err
	}
	var addresses []descriptor.Address
	for _, o := range options {
		if !strings.EqualFold(strings.TrimPrefix(o.Key, "+"), masterLine) {
			return nil, fmt.Errorf("line %d: %q does not belong here, but only %s", o.Line, o.Key, masterLine)
		}
		a, err := descriptor.ParseAddress(o.Value)
		if err == nil && !strings.HasSuffix(o.Value, ".onion") {
			err = fmt.Errorf("%q lacks \".onion\" at its end", o.Value)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", o.Line, err)
		}
		addresses = append(addresses, a)
	}
	if len(addresses) == 0 {
		return nil, ErrNoLines
	}
	return addresses, nil
}

// readLines reads an ob_config file.
func readLines(path string) ([]descriptor.Address, error) {
	text, err := readFile(path, maxLinesFile)
	if err != nil {
		return nil, err
	}
	addresses, err := ParseLines(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return addresses, nil
}

// readFile reads a file that is no secret, and has no more bytes than most.
func readFile(path string, most int64) ([]byte, error) {
	f, _, err := openfile.Regular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("%s: more than %d bytes", path, most)
	}
	return text, err
}

// Lines returns the addresses that the replicas are to answer for: those of customers, of
// spares and of pending keys, in the order of their labels.
func (d *Dir) Lines() ([]descriptor.Address, error) {
	var all []descriptor.Address
	// In this order: a key that is moved on meanwhile is seen twice, and never not at all.
	for _, list := range []func() ([]descriptor.Address, error){d.Pending, d.Spares, d.served} {
		some, err := list()
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	slices.SortFunc(all, func(a, b descriptor.Address) int { return strings.Compare(a.Label(), b.Label()) })
	return slices.Compact(all), nil
}

// served returns the addresses of all customers whose keys are here.
func (d *Dir) served() (list []descriptor.Address, err error) {
	names, _, err := d.Customers()
	if err != nil {
		return nil, err
	}
	addresses, errs := d.addresses(names)
	for n, err := range errs {
		switch {
		case err == nil:
			list = append(list, addresses[n])
		case !errors.Is(err, fs.ErrNotExist): // or it was removed meanwhile
			return nil, err
		}
	}
	return list, nil
}

// Replicas lists the names of the replicas whose files are here, sorted.
func (d *Dir) Replicas() (names []string, err error) {
	entries, err := os.ReadDir(filepath.Join(d.path, replicasDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing replicas: %w", owner.Explain(err, d.path))
	}
	for _, entry := range entries {
		if entry.IsDir() && nameForm.MatchString(entry.Name()) {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// ReplicaDir returns the directory of a replica's files.
func (d *Dir) ReplicaDir(replica string) (string, error) {
	if !nameForm.MatchString(replica) {
		return "", fmt.Errorf("%q is no name for the directory of a replica: want a-z, A-Z, 0-9, \".\", \"_\" and \"-\"", replica)
	}
	return filepath.Join(d.path, replicasDir, replica), nil
}

// Written returns the addresses in the ob_config that was written for a replica. The error
// wraps fs.ErrNotExist if there is none.
func (d *Dir) Written(replica string) ([]descriptor.Address, error) {
	dir, err := d.ReplicaDir(replica)
	if err != nil {
		return nil, err
	}
	return readLines(filepath.Join(dir, LinesFile))
}

// Known returns in how many written ob_configs each address is, and how many replicas there
// are files of. One without an ob_config yet counts as a replica.
func (d *Dir) Known() (known map[descriptor.Address]int, replicas int, err error) {
	names, err := d.Replicas()
	if err != nil {
		return nil, 0, err
	}
	known = make(map[descriptor.Address]int)
	for _, name := range names {
		written, err := d.Written(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, 0, err
		}
		for _, a := range written {
			known[a]++
		}
	}
	return known, len(names), nil
}

// Unwritten returns those of addresses that are not in the ob_config written for each replica;
// none if there are no files of replicas here.
func (d *Dir) Unwritten(addresses []descriptor.Address) (missing []descriptor.Address, err error) {
	known, replicas, err := d.Known()
	if err != nil {
		return nil, err
	}
	for _, a := range addresses {
		if known[a] < replicas {
			missing = append(missing, a)
		}
	}
	return missing, nil
}

// WriteLines writes the ob_config of a replica, whole or not at all, when it was read as tor
// will read it. changed says that it is another than before.
func (d *Dir) WriteLines(shard, replica string, addresses []descriptor.Address) (changed bool, err error) {
	dir, err := d.ReplicaDir(replica)
	if err != nil {
		return false, err
	}
	text, err := FormatLines(shard, addresses)
	if err == nil {
		before, _ := readFile(filepath.Join(dir, LinesFile), maxLinesFile)
		if bytes.Equal(before, text) {
			return false, nil
		}
		err = durable.ReplaceChecked(filepath.Join(dir, LinesFile), text, func(written string) error {
			again, err := readLines(written)
			if err == nil && !slices.Equal(again, addresses) {
				err = errors.New("what was written is read otherwise")
			}
			return err
		})
	}
	if err != nil {
		return false, fmt.Errorf("writing the ob_config of %s: %w", replica, owner.Explain(err, d.path))
	}
	return true, nil
}
