package locked

import (
	"errors"

	"golang.org/x/sys/unix"
)

// protect keeps pages in memory, out of core images and from child processes.
func protect(pages []byte) error {
	return errors.Join(
		unix.Mlock(pages),
		unix.Madvise(pages, unix.MADV_DONTDUMP),
		unix.Madvise(pages, unix.MADV_WIPEONFORK))
}
