package control

import (
	"cmp"

	"golang.org/x/sys/unix"
)

// listener returns the user of the process at the other end, as the kernel noted
// when that began to listen.
func listener(conn socketConn) (uid int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	failed := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if failed != nil || err != nil {
		return 0, cmp.Or(failed, err)
	}
	return int(cred.Uid), nil
}
