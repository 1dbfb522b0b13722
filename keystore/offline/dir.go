package offline

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"onionbalancer/descriptor"
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

// Is reports whether path is a manager's directory, made by Prepare.
func Is(path string) bool {
	info, err := os.Stat(filepath.Join(path, KeysFile))
	return err == nil && info.Mode().IsRegular()
}

// contents is what a directory holds.
type contents struct {
	keys   *keysFile
	bundle *Bundle // nil before the first installation
	stamps [2]fileStamp
}

// fileStamp tells whether a file is still the one that was read.
type fileStamp struct {
	device, inode uint64
	size, changed int64
}

func stampOf(info os.FileInfo) (s fileStamp) {
	s.size, s.changed = info.Size(), info.ModTime().UnixNano()
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		s.device, s.inode = uint64(stat.Dev), stat.Ino
	}
	return s
}

// stamps returns what the files of dir are now, zero for one that is not there.
func stamps(dir string) (list [2]fileStamp) {
	for i, name := range []string{KeysFile, BundleFile} {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil {
			list[i] = stampOf(info)
		}
	}
	return list
}

// load reads both files of dir. The caller wipes the keys.
func load(dir string) (*contents, error) {
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
	raw, info, err := readFile(filepath.Join(dir, KeysFile))
	if err != nil {
		return c, err
	}
	defer clear(raw)
	if err := checkPrivate(filepath.Join(dir, KeysFile), info, os.Geteuid()); err != nil {
		return c, err
	}
	c.stamps[0] = stampOf(info)
	if c.keys, err = parseKeys(raw); err != nil {
		return c, fmt.Errorf("%s: %w", KeysFile, err)
	}
	raw, info, err = readFile(filepath.Join(dir, BundleFile))
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	defer clear(raw)
	c.stamps[1] = stampOf(info)
	if c.bundle, err = ParseBundle(raw); err != nil {
		return c, fmt.Errorf("%s: %w", BundleFile, err)
	}
	if c.bundle.Schedule != c.keys.Schedule || len(c.bundle.Of(c.keys.Address)) != len(c.bundle.Entries) {
		return c, fmt.Errorf("%s is of another address or network than %s", BundleFile, KeysFile)
	}
	return c, nil
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

// lock keeps other processes from changing the files of dir until unlock. While
// another one has the lock, it fails or waits.
func lock(dir string, wait bool) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	how := unix.LOCK_EX
	if !wait {
		how |= unix.LOCK_NB
	}
	for {
		if err = unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

// makeDir makes dir, or checks that nobody else can use it. What is made belongs
// to the owner of what it is made in, also if root makes it.
func makeDir(dir string) error {
	info, err := os.Stat(dir)
	if err == nil {
		if !info.IsDir() {
			return fmt.Errorf("%s is not a directory", dir)
		}
		if info.Mode().Perm()&0o077 != 0 {
			return fmt.Errorf("others than its owner can use the directory %s (mode %04o): run: chmod 700 %s", dir, info.Mode().Perm(), shellQuote(dir))
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(filepath.Clean(dir))
	above, err := os.Stat(parent)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeDir(parent); err == nil {
			above, err = os.Stat(parent)
		}
	}
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, privateDir); err != nil {
		return err
	}
	if stat, ok := above.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		if err := os.Chown(dir, int(stat.Uid), int(stat.Gid)); err != nil {
			return err
		}
	}
	return syncDir(parent)
}

// checkPrivate refuses a file that someone else than user me can read or owns.
func checkPrivate(path string, info os.FileInfo, me int) error {
	if others := info.Mode().Perm() & 0o077; others != 0 {
		return fmt.Errorf("others than its owner can use %s (mode %04o): run: chmod 600 %s", path, info.Mode().Perm(), shellQuote(path))
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && me != 0 && stat.Uid != 0 && int(stat.Uid) != me {
		return fmt.Errorf("%s belongs to user %d, and this program runs as user %d: run as root: chown %d %s", path, stat.Uid, me, me, shellQuote(path))
	}
	return nil
}
