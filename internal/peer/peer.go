// Package peer tells who is at the other end of a unix socket.
package peer

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// Check refuses a connection over a unix socket unless the process that listens
// at the other end is root's, this process's user's, or one of the others'.
func Check(conn net.Conn, others ...int) error {
	uid, err := UID(conn)
	if err != nil {
		return fmt.Errorf("asking whose socket it is: %w", err)
	}
	if !slices.Contains(append(others, 0, os.Geteuid()), uid) {
		return fmt.Errorf("a process of user %d listens there, and is not trusted", uid)
	}
	return nil
}

// UID returns the user of the process at the other end: of the one that
// listens, if conn was dialed.
func UID(conn net.Conn) (int, error) {
	socket, ok := conn.(syscall.Conn)
	if !ok || conn.RemoteAddr().Network() != "unix" {
		return 0, errors.New("not a unix socket")
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) { cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if failed != nil {
		return 0, failed
	}
	return int(cred.Uid), nil
}
