package locked

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// slotSize is enough for any key. Small secrets share pages, for the system
// limits how much memory a process may lock, to 8 MiB or to less.
const slotSize = 128

// slots holds the zeroed slots that nobody uses. Their pages stay mapped, so
// that a mistake with Bytes finds another secret or zeros and no hole.
var slots struct {
	sync.Mutex
	free [][]byte
}

// trouble is why memory could not be locked, if so.
var trouble atomic.Pointer[error]

// Trouble returns why memory could not be protected as it should when it was
// last mapped, or nil: the limit of locked memory (RLIMIT_MEMLOCK) is too low.
// Secrets are kept all the same, in memory that may be swapped out.
func Trouble() error {
	if err := trouble.Load(); err != nil {
		return *err
	}
	return nil
}

// take returns n zero bytes or more; all of them are for giveBack.
func take(n int) []byte {
	if n > slotSize {
		return mapPages(n)
	}
	slots.Lock()
	defer slots.Unlock()
	if len(slots.free) == 0 {
		for page := mapPages(os.Getpagesize()); len(page) >= slotSize; page = page[slotSize:] {
			slots.free = append(slots.free, page[:slotSize:slotSize])
		}
	}
	last := len(slots.free) - 1
	slot := slots.free[last]
	slots.free = slots.free[:last]
	return slot
}

// giveBack overwrites what take returned, for its next user or for good.
func giveBack(bytes []byte) {
	clear(bytes)
	if len(bytes) > slotSize {
		_ = unix.Munmap(bytes) // nothing can be done about it
		return
	}
	slots.Lock()
	defer slots.Unlock()
	slots.free = append(slots.free, bytes)
}

// mapPages returns zeroed pages of their own for at least n bytes.
func mapPages(n int) []byte {
	size := (n + os.Getpagesize() - 1) &^ (os.Getpagesize() - 1)
	pages, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		panic(fmt.Sprintf("locked: no memory for a secret of %d bytes: %v", n, err))
	}
	if err := protect(pages); err != nil {
		err = fmt.Errorf("locking the memory of secrets: %w", err)
		trouble.Store(&err)
	} else {
		trouble.Store(nil)
	}
	return pages
}
