//go:build unix && !linux

package child

import "syscall"

func setAttributes(a *syscall.SysProcAttr, _ syscall.Signal) { a.Setpgid = true }
