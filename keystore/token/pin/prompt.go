package pin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"onionbalancer/internal/locked"
	"onionbalancer/internal/printable"
)

// prompt asks for the PIN of the token called name on the terminal that
// controls this process. What is typed is not shown.
func prompt(ctx context.Context, name string) (*locked.Buffer, error) {
	// A descriptor that does not block can be given up on when ctx ends.
	fd, err := unix.Open("/dev/tty", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("there is no terminal to ask on (%w); a service takes its PIN from a file or credential", err)
	}
	tty := os.NewFile(uintptr(fd), "/dev/tty")
	defer tty.Close()
	// The terminal stops a process in the background that changes its settings.
	if group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP); err != nil || group != unix.Getpgrp() {
		return nil, errors.New("this program runs in the background, where nobody can be asked")
	}
	restore, err := hideTyping(fd)
	if err != nil {
		return nil, fmt.Errorf("hiding what is typed: %w", err)
	}
	defer restore()
	if _, err := fmt.Fprintf(tty, "PIN of %s: ", printable.Text(name)); err != nil {
		return nil, err
	}
	defer fmt.Fprintln(tty)
	stop := context.AfterFunc(ctx, func() { _ = tty.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()

	b := locked.New(room)
	n, err := tty.Read(b.Bytes()) // one line
	if err != nil {
		b.Wipe()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("nothing was entered: %w", err)
	}
	return trim(b, n)
}

// hideTyping turns the terminal's echo off. Both ways, what was typed and not
// read is dropped.
func hideTyping(fd int) (restore func(), err error) {
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	hidden := *before
	hidden.Lflag &^= unix.ECHO | unix.ECHOE | unix.ECHOK | unix.ECHONL
	hidden.Lflag |= unix.ICANON | unix.ISIG
	hidden.Iflag |= unix.ICRNL
	if err := unix.IoctlSetTermios(fd, unix.TCSETSF, &hidden); err != nil {
		return nil, err
	}
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETSF, before) }, nil
}
