// Package locked keeps secrets in memory of their own: pages that are never
// swapped out, are left out of core images, do not pass to child processes, and
// are overwritten when they are let go.
//
// The garbage collector knows nothing of these pages and never copies them.
// What arithmetic on a secret leaves behind on the stack, in registers and on
// the heap is not in them; Do erases that, in programs built with the Go
// experiment runtimesecret.
package locked

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Buffer is locked memory. Its zero value is empty. It is for one goroutine at
// a time; what prints it prints no secret.
type Buffer struct {
	kept func() []byte // behind a closure, where printing does not look
}

// trouble is why memory could not be locked, if so.
var trouble atomic.Pointer[error]

// Trouble returns why the last memory that was asked for could not be protected
// as it should, or nil: the limit of locked memory (RLIMIT_MEMLOCK) is too low.
// Secrets are kept all the same, in memory that may be swapped out.
func Trouble() error {
	if err := trouble.Load(); err != nil {
		return *err
	}
	return nil
}

// New returns n zero bytes of locked memory, in whole pages of their own. It
// panics if the system has no memory left at all, as make does. The pages live
// until the Buffer is unreachable, but Wipe should be called before.
func New(n int) *Buffer {
	if n <= 0 {
		return &Buffer{}
	}
	size := (n + os.Getpagesize() - 1) &^ (os.Getpagesize() - 1)
	pages, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		panic(fmt.Sprintf("locked: no memory for a secret of %d bytes: %v", n, err))
	}
	if err := protect(pages); err != nil {
		err = fmt.Errorf("locking the memory of secrets: %w", err)
		trouble.Store(&err)
	} else {
		trouble.Store(nil)
	}
	bytes := pages[:n:n]
	b := &Buffer{kept: func() []byte { return bytes }}
	runtime.AddCleanup(b, release, pages)
	return b
}

// protect keeps pages in memory, out of core images and from child processes.
func protect(pages []byte) error {
	return errors.Join(
		unix.Mlock(pages),
		unix.Madvise(pages, unix.MADV_DONTDUMP),
		unix.Madvise(pages, unix.MADV_WIPEONFORK))
}

func release(pages []byte) {
	clear(pages)
	_ = unix.Munmap(pages) // nothing can be done about it
}

// Copy returns a Buffer with the bytes of secret, and overwrites secret.
func Copy(secret []byte) *Buffer {
	b := New(len(secret))
	copy(b.Bytes(), secret)
	clear(secret)
	return b
}

// Bytes returns the memory itself, to read and write. It must not be used after
// the Buffer has become unreachable: keep the Buffer, and runtime.KeepAlive it.
func (b *Buffer) Bytes() []byte {
	if b.kept == nil {
		return nil
	}
	return b.kept()
}

// Len returns the size in bytes.
func (b *Buffer) Len() int { return len(b.Bytes()) }

// Wipe overwrites the memory with zeros. The Buffer may be used again.
func (b *Buffer) Wipe() {
	clear(b.Bytes())
	runtime.KeepAlive(b)
}

// String keeps the secret from being shown.
func (b *Buffer) String() string { return "[secret]" }

// Format writes String whatever the verb.
func (b *Buffer) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(b.String())) }

// MarshalText refuses.
func (b *Buffer) MarshalText() ([]byte, error) {
	return nil, errors.New("locked: a secret has no text form")
}
