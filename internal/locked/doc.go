// Package locked keeps secrets in memory of their own: pages that are never
// swapped out, are left out of core images, do not pass to child processes, and
// are overwritten when they are let go.
//
// The garbage collector knows nothing of these pages and never copies them.
// What arithmetic on a secret leaves behind on the stack, in registers and on
// the heap is not in them; Do erases that, in programs built with the Go
// experiment runtimesecret.
package locked
