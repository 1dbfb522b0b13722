//go:build !goexperiment.runtimesecret

package locked

// Erases says whether Do erases secrets.
const Erases = false

// Do calls f: this program was built without the Go experiment runtimesecret,
// so that traces of f stay on the stack until they are overwritten.
func Do(f func()) { f() }
