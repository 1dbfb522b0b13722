package descriptor

import (
	"unsafe"

	"onionbalancer/internal/locked"
)

// guarded is a secret in locked memory, where the garbage collector does not
// look. So T holds no pointers.
type guarded[T any] struct{ memory *locked.Buffer }

// guard moves a secret to locked memory and overwrites where it came from.
func guard[T any](secret *T) guarded[T] {
	g := guarded[T]{locked.New(int(unsafe.Sizeof(*secret)))}
	g.use(func(kept *T) { *kept = *secret })
	*secret = *new(T)
	return g
}

// use hands the secret to f, which does not keep it, and erases what f leaves
// on the stack, in registers and, once it is collected, on the heap.
func (g guarded[T]) use(f func(*T)) {
	g.memory.Do(func(secret []byte) { f((*T)(unsafe.Pointer(unsafe.SliceData(secret)))) })
}

// wipe overwrites the secret with zeros. It may be used all the same.
func (g guarded[T]) wipe() { g.memory.Wipe() }
