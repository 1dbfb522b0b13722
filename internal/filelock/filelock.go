// Package filelock locks files against other processes (flock). The kernel
// releases a lock when its holder ends, however it ends.
package filelock

import (
	"errors"
	"os"
	"syscall"
)

// ErrLocked is returned while another open file holds the lock.
var ErrLocked = errors.New("locked by another process")

// TryLock locks f exclusively, or returns ErrLocked at once. Closing f unlocks
// it. f may be a directory. Two files opened by one process exclude each other
// too.
func TryLock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EWOULDBLOCK):
			return ErrLocked
		}
		return os.NewSyscallError("flock", err)
	}
}
