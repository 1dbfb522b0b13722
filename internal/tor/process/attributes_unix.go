//go:build unix && !linux

package process

import "syscall"

// attributes puts tor into a process group of its own, so that Ctrl-C reaches
// us alone and we take it down in order.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
