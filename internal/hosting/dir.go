package hosting

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"onionbalancer/descriptor"
	"onionbalancer/internal/durable"
	"onionbalancer/internal/filelock"
	"onionbalancer/internal/owner"
	"onionbalancer/internal/strictmodes"
	"onionbalancer/keystore/offline"
)

// The directories of keys that are no customer's, and of what is for the replicas.
const (
	sparesDir   = ".spares"
	pendingDir  = ".pending"
	removedDir  = ".removed"
	replicasDir = ".replicas"
)

const privateDir = 0o700

// Dir is the directory of a shard. Its methods change it by renaming, one key directory at
// a time, and sync what they changed: after a power cut or a kill a key is at its old place or
// at the new one, and doing the same again finishes it. Several processes may use it.
type Dir struct{ path string }

// OpenDir opens the directory of a shard, which has to be there. It reads nothing of it.
func OpenDir(path string) (*Dir, error) {
	info, err := os.Stat(path)
	if err == nil && !info.IsDir() {
		err = &fs.PathError{Op: "open", Path: path, Err: errors.New("not a directory")}
	}
	if err != nil {
		return nil, fmt.Errorf("opening the directory of a shard: %w", owner.Explain(err, path))
	}
	return &Dir{path}, nil
}

// MakeDir makes the directory of a shard, with mode 0700, or opens it.
func MakeDir(path string) (*Dir, error) {
	err := os.MkdirAll(path, privateDir)
	if err == nil {
		err = durable.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return nil, fmt.Errorf("making the directory of a shard: %w", owner.Explain(err, filepath.Dir(path)))
	}
	return OpenDir(path)
}

// Path returns the path of the directory.
func (d *Dir) Path() string { return d.path }

// CheckModes reports whether others than root and user can change the directory, and so put
// keys of theirs into it.
func (d *Dir) CheckModes(user strictmodes.User) error {
	var errs []error
	for _, sub := range []string{"", sparesDir, pendingDir, removedDir} {
		errs = append(errs, user.Check(filepath.Join(d.path, sub)))
	}
	return errors.Join(errs...)
}

// Customers lists the names of the customers whose keys are here, sorted. strange says of
// whatever else lies here, but files whose names begin with a dot, why it is no customer's.
func (d *Dir) Customers() (names []string, strange []error, err error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, nil, fmt.Errorf("listing the customers of a shard: %w", owner.Explain(err, d.path))
	}
	for _, entry := range entries {
		name := entry.Name()
		if name[0] == '.' || name == "lost+found" {
			continue
		}
		if err := d.customers(entry); err != nil {
			strange = append(strange, fmt.Errorf("%s is not a customer's: %w", filepath.Join(d.path, name), err))
		} else {
			names = append(names, name)
		}
	}
	return names, strange, nil
}

// customers reports why an entry of the directory is not a customer's.
func (d *Dir) customers(entry fs.DirEntry) error {
	switch {
	case entry.Type() == fs.ModeSymlink:
		return errors.New("it is a symbolic link; put the directory itself there")
	case !entry.IsDir():
		return errors.New("it is not a directory")
	case !nameForm.MatchString(entry.Name()):
		return fmt.Errorf("%w: want 1 to 128 of a-z, A-Z, 0-9, \".\", \"_\" and \"-\", the first a letter or a number", ErrName)
	case !hasKey(filepath.Join(d.path, entry.Name())):
		return errors.New("it has no key")
	}
	return nil
}

// hasKey tells whether a directory has one of the files by which keys are known.
func hasKey(dir string) bool {
	return slices.ContainsFunc([]string{torKey, artiKey, sealedKey, offline.KeysFile}, func(name string) bool {
		_, err := os.Stat(filepath.Join(dir, name))
		return err == nil
	})
}

// Spares lists the addresses that the replicas know and nobody has yet, sorted.
func (d *Dir) Spares() ([]descriptor.Address, error) { return d.labels(sparesDir) }

// SpareDir is where the spare key of an address is, below the shard's directory.
func SpareDir(a descriptor.Address) string { return filepath.Join(sparesDir, a.Label()) }

// Pending lists the addresses that the replicas will know after a rolling restart, sorted.
func (d *Dir) Pending() ([]descriptor.Address, error) { return d.labels(pendingDir) }

// Removed lists the addresses of removed customers whose keys are still here, sorted.
func (d *Dir) Removed() ([]descriptor.Address, error) { return d.labels(removedDir) }

// KeyDirs are the directories in which a shard has key directories that its replicas know or
// will know: of customers, spares and pending keys.
func KeyDirs(path string) []string {
	return []string{path, filepath.Join(path, sparesDir), filepath.Join(path, pendingDir)}
}

// labels lists the addresses that directories in sub are called after.
func (d *Dir) labels(sub string) (list []descriptor.Address, err error) {
	entries, err := os.ReadDir(filepath.Join(d.path, sub))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing keys: %w", owner.Explain(err, d.path))
	}
	for _, entry := range entries {
		if a, err := descriptor.ParseAddress(entry.Name()); err == nil && entry.IsDir() && a.Label() == entry.Name() {
			list = append(list, a)
		}
	}
	return list, nil
}

// Take gives the spare key of an address to the customer called name.
func (d *Dir) Take(a descriptor.Address, name string) error {
	return d.move(a, SpareDir(a), name)
}

// Retire puts the key of the customer called name among those of removed customers.
func (d *Dir) Retire(name string, a descriptor.Address) error {
	return d.move(a, name, filepath.Join(removedDir, a.Label()))
}

// Restore is the opposite of Retire.
func (d *Dir) Restore(a descriptor.Address, name string) error {
	return d.move(a, filepath.Join(removedDir, a.Label()), name)
}

// move renames the key directory of an address, if that was not done before. The error wraps
// ErrName, ErrTaken if another key has the new name, or fs.ErrNotExist.
func (d *Dir) move(a descriptor.Address, from, to string) error {
	if err := d.rename(a, from, to); err != nil {
		return fmt.Errorf("moving the key of %s in %s: %w", a.Short(), d.path, err)
	}
	return nil
}

func (d *Dir) rename(a descriptor.Address, from, to string) error {
	for _, sub := range []string{from, to} {
		if filepath.Dir(sub) == "." && !nameForm.MatchString(sub) {
			return fmt.Errorf("%q: %w", sub, ErrName)
		}
	}
	source, target := filepath.Join(d.path, from), filepath.Join(d.path, to)
	if err := os.MkdirAll(filepath.Dir(target), privateDir); err != nil {
		return owner.Explain(err, d.path)
	}
	_, err := os.Lstat(target)
	switch {
	case err == nil:
		if is, err := d.Address(to); err != nil || is != a {
			return errors.Join(fmt.Errorf("%q: %w", to, ErrTaken), err)
		}
		if _, err := os.Lstat(source); err == nil {
			return fmt.Errorf("it is in %q and in %q: put one of them elsewhere", from, to)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	default:
		if err := os.Rename(source, target); err != nil {
			return owner.Explain(err, d.path)
		}
	}
	// Also of a move that was made before: whoever made it may have been killed here.
	return errors.Join(durable.SyncDir(filepath.Dir(target)), syncIfThere(filepath.Dir(source)), durable.SyncDir(d.path))
}

func syncIfThere(dir string) error {
	if err := durable.SyncDir(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Install makes spares of the pending keys that the replicas know now: all that are in the
// ob_config which was written for each of them, or all if none was written here. A key that
// was brought for a customer (Bring) goes to the customer's directory instead. Keys whose place
// is taken stay pending, and the error says so.
func (d *Dir) Install() (spares []descriptor.Address, customers []string, err error) {
	pending, err := d.Pending()
	if err != nil {
		return nil, nil, err
	}
	unknown, err := d.Unwritten(pending)
	if err != nil {
		return nil, nil, err
	}
	var errs []error
	for _, a := range pending {
		if slices.Contains(unknown, a) {
			continue
		}
		from := filepath.Join(pendingDir, a.Label())
		name, err := d.broughtFor(from)
		if err == nil {
			err = d.move(a, from, cmp.Or(name, SpareDir(a)))
		}
		switch {
		case err != nil:
			errs = append(errs, err)
		case name != "":
			customers = append(customers, name)
		default:
			spares = append(spares, a)
		}
	}
	return spares, customers, errors.Join(errs...)
}

// Erase removes the key of a removed customer for good. Old copies of it on the disk are not
// overwritten.
func (d *Dir) Erase(a descriptor.Address) error {
	dir := filepath.Join(d.path, removedDir)
	err := os.RemoveAll(filepath.Join(dir, a.Label()))
	if err == nil {
		err = syncIfThere(dir)
	}
	if err != nil {
		return fmt.Errorf("erasing the key of %s: %w", a.Short(), owner.Explain(err, dir))
	}
	return nil
}

// lock excludes other processes from making keys and files in the directory.
func (d *Dir) lock() (unlock func(), err error) {
	f, err := os.Open(d.path)
	if err != nil {
		return nil, err
	}
	if err := filelock.TryLock(f); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w: another balancer makes keys in it; try again when it is done", d.path, err), f.Close())
	}
	return func() { _ = f.Close() }, nil // nothing was written to it
}
