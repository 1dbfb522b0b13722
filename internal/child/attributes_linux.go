package child

import "syscall"

func setAttributes(a *syscall.SysProcAttr, onDeath syscall.Signal) {
	a.Setpgid, a.Pdeathsig = true, onDeath
}
