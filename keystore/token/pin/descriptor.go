package pin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"onionbalancer/internal/locked"
)

const (
	// maxDescriptor is beyond what a service manager hands over.
	maxDescriptor = 1 << 16

	// checkEvery is how often a wait for a descriptor looks at its context.
	checkEvery = 100 * time.Millisecond
)

// Claim keeps the descriptor of an fd:N source from passing on to child
// processes, until it is read. It is to be called before any is started, and
// does nothing for other sources.
func (s Source) Claim() {
	if s.kind == kindDescriptor {
		fd, _ := strconv.Atoi(s.value) // parse has read it
		claim(fd)
	}
}

// claim tells whether fd was inherited. What this program opened itself is
// closed when it executes another; what was open when it was executed is not.
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
	defer runtime.KeepAlive(b)
	n, err := readToEnd(ctx, fd, b.Bytes())
	claimed.Store(fd, false) // after a failure, too: what was read is lost
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
