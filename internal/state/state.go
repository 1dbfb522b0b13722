// Package state keeps persistent state in one file: state.db in the
// state directory, a bbolt database.
//
// It has two layers. The lower one is keys with versions: Get returns a value with
// its version, and Swap replaces values if their versions are still the same, all
// or none. The upper one is the records that balancer keeps under these keys:
// Service, Instance, Word, Probe and Claims. Beside them there is a ring of events.
//
// Every value carries a checksum and the file carries the sum of them all, so that
// a disk that loses or repeats a page is detected when the file is opened, rather
// than by a revision counter that has gone back.
package state

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"onionbalancer/internal/writequeue"

	"go.etcd.io/bbolt"
)

// File is the name of the store in the state directory.
const File = "state.db"

// defaultEvents is how many events are kept unless Options says otherwise.
const defaultEvents = 10_000

var (
	// ErrConflict says that a record has another version than the caller expected:
	// another process wrote it, or an earlier Swap of unknown outcome succeeded.
	// A *ConflictError wraps it and names the key.
	ErrConflict = errors.New("the record was changed meanwhile")
	// ErrFenced says that the record of a service is another owner's, or another term's: the
	// caller publishes it no more. A store that several managers share returns it.
	ErrFenced = errors.New("another manager publishes it now")
	// ErrInUse says that another process has the store open.
	ErrInUse = errors.New("another process has it open")
	// ErrNewer says that a newer balancer wrote the store. It is not changed.
	ErrNewer = errors.New("a newer balancer wrote it")
	// ErrReadOnly says that the store was opened for reading.
	ErrReadOnly = errors.New("the store was opened for reading only")
	// ErrClosed says that the store was closed.
	ErrClosed = errors.New("the store is closed")
	// ErrDamaged says that the store, or a value in it, differs from the written data.
	ErrDamaged = errors.New("damaged")
)

// NewerFix is what an operator may do about ErrNewer.
const NewerFix = "run the newer balancer, or give this one a state_dir of its own"

// Options says how to open a store.
type Options struct {
	Log    *slog.Logger // default: discards
	Events int          // how many events are kept; default: 10,000
	NoSync bool         // nothing survives a power cut: for tests and simulations
}

// DB is an open store, safe for concurrent use. It has no goroutine of its own
// while nothing is written; in a synctest bubble, open and use it inside.
type DB struct {
	dir      string
	opt      Options
	log      *slog.Logger
	readOnly bool
	warned   map[string]bool // of damaged old files, by path

	mu     sync.RWMutex // protects the fields below; a writer holds it to replace bolt
	bolt   *bbolt.DB    // nil: opened for reading, or the directory cannot be written
	memory *snapshot    // what could be read while bolt is nil
	broken error        // why nothing can be written any more
	closed bool

	queue writequeue.Queue[*request]
}

// Open opens the store in dir for reading and writing, and creates it if it does not
// exist. It imports the files of earlier versions under dir/services, and renames a
// damaged store.
//
// A directory that cannot be written is not an error: Swap reports it, and works as
// soon as it can. Errors are ErrInUse and ErrNewer. The caller makes sure that only one
// process at a time opens dir, by the lock that a running balancer holds.
func Open(dir string, opt Options) (*DB, error) {
	d := &DB{dir: dir, opt: opt, log: opt.Log, warned: make(map[string]bool)}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	d.opt.Events = cmp.Or(opt.Events, defaultEvents)
	err := d.open()
	if err == nil {
		return d, nil
	}
	if errors.Is(err, ErrInUse) || errors.Is(err, ErrNewer) {
		return nil, err
	}
	d.log.Error("the state cannot be stored", "error", err)
	if d.memory, err = readAll(dir, d.warn); errors.Is(err, ErrNewer) {
		return nil, err
	}
	if err != nil {
		d.log.Error("the state cannot be read: revision counters follow the clock", "error", err)
	}
	return d, nil
}

// OpenReadOnly reads the store in dir as it is now, with the files of earlier versions
// there, and changes nothing. It needs no lock, and works while a balancer
// runs: a copy that changed while it was read is read again. ErrInUse says that
// it changed each time; an fs.ErrNotExist, that no state is stored there. Damaged
// records are left out and logged.
func OpenReadOnly(dir string, log *slog.Logger) (*DB, error) {
	d := &DB{dir: dir, readOnly: true, log: log, warned: make(map[string]bool)}
	var err error
	if d.memory, err = readAll(dir, d.warn); err != nil {
		return nil, err
	}
	if d.memory.empty {
		return nil, fmt.Errorf("opening the state in %s: %w", dir, fs.ErrNotExist)
	}
	return d, nil
}

// Damage returns the errors in the file of a store that was opened for
// reading, whose methods then return the intact records only.
func (d *DB) Damage() error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.memory == nil {
		return nil
	}
	return d.memory.damage
}

// Close waits for writes in flight and closes the store.
func (d *DB) Close() error {
	d.queue.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.bolt == nil || d.broken != nil { // a broken one may never give its locks back
		return nil
	}
	err := d.bolt.Close()
	d.bolt = nil
	if err != nil {
		return fmt.Errorf("closing the state: %w", err)
	}
	return nil
}

// path is the path of the store.
func (d *DB) path() string { return filepath.Join(d.dir, File) }

// warn logs an error in an old file, once.
func (d *DB) warn(path string, err error) {
	if !d.warned[path] {
		d.warned[path] = true
		d.log.Warn("skipping the damaged part of a file", "file", path, "error", err)
	}
}

// Key names a record. It has at most 512 bytes, in parts separated by slashes.
type Key string

// String is for errors, and so for logs: the label of an onion address is shortened.
func (k Key) String() string {
	n := strings.LastIndexByte(string(k), '/') + 1
	if len(k)-n != labelLength {
		return string(k)
	}
	return string(k[:n+shortLength]) + "…"
}

// The lengths of an address's label, and of what Short of it shows.
const (
	labelLength = 56
	shortLength = 6
)

// Entry is a record as it is stored.
type Entry struct {
	Key     Key
	Version uint64 // above that of any record written before; never 0
	Value   []byte
}

// Change is the change of one record in a Swap.
type Change struct {
	Key     Key
	Version uint64 // that Get gave; 0: the record must not be there
	Value   []byte // nil deletes
}

// ConflictError names the record that made a Swap fail.
type ConflictError struct {
	Key        Key
	Want, Have uint64 // versions; 0: not there
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("%s: version %d, expected %d: %v", e.Key, e.Have, e.Want, ErrConflict)
}

func (e *ConflictError) Unwrap() error { return ErrConflict }

// Get returns a copy of a record's value and its version, 0 if it is not there.
func (d *DB) Get(key Key) ([]byte, uint64, error) {
	var found Entry
	err := d.read(fmt.Sprintf("reading %q", key), func(s source) (err error) {
		found, err = s.entry(key)
		return err
	})
	return found.Value, found.Version, err
}

// List returns copies of the records whose keys begin with prefix, by key, as
// they were at one moment.
func (d *DB) List(prefix Key) ([]Entry, error) {
	var list []Entry
	err := d.read(fmt.Sprintf("listing %q", prefix), func(s source) (err error) {
		list, err = s.list(prefix)
		return err
	})
	return list, err
}

// source is where records are read from: the database or a snapshot.
type source interface {
	entry(Key) (Entry, error)
	list(prefix Key) ([]Entry, error)
	newest() iter.Seq2[[]byte, error] // events, the newest first, that stay the source's
}

// Events returns the newest events, at most n, that keep wants, oldest first. A
// nil keep wants all; it must not use the store, nor keep the slice.
func (d *DB) Events(n int, keep func([]byte) bool) ([][]byte, error) {
	var list [][]byte
	err := d.read("reading events", func(s source) error {
		for event, err := range s.newest() {
			if err != nil {
				return err
			}
			if len(list) == n {
				break
			}
			if keep == nil || keep(event) {
				list = append(list, bytes.Clone(event))
			}
		}
		return nil
	})
	slices.Reverse(list)
	return list, err
}

// read calls f with the source to read from.
func (d *DB) read(what string, f func(source) error) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	var err error
	switch {
	case d.closed:
		err = ErrClosed
	case d.bolt != nil:
		err = guarded(func() error {
			return d.bolt.View(func(tx *bbolt.Tx) error { return f(boltSource{tx}) })
		})
	case d.memory != nil:
		err = f(d.memory)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// snapshot is a store read into memory.
type snapshot struct {
	records map[Key]Entry
	ring    [][]byte // events, oldest first
	version uint64   // the highest that a record was given
	empty   bool     // nothing is stored there
	damage  error    // why it is not all that was stored
}

func (s *snapshot) entry(key Key) (Entry, error) { return s.records[key], nil }

func (s *snapshot) list(prefix Key) ([]Entry, error) {
	var list []Entry
	for key, e := range s.records {
		if strings.HasPrefix(string(key), string(prefix)) {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b Entry) int { return cmp.Compare(a.Key, b.Key) })
	return list, nil
}

func (s *snapshot) newest() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for _, event := range slices.Backward(s.ring) {
			if !yield(event, nil) {
				return
			}
		}
	}
}
