//go:build cgo

package module

import (
	"runtime"
	"sync"
)

// work is for the one thread of this process that calls modules.
var work = sync.OnceValue(func() chan<- func() {
	functions := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range functions {
			f()
		}
	}()
	return functions
})

// onThread calls f on that thread, of which modules see no other, for some are
// careless about threads. It panics if f does. f does not call onThread.
//
// What is more, runtime/secret does not hold there, whoever called: Go 1.26
// crashes when C is called inside of secret.Do, which erases registers that the
// call is about to need (golang.org/issue/78999). What f keeps secret it has to
// keep in locked memory, or give to locked.Do itself.
func onThread(f func()) {
	done := make(chan any)
	work() <- func() {
		defer func() { done <- recover() }()
		f()
	}
	if panicked := <-done; panicked != nil {
		panic(panicked)
	}
}
