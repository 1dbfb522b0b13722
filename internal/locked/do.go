//go:build goexperiment.runtimesecret

package locked

import "runtime/secret"

// Erases says whether Do erases secrets.
const Erases = true

// Do calls f, and then erases the registers and the stack that f used, and its
// allocations as soon as they are collected. f starts no goroutine and keeps
// no secret in its results except in a Buffer made before.
func Do(f func()) { secret.Do(f) }
