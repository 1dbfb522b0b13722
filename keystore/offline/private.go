package offline

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"onionbalancer/internal/durable"
	"onionbalancer/internal/filelock"
	"onionbalancer/internal/owner"
	"onionbalancer/internal/shell"
)

// patience is for how long a command waits while another one changes a directory.
const patience = 10 * time.Second

// lock keeps other processes from changing the files of dir until unlock. While
// another one has the lock, it tries again for as long as wait says.
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
			err = errors.New("another program is changing what is in it: try again when that is done")
		}
		break
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

// makeDir makes dir, or checks that nobody else can use it.
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
