package process

import "syscall"

// attributes puts tor into a process group of its own, so that Ctrl-C reaches
// us alone and we take it down in order, and has the kernel end it if we die.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
