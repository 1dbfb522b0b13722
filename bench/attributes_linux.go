package main

import "syscall"

// childAttributes puts a child into a process group of its own, so that Ctrl-C
// reaches us alone, and has the kernel end it if we die.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
