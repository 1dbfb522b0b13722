//go:build !goexperiment.runtimesecret

package locked

// Erases says whether Do erases what it says.
const Erases = false

// Do calls f: this program was built without the Go experiment runtimesecret,
// so that what f left on the stack stays there until it is overwritten.
func Do(f func()) { f() }
