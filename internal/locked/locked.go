// Package locked keeps secrets in memory of their own: pages that are never
// swapped out, are left out of core images, do not pass to child processes, and
// are overwritten when they are released.
//
// The garbage collector knows nothing of these pages and never copies them.
// Traces of arithmetic on a secret on the stack, in registers and on
// the heap are not in them; Do erases those, in programs built with the Go
// experiment runtimesecret.
package locked

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Buffer is locked memory. Its zero value is empty. It is for one goroutine at
// a time; printing it shows no secret. A copy is the same memory.
type Buffer struct {
	kept func() []byte // behind a closure, where printing does not look
}

// New returns n zero bytes of locked memory. It panics if the system has no
// memory left at all, as make does. The memory lives until the Buffer and its
// copies are unreachable, but Wipe should be called before.
func New(n int) *Buffer {
	if n <= 0 {
		return &Buffer{}
	}
	all := take(n)
	memory := &struct{ bytes []byte }{all[:n:n]}
	runtime.AddCleanup(memory, giveBack, all)
	return &Buffer{kept: func() []byte { return memory.bytes }}
}

// Copy returns a Buffer with the bytes of secret, and overwrites secret.
func Copy(secret []byte) *Buffer {
	b := New(len(secret))
	b.Use(func(kept []byte) { copy(kept, secret) })
	clear(secret)
	return b
}

// Use calls f with the memory itself, to read and write, which f must not keep.
// The memory stays this Buffer's until f returns, even if nothing else refers to
// the Buffer any more: the garbage collector does not see that a slice refers to
// it, and would give it to the next secret meanwhile.
func (b *Buffer) Use(f func(secret []byte)) {
	if b.kept == nil {
		f(nil)
		return
	}
	kept := b.kept
	defer runtime.KeepAlive(kept)
	f(kept())
}

// Do is Use within the function Do: f may compute with the secret, and its
// traces are erased.
func (b *Buffer) Do(f func(secret []byte)) { b.Use(func(secret []byte) { Do(func() { f(secret) }) }) }

// Fill reads from r until the Buffer is full. Errors are those of io.ReadFull.
func (b *Buffer) Fill(r io.Reader) (n int, err error) {
	b.Use(func(secret []byte) { n, err = io.ReadFull(r, secret) })
	return n, err
}

// Clone returns a new Buffer with the same bytes.
func (b *Buffer) Clone() *Buffer {
	other := New(b.Len())
	b.Use(func(secret []byte) { other.Use(func(kept []byte) { copy(kept, secret) }) })
	return other
}

// Equal reports in constant time whether both hold the same bytes.
func (b *Buffer) Equal(other *Buffer) (same bool) {
	b.Use(func(x []byte) { other.Use(func(y []byte) { same = subtle.ConstantTimeCompare(x, y) == 1 }) })
	return same
}

// Len returns the size in bytes.
func (b *Buffer) Len() (n int) {
	b.Use(func(secret []byte) { n = len(secret) })
	return n
}

// Wipe overwrites the memory with zeros. The Buffer may be used again.
func (b *Buffer) Wipe() { b.Use(func(secret []byte) { clear(secret) }) }

// String keeps the secret from being shown.
func (b Buffer) String() string { return "[secret]" }

// Format writes String for all verbs.
func (b Buffer) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(b.String())) }

// MarshalText refuses.
func (b Buffer) MarshalText() ([]byte, error) {
	return nil, errors.New("locked: a secret has no text form")
}

// GobEncode refuses.
func (b Buffer) GobEncode() ([]byte, error) { return b.MarshalText() }

// slotSize is enough for any key. Small secrets share pages, for the system
// limits how much memory a process may lock, to 8 MiB or to less.
const slotSize = 128

// slots holds the zeroed slots that are free. Their pages stay mapped.
var slots struct {
	sync.Mutex
	free [][]byte
}

// trouble is why memory could not be locked, if so.
var trouble atomic.Pointer[error]

// Trouble returns why memory could not be protected when it was
// last mapped, or nil: the limit of locked memory (RLIMIT_MEMLOCK) is too low.
// Secrets are then kept in memory that may be swapped out.
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

// giveBack overwrites memory returned by take, for its next user or for good.
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

// CollectDelay is how long traces of Do may stay on the heap after
// CollectSoon. Tests make it shorter, before anything else.
var CollectDelay = 5 * time.Second

// collectAt is when the requested collection is due, in nanoseconds.
var collectAt atomic.Int64

// CollectSoon has the garbage collector run within CollectDelay, and returns at
// once.
//
// Allocations of functions called by Do are erased when they are collected, and Go
// promises no more than one collection in two minutes to a program that idles.
// So code that has used a secret requests one. It costs a few milliseconds of a
// core, which is nothing once a day, and too much for each of thousands of
// services whose period changes in the same second: requests within
// five seconds share one collection.
func CollectSoon() {
	if !Erases {
		return
	}
	now := time.Now().UnixNano()
	due := collectAt.Load()
	// A due time further ahead is from before the clock was set back.
	if now < due && due <= now+int64(CollectDelay) {
		return
	}
	if collectAt.CompareAndSwap(due, now+int64(CollectDelay)) {
		time.AfterFunc(CollectDelay, runtime.GC)
	}
}
