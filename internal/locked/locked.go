package locked

import (
	"errors"
	"fmt"
	"runtime"
)

// Buffer is locked memory. Its zero value is empty. It is for one goroutine at
// a time; what prints it prints no secret. A copy is the same memory.
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
	// What Bytes returns does not keep the memory alive, since the collector
	// does not know of it. This does, whichever copy of the Buffer is left.
	all := take(n)
	memory := &struct{ bytes []byte }{all[:n:n]}
	runtime.AddCleanup(memory, giveBack, all)
	return &Buffer{kept: func() []byte { return memory.bytes }}
}

// Copy returns a Buffer with the bytes of secret, and overwrites secret.
func Copy(secret []byte) *Buffer {
	b := New(len(secret))
	copy(b.Bytes(), secret)
	clear(secret)
	runtime.KeepAlive(b)
	return b
}

// Bytes returns the memory itself, to read and write. The Buffer must outlive
// it: a call of Wipe after the last use, deferred for one, or runtime.KeepAlive
// makes sure. Otherwise the memory may be given to the next secret meanwhile.
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
func (b Buffer) String() string { return "[secret]" }

// Format writes String whatever the verb.
func (b Buffer) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(b.String())) }

// MarshalText refuses.
func (b Buffer) MarshalText() ([]byte, error) {
	return nil, errors.New("locked: a secret has no text form")
}

// GobEncode refuses.
func (b Buffer) GobEncode() ([]byte, error) { return b.MarshalText() }
