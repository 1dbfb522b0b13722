//go:build goexperiment.runtimesecret

package locked

import "runtime/secret"

// Erases says whether Do erases what it says.
const Erases = true

// Do calls f, and then erases the registers and the stack that f used, and what
// it allocated as soon as that is collected. f starts no goroutine and keeps
// nothing secret in what it returns but in a Buffer made before.
func Do(f func()) { secret.Do(f) }
