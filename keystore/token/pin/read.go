package pin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"onionbalancer/internal/locked"
	"onionbalancer/internal/openfile"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/strictmodes"
)

func readCredential(source string) (*locked.Buffer, error) {
	path, err := openfile.Resolve(source)
	if err != nil {
		return nil, err
	}
	return readFile(path)
}

// readFile reads a file that only this process's user and root can use.
func readFile(path string) (*locked.Buffer, error) {
	f, _, err := openfile.Secret(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := strictmodes.Current().Secret(path, f); err != nil {
		return nil, err
	}
	b := locked.New(room)
	n, err := b.Fill(f)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		b.Wipe()
		return nil, err
	}
	return trim(b, n)
}

// isCredential reports whether path is in systemd's directory of credentials.
func isCredential(path string) bool {
	dir := os.Getenv(openfile.CredentialsDirectory)
	return filepath.IsAbs(dir) && strings.HasPrefix(filepath.Clean(path), filepath.Clean(dir)+"/")
}

const (
	// maxDescriptor is more than a service manager passes on.
	maxDescriptor = 1 << 16

	// checkEvery is how often a wait for a descriptor looks at its context.
	checkEvery = 100 * time.Millisecond
)

// Claim keeps the descriptor of an fd:N source from being inherited by child
// processes, until it is read. It must be called before any is started, and
// does nothing for other sources.
func (s Source) Claim() {
	if s.kind == kindDescriptor {
		fd, _ := strconv.Atoi(s.value) // parse has read it
		claim(fd)
	}
}

// claim reports whether fd was inherited. Descriptors that this program opened itself are
// closed on exec; inherited ones are not.
func claim(fd int) (inherited bool) {
	if known, ok := claimed.Load(fd); ok {
		return known.(bool)
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	inherited = err == nil && flags&unix.FD_CLOEXEC == 0
	if inherited && fd > 2 {
		unix.CloseOnExec(fd)
	}
	known, _ := claimed.LoadOrStore(fd, inherited)
	return known.(bool)
}

// readDescriptor reads an inherited descriptor until its end, and closes it.
func readDescriptor(ctx context.Context, number string) (*locked.Buffer, error) {
	fd, err := strconv.Atoi(number)
	if err != nil {
		return nil, err
	}
	if !claim(fd) {
		return nil, errors.New("no such descriptor was handed to this program when it was started")
	}
	b := locked.New(room)
	n := 0
	b.Use(func(text []byte) { n, err = readToEnd(ctx, fd, text) })
	claimed.Store(fd, false) // after a failure, too: bytes read are lost
	if fd > 2 {
		_ = unix.Close(fd)
	}
	if err != nil {
		b.Wipe()
		return nil, err
	}
	return trim(b, n)
}

// readToEnd reads until fd ends or b is full, which is too much for a PIN.
func readToEnd(ctx context.Context, fd int, b []byte) (n int, err error) {
	for n < len(b) {
		if ctx.Err() != nil {
			return n, fmt.Errorf("waiting for its end: %w", context.Cause(ctx))
		}
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(checkEvery/time.Millisecond))
		if errors.Is(err, unix.EINTR) || err == nil && ready == 0 {
			continue
		}
		if err != nil {
			return n, os.NewSyscallError("poll", err)
		}
		got, err := unix.Read(fd, b[n:])
		switch {
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN):
		case err != nil:
			return n, os.NewSyscallError("read", err)
		case got == 0:
			return n, nil
		default:
			n += got
		}
	}
	return n, nil
}

// prompt asks for the PIN of the token called name on the terminal that
// controls this process. Typed input is not shown.
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
		return nil, errors.New("this program runs in the background and cannot prompt")
	}
	restore, err := hideTyping(fd)
	if err != nil {
		return nil, fmt.Errorf("hiding typed input: %w", err)
	}
	defer restore()
	if _, err := fmt.Fprintf(tty, "PIN of %s: ", printable.Text(name)); err != nil {
		return nil, err
	}
	defer fmt.Fprintln(tty)
	stop := context.AfterFunc(ctx, func() { _ = tty.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()

	b := locked.New(room)
	n := 0
	b.Use(func(text []byte) { n, err = tty.Read(text) }) // one line
	if err != nil {
		b.Wipe()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("nothing was entered: %w", err)
	}
	return trim(b, n)
}

// hideTyping turns the terminal's echo off. Before and after, typed and unread
// input is dropped.
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
