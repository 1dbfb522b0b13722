package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.etcd.io/bbolt"

	"onionbalancer/internal/durable"
	"onionbalancer/internal/filelock"
	"onionbalancer/internal/owner"
)

// lockWait is how long Open waits for another process to close the store.
const lockWait = 2 * time.Second

// open opens the store for reading and writing, creates it if it does not exist, and
// imports the files of earlier versions.
func (d *DB) open() error {
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return fmt.Errorf("opening the state: %w", err)
	}
	// Read first: files of a newer version leave everything unchanged.
	old, err := readOld(d.dir, d.warn)
	if err != nil {
		return err
	}
	file, err := d.openFile()
	if err != nil {
		return fmt.Errorf("opening the state %s: %w", d.path(), owner.Explain(err, d.dir))
	}
	opened, err := d.openBolt(file)
	if err != nil {
		return fmt.Errorf("opening the state %s: %w", d.path(), err)
	}
	if err := d.carryOver(opened, old); err != nil {
		return errors.Join(fmt.Errorf("carrying over the state of an earlier version: %w", err), opened.Close())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bolt, d.memory = opened, nil
	return nil
}

// openFile opens, locks and checks the file, and makes one if there is none or a
// damaged one.
func (d *DB) openFile() (*os.File, error) {
	for range 3 { // it is made, or is damaged and made
		file, err := os.OpenFile(d.path(), os.O_RDWR, 0)
		if errors.Is(err, fs.ErrNotExist) {
			if err := d.create(new(snapshot), nil); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := lock(file); err != nil {
			return nil, errors.Join(err, file.Close())
		}
		s, err := readFile(file)
		if err == nil {
			if err = d.closeToOthers(file); err == nil {
				return file, nil
			}
		}
		if errors.Is(err, ErrDamaged) {
			err = d.create(s, err)
		}
		if err := errors.Join(err, file.Close()); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: again after it was made", ErrDamaged)
}

// closeToOthers removes the permissions of others than the owner from the file's mode.
func (d *DB) closeToOthers(file *os.File) error {
	info, err := file.Stat()
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		d.log.Warn("others than this user could open the state", "file", d.path(), "mode", info.Mode())
		err = file.Chmod(0o600)
	}
	return err
}

// lock takes the lock that bbolt takes.
func lock(file *os.File) error {
	deadline := time.Now().Add(lockWait)
	for {
		err := filelock.TryLock(file)
		if !errors.Is(err, filelock.ErrLocked) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: is another balancer running with this state_dir?", ErrInUse)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// locked reports whether another process has the store open.
func locked(file *os.File) bool {
	return errors.Is(syscall.Flock(int(file.Fd()), syscall.LOCK_SH|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}

// openBolt has bbolt use a file that was opened, and closes it if that fails.
func (d *DB) openBolt(file *os.File) (opened *bbolt.DB, err error) {
	err = guarded(func() (err error) {
		opened, err = bbolt.Open(file.Name(), 0o600, &bbolt.Options{
			Timeout: lockWait, NoSync: d.opt.NoSync, NoGrowSync: d.opt.NoSync, NoStatistics: true,
			FreelistType: bbolt.FreelistMapType, NoFreelistSync: true, // found again by opening; commits are smaller
			OpenFile: func(string, int, os.FileMode) (*os.File, error) { return file, nil },
		})
		return err
	})
	if err != nil {
		_ = file.Close() // bbolt may have done it
		return nil, err
	}
	opened.AllocSize = 1 << 20
	return opened, nil
}

// create makes a store in a temporary file and renames it into place, so that
// a store is never found half made. It carries over the intact part of a damaged one, which
// is kept under another name.
func (d *DB) create(salvaged *snapshot, damage error) error {
	leftovers, _ := filepath.Glob(d.path() + ".new-*")
	for _, path := range leftovers {
		_ = os.Remove(path)
	}
	file, err := os.CreateTemp(d.dir, File+".new-*") // 0600
	if err != nil {
		return err
	}
	made, err := d.openBolt(file)
	if err == nil {
		err = made.Update(func(tx *bbolt.Tx) error { return fill(tx, salvaged, d.opt.Events) })
		err = errors.Join(err, made.Close())
	}
	if err == nil && damage != nil {
		err = d.putAside(damage, len(salvaged.records))
	}
	if err == nil {
		err = os.Rename(file.Name(), d.path())
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	if d.opt.NoSync {
		return nil
	}
	return durable.SyncDir(d.dir)
}

// fill makes a store's buckets and puts a snapshot into them.
func fill(tx *bbolt.Tx, s *snapshot, events int) error {
	for _, name := range [][]byte{metaBucket, recordsBucket, eventsBucket} {
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	w := newWriter(tx)
	w.version = s.version
	if err := w.putMeta(layoutKey, layout); err != nil {
		return err
	}
	for _, e := range s.records {
		if err := w.put(e.Key, e.Version, e.Value); err != nil {
			return err
		}
	}
	if err := w.appendEvents(s.ring, events); err != nil {
		return err
	}
	return w.finish()
}

// putAside keeps a damaged store under another name.
func (d *DB) putAside(damage error, whole int) error {
	aside := d.path() + ".damaged-" + time.Now().UTC().Format("20060102T150405.000Z")
	err := os.Link(d.path(), aside)
	if err != nil && !errors.Is(err, fs.ErrExist) { // a file system without links
		err = os.Rename(d.path(), aside)
	}
	if err != nil {
		return fmt.Errorf("putting it aside: %w", errors.Join(damage, err))
	}
	d.log.Error("the state is damaged and was put aside; revision counters that cannot be read follow the clock, and HSDirs may refuse descriptors for a while",
		"error", damage, "aside", aside, "records_read", whole)
	return nil
}

// carryOver stores the records of earlier versions, and moves their files out of the
// way. It is idempotent.
func (d *DB) carryOver(opened *bbolt.DB, old *oldState) error {
	if old == nil {
		return nil
	}
	err := update(opened, func(w *writer) error {
		changes, err := old.changes(boltSource{w.tx})
		if err != nil {
			return err
		}
		sums, err := w.check(changes)
		if err == nil {
			_, err = w.apply(changes, sums)
		}
		return err
	})
	if err != nil {
		return err
	}
	imported, err := old.moveAway(d.dir)
	if err != nil {
		d.log.Warn("the files of an earlier version stay where they are, and will be read again at the next start", "error", err)
	}
	d.log.Info("carried over the state of an earlier version", "services", len(old.services), "instances", len(old.instances), "periods_of_keys", len(old.claims), "old_files", imported)
	return nil
}

// readAll reads the store in dir with the files of earlier versions, and changes
// nothing.
func readAll(dir string, warn func(string, error)) (*snapshot, error) {
	old, err := readOld(dir, warn)
	if err != nil {
		return nil, err
	}
	s, err := readStable(filepath.Join(dir, File))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s = &snapshot{records: make(map[Key]Entry), empty: old == nil}
	case errors.Is(err, ErrDamaged) && s != nil:
		s.damage = err
		warn(filepath.Join(dir, File), err)
	case err != nil:
		return nil, fmt.Errorf("reading the state in %s: %w", dir, err)
	}
	if old == nil {
		return s, nil
	}
	changes, err := old.changes(s)
	for _, c := range changes {
		s.version++
		s.records[c.Key] = Entry{c.Key, s.version, c.Value}
	}
	return s, err
}
