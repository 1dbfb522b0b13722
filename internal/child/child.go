// Package child starts processes that do not outlive this one.
package child

import (
	"os/exec"
	"runtime"
	"syscall"
)

// Start starts cmd in a process group of its own, so that Ctrl-C reaches this
// process alone. When this process dies, however it dies, the kernel sends the
// child the signal onDeath (Linux alone). ended is called once, with the result
// of cmd.Wait, when the child has ended. Start adds to cmd.SysProcAttr.
//
// The kernel takes the thread that started a child for its parent, and Go ends
// idle threads, so that thread stays, and waits for the child.
func Start(cmd *exec.Cmd, onDeath syscall.Signal, ended func(error)) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	setAttributes(cmd.SysProcAttr, onDeath)
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			ended(cmd.Wait())
		}
	}()
	return <-started
}
