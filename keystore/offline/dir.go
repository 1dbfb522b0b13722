package offline

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
	"onionbalancer/internal/openfile"
	"onionbalancer/internal/strictmodes"
)

// The files of a manager's directory for one address. Each is replaced as a
// whole and synced, so that a power cut leaves the old one or the new one.
const (
	// KeysFile has the signing keys.
	KeysFile = "keys.json"
	// BundleFile has what was installed: a bundle.
	BundleFile = "bundle.json"
)

const (
	privateDir  = 0o700
	privateFile = 0o600
)

// Is reports whether path is a manager's directory, made by Prepare, as far as
// this user may see.
func Is(path string) bool {
	is, err := Look(path)
	return is && err == nil
}

// Look reports what Is does, or why this user may not know.
func Look(path string) (is bool, err error) {
	info, err := os.Stat(filepath.Join(path, KeysFile))
	if errors.Is(err, fs.ErrPermission) {
		return false, fmt.Errorf("looking for signing keys: %w; this program runs as user %d", err, os.Geteuid())
	}
	return err == nil && info.Mode().IsRegular(), nil
}

// contents is what a directory holds.
type contents struct {
	keys   *keysFile
	bundle *Bundle // nil before the first installation
	stamps [2]openfile.Stamp
}

// stamps returns what the files of dir are now, zero for one that is not there.
func stamps(dir string) (list [2]openfile.Stamp) {
	for i, name := range []string{KeysFile, BundleFile} {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil {
			list[i] = openfile.StampOf(info)
		}
	}
	return list
}

// load reads both files of dir. The caller wipes the keys.
func load(dir string) (*contents, error) {
	defer locked.CollectSoon()
	for {
		before := stamps(dir)
		c, err := loadBoth(dir)
		if err == nil {
			return c, nil
		}
		c.keys.wipe()
		// A file that was replaced while it was read may have been overwritten.
		if stamps(dir) == before {
			return nil, fmt.Errorf("reading the keys for ceremonies in %s: %w", dir, err)
		}
	}
}

func loadBoth(dir string) (*contents, error) {
	c := &contents{}
	if err := c.loadKeys(filepath.Join(dir, KeysFile)); err != nil {
		return c, err
	}
	raw, info, err := readFile(filepath.Join(dir, BundleFile))
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	defer clear(raw)
	c.stamps[1] = openfile.StampOf(info)
	if c.bundle, err = ParseBundle(raw); err != nil {
		return c, fmt.Errorf("%s: %w", BundleFile, err)
	}
	if c.bundle.Schedule != c.keys.Schedule || len(c.bundle.Of(c.keys.Address)) != len(c.bundle.Entries) {
		return c, fmt.Errorf("%s is of another address or network than %s", BundleFile, KeysFile)
	}
	return c, nil
}

// loadKeys reads the keys, whose text is in locked memory alone.
func (c *contents) loadKeys(path string) error {
	f, info, err := openFile(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := strictmodes.Current().Secret(path, f); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	raw := locked.New(int(info.Size()))
	defer raw.Wipe()
	if _, err := io.ReadFull(f, raw.Bytes()); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	c.stamps[0] = openfile.StampOf(info)
	if c.keys, err = parseKeys(raw.Bytes()); err != nil {
		return fmt.Errorf("%s: %w", KeysFile, err)
	}
	return nil
}

// entry returns what is installed for a period, nil if nothing is.
func (c *contents) entry(number uint64) *Entry {
	if c.bundle == nil {
		return nil
	}
	i, found := slices.BinarySearchFunc(c.bundle.Entries, number, func(e Entry, n uint64) int { return cmp.Compare(e.Period, n) })
	if !found {
		return nil
	}
	return &c.bundle.Entries[i]
}

// usable returns the entry of a period if its certificate is for the signing
// key that is here, nil if not.
func (c *contents) usable(number uint64) *Entry {
	e, key := c.entry(number), c.keys.of(number)
	if e == nil || key == nil {
		return nil
	}
	cert, err := descriptor.ParseCertificate(e.Certificate)
	if err != nil || cert.Key() != [32]byte(key.Public) {
		return nil
	}
	return e
}
