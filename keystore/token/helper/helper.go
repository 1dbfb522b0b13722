// Package helper is the process that package token starts: it takes requests from
// a socket, has a PKCS #11 module carry them out, and answers, until its parent
// closes the socket.
//
// Operations with an identity key happen here: the token unwraps the data key, the
// sealed file is opened, used and wiped, and only a certificate, a signature or
// the key of a period's revision counters goes back. A caller that needs the
// identity key itself gets it by unseal.
package helper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"onionbalancer/keystore/token"
)

// ErrByHand is returned when this process was not started by package token.
var ErrByHand = errors.New("balancer starts this itself, to run PKCS #11 modules in a separate process; it cannot be run by hand")

// Run serves the socket that the process was started with, by PKCS #11 modules
// if this program was built with them.
func Run(ctx context.Context) error { return RunWith(ctx, load) }

// RunWith serves by modules that load loads.
func RunWith(ctx context.Context, load func(path string) (Module, error)) error {
	conn, err := socket()
	if err != nil {
		return err
	}
	protect()
	// What ends a service ends all its processes at once. This one is needed
	// until its parent is done, and ends when the socket does.
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE)
	if err := serve(ctx, conn, load); err != nil {
		return fmt.Errorf("serving requests for a token: %w", err)
	}
	return nil
}

// socket takes over the descriptor that package token hands over.
func socket() (net.Conn, error) {
	domain, err := unix.GetsockoptInt(token.HelperDescriptor, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil || domain != unix.AF_UNIX {
		return nil, ErrByHand
	}
	file := os.NewFile(token.HelperDescriptor, "socket")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, fmt.Errorf("taking over the socket: %w", err)
	}
	return conn, nil
}

// protect keeps this process's memory from debuggers and core images.
// A kernel that refuses leaves things as they were. (That the kernel ends this
// process with its parent was arranged when it was started.)
func protect() {
	// While the files of the process are still its own user's: the name in ps.
	_ = os.WriteFile("/proc/self/comm", []byte("balancer-pkcs11"), 0)
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}
