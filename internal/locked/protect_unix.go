//go:build unix && !linux

package locked

import "golang.org/x/sys/unix"

// protect keeps pages in memory.
func protect(pages []byte) error { return unix.Mlock(pages) }
