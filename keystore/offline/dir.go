package offline

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/renameio/v2"

	"onionbalancer/descriptor"
	"onionbalancer/internal/durable"
	"onionbalancer/internal/filelock"
	"onionbalancer/internal/locked"
	"onionbalancer/internal/openfile"
	"onionbalancer/internal/owner"
	"onionbalancer/internal/shell"
	"onionbalancer/internal/strictmodes"
)

// The files of a manager's directory for one address. Each is replaced as a
// whole and synced, so that a power cut leaves the old one or the new one.
const (
	// KeysFile has the signing keys.
	KeysFile = "keys.json"
	// BundleFile has the installed entries: a bundle.
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

// Look returns the result of Is, or why this user may not know.
func Look(path string) (is bool, err error) {
	info, err := os.Stat(filepath.Join(path, KeysFile))
	if errors.Is(err, fs.ErrPermission) {
		return false, fmt.Errorf("looking for signing keys: %w; this program runs as user %d", err, os.Geteuid())
	}
	return err == nil && info.Mode().IsRegular(), nil
}

// contents is the content of a directory.
type contents struct {
	keys   *keysFile
	bundle *Bundle // nil before the first installation
	stamps [2]openfile.Stamp
}

// stamps returns the current stamps of the files of dir, zero for a missing one.
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
	c := &contents{}
	err := c.load(dir, func() (err error) {
		if err = c.loadKeys(filepath.Join(dir, KeysFile)); err == nil {
			c.bundle, c.stamps[1], err = loadBundle(dir, c.keys)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// loadKeys reads the keys of dir alone. The caller wipes them.
func loadKeys(dir string) (*keysFile, error) {
	c := &contents{}
	err := c.load(dir, func() error { return c.loadKeys(filepath.Join(dir, KeysFile)) })
	return c.keys, err
}

func (c *contents) load(dir string, read func() error) error {
	defer locked.CollectSoon()
	for {
		before := stamps(dir)
		*c = contents{}
		err := read()
		if err == nil {
			return nil
		}
		c.keys.wipe()
		// A file that was replaced while it was read may have been overwritten.
		if stamps(dir) == before {
			return fmt.Errorf("reading the keys for ceremonies in %s: %w", dir, err)
		}
	}
}

// loadBundle reads the bundle of dir, which has those keys; nil if there is none.
func loadBundle(dir string, keys *keysFile) (*Bundle, openfile.Stamp, error) {
	raw, info, err := readFile(filepath.Join(dir, BundleFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, openfile.Stamp{}, nil
	}
	if err != nil {
		return nil, openfile.Stamp{}, err
	}
	defer clear(raw)
	bundle, err := ParseBundle(raw)
	if err != nil {
		return nil, openfile.Stamp{}, fmt.Errorf("%s: %w", BundleFile, err)
	}
	if bundle.Schedule != keys.Schedule || len(bundle.Of(keys.Address)) != len(bundle.Entries) {
		return nil, openfile.Stamp{}, fmt.Errorf("%s is of another address or network than %s", BundleFile, KeysFile)
	}
	return bundle, openfile.StampOf(info), nil
}

// readEntry reads one entry of a bundle that was read as a whole before, in a fraction of the
// time. It is the caller who verifies it.
func readEntry(path string, at int) (e Entry, err error) {
	raw, _, err := readFile(path)
	if err != nil {
		return e, err
	}
	defer clear(raw)
	var b struct {
		Entries []json.RawMessage `json:"entries"`
	}
	if err = json.Unmarshal(raw, &b); err == nil {
		if at >= len(b.Entries) {
			return e, fmt.Errorf("%s has fewer entries than before", path)
		}
		err = json.Unmarshal(b.Entries[at], &e)
	}
	if err != nil {
		return e, fmt.Errorf("reading %s, which was damaged since it was read before: %w", path, err)
	}
	return e, nil
}

// loadKeys reads the keys, whose text is in locked memory only.
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
	if _, err := raw.Fill(f); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	c.stamps[0] = openfile.StampOf(info)
	raw.Use(func(text []byte) { c.keys, err = parseKeys(text) })
	if err != nil {
		return fmt.Errorf("%s: %w", KeysFile, err)
	}
	return nil
}

// entry returns the installed entry for a period, nil if there is none.
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

// certified returns the usable entries, by period.
func (c *contents) certified() []*Entry {
	if c.bundle == nil {
		return nil
	}
	var list []*Entry
	for i := range c.bundle.Entries {
		if e := c.usable(c.bundle.Entries[i].Period); e != nil {
			list = append(list, e)
		}
	}
	return list
}

// usable returns the entry of a period if its certificate is for the signing
// key that is here, nil if not.
func (c *contents) usable(number uint64) *Entry {
	e, key := c.entry(number), c.keys.of(number)
	if e == nil || key == nil {
		return nil
	}
	certs, err := descriptor.ParseHourly(e.Certificate)
	if err != nil || certs.First().Key() != [32]byte(key.Public) {
		return nil
	}
	return e
}

// patience is for how long a command waits while another one changes a directory.
const patience = 10 * time.Second

// lock keeps other processes from changing the files of dir until unlock. While
// another process has the lock, it retries for as long as wait says.
func lock(dir string, wait time.Duration) (unlock func(), err error) {
	if err := owner.Check(dir); err != nil {
		return nil, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(wait); ; time.Sleep(10 * time.Millisecond) {
		err = filelock.TryLock(f)
		busy := errors.Is(err, filelock.ErrLocked)
		if busy && time.Now().Before(end) {
			continue
		}
		if busy {
			err = errors.New("another program is changing its contents: try again when that is done")
		}
		break
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

// makeDir makes dir, or checks that no other user can use it.
func makeDir(dir string) error {
	if err := owner.Check(dir); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		parent := filepath.Dir(filepath.Clean(dir))
		if _, err := os.Stat(parent); errors.Is(err, fs.ErrNotExist) {
			if err := makeDir(parent); err != nil {
				return err
			}
		}
		if err := os.Mkdir(dir, privateDir); err != nil {
			return err
		}
		return durable.SyncDir(parent)
	}
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory", dir)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("others than its owner can use the directory %s (mode %04o): run: chmod 700 %s", dir, info.Mode().Perm(), shell.Quote(dir))
	}
	return nil
}

// replacement is a new version of a file, written but not yet renamed into place.
type replacement struct {
	path    string
	pending *renameio.PendingFile
}

// stage writes content beside path, readable by us alone.
func stage(path string, content []byte) (*replacement, error) {
	pending, err := renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)), renameio.WithStaticPermissions(privateFile))
	if err != nil {
		return nil, err
	}
	_, err = pending.Write(content)
	if err == nil {
		err = pending.Sync()
	}
	if err != nil {
		return nil, errors.Join(err, pending.Cleanup())
	}
	return &replacement{path, pending}, nil
}

// drop forgets a replacement that was not committed.
func (r *replacement) drop() { _ = r.pending.Cleanup() }

// commit puts the new version in place of the old one, and syncs that.
func (r *replacement) commit() error {
	if err := r.pending.CloseAtomicallyReplace(); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(r.path))
}

// wipingCommit does as commit does and then, when the new version is safe,
// overwrites the old one, as far as the disk and its file system let one
// overwrite anything.
func (r *replacement) wipingCommit() error {
	old, err := os.OpenFile(r.path, os.O_WRONLY, 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, r.pending.Cleanup())
	}
	if old != nil {
		defer old.Close()
	}
	if err := r.commit(); err != nil || old == nil {
		return err
	}
	info, err := old.Stat()
	if err != nil {
		return err
	}
	_, err = old.WriteAt(make([]byte, info.Size()), 0)
	return errors.Join(err, old.Sync())
}

// Span is periods without a gap, and when the first begins and the last ends.
type Span struct {
	First uint64    `json:"first_period"`
	Last  uint64    `json:"last_period"`
	From  time.Time `json:"from"`
	Until time.Time `json:"until"`
}

// Span returns the span of some periods.
func (s Schedule) Span(first, last uint64) Span {
	return Span{First: first, Last: last, From: s.Start(first), Until: s.End(last)}
}

// Periods returns how many there are.
func (s Span) Periods() int { return int(s.Last - s.First + 1) }

// Description is the content of a manager's directory, without secrets.
type Description struct {
	Address descriptor.Address `json:"address"`
	Dir     string             `json:"dir"`
	Schedule
	Keys      []Span    `json:"signing_keys"`
	OnToken   int       `json:"signing_keys_on_token,omitempty"`
	Certified []Span    `json:"certified"`
	Horizon   int       `json:"horizon_periods,omitempty"` // of the last ceremony
	Ceremony  time.Time `json:"last_ceremony,omitzero"`
}

// Describe reads a directory.
func Describe(dir string) (*Description, error) {
	c, err := load(dir)
	if err != nil {
		return nil, err
	}
	defer c.keys.wipe()
	d := &Description{Address: c.keys.Address, Dir: dir, Schedule: c.keys.Schedule, Keys: []Span{}, Certified: []Span{}}
	for _, k := range c.keys.Keys {
		d.Keys = d.Schedule.extend(d.Keys, k.Period)
		if k.Seed == nil {
			d.OnToken++
		}
	}
	if c.bundle == nil {
		return d, nil
	}
	for _, e := range c.certified() {
		d.Certified = d.Schedule.extend(d.Certified, e.Period)
	}
	for _, e := range c.bundle.Entries {
		if e.Made.After(d.Ceremony) {
			d.Ceremony, d.Horizon = e.Made, e.Periods
		}
	}
	return d, nil
}

// Spans returns the spans of an address's entries.
func (b *Bundle) Spans(a descriptor.Address) []Span {
	var list []Span
	for _, e := range b.Of(a) {
		list = b.Schedule.extend(list, e.Period)
	}
	return list
}

// extend adds the next period to spans.
func (s Schedule) extend(spans []Span, number uint64) []Span {
	if n := len(spans); n > 0 && spans[n-1].Last+1 == number {
		spans[n-1] = s.Span(spans[n-1].First, number)
		return spans
	}
	return append(spans, s.Span(number, number))
}
