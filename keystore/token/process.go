package token

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"onionbalancer/internal/child"
	"onionbalancer/internal/locked"
	"onionbalancer/internal/printable"
	"onionbalancer/keystore/token/internal/wire"
)

// process is a helper that runs. One goroutine at a time uses it.
type process struct {
	os     *os.Process
	conn   net.Conn
	number uint64      // of the last request
	pin    fingerprint // of the PIN it was given

	done chan struct{} // closed when it has ended and was waited for
	err  error         // how it ended; readable when done is closed
}

// startProcess starts a helper, which waits for its first request.
func startProcess(at pinTarget, pin fingerprint) (*process, error) {
	conn, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd := exec.Command(program())
	cmd.Args = []string{"balancer", HelperArgument}
	cmd.ExtraFiles = []*os.File{HelperDescriptor - 3: theirs}
	cmd.Env = helperEnvironment(os.Environ())
	pump := &pump{log: logging().With("token", at.selector.String()), pin: pin}
	cmd.Stdout, cmd.Stderr = pump, pump
	cmd.WaitDelay = limits.grace / 2 // should something that the module started hold the pipe
	p := &process{conn: conn, pin: pin, done: make(chan struct{})}
	err = child.Start(cmd, syscall.SIGKILL, func(status error) {
		p.err = status
		pump.flush()
		close(p.done)
	})
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("starting the helper process: %w", err)
	}
	p.os = cmd.Process
	return p, nil
}

// socketPair returns both ends of a stream socket: ours, and the helper's.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "helper"), os.NewFile(uintptr(fds[1]), "helper's end")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn, theirs, nil
}

// ended reports whether the process has ended.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// exchange sends a request and returns the answer. After an error the process
// is unusable.
func (p *process) exchange(ctx context.Context, request *Request, payload *locked.Buffer) (*Response, *locked.Buffer, error) {
	if err := p.conn.SetDeadline(time.Time{}); err != nil {
		return nil, nil, err
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = p.conn.SetDeadline(time.Unix(1, 0))
	})
	defer func() {
		if !stop() {
			<-interrupted
		}
	}()
	p.number++
	request.Number = p.number
	if err := wire.Write(p.conn, request, request.Data, payload); err != nil {
		return nil, nil, err
	}
	response := new(Response)
	data, secret, err := wire.Read(p.conn, response)
	response.Data = data
	switch {
	case err != nil:
	case response.Number != request.Number:
		err = fmt.Errorf("an answer to request %d, not %d", response.Number, request.Number)
	case response.Error == nil && !response.answers(request.Certify):
		err = fmt.Errorf("other certificates than those that were asked for, by %d files", len(request.Certify))
	case sizeOf(secret) != response.secretSize(request):
		err = fmt.Errorf("a secret of %d bytes, want %d", sizeOf(secret), response.secretSize(request))
	}
	for e := range response.errors() {
		if len(e.Text) > MaxText {
			err = fmt.Errorf("an error of %d bytes", len(e.Text))
		}
		// It has labels, and a module could make a helper say anything.
		e.Text = printable.Text(e.Text)
	}
	if err != nil {
		wipe(secret)
		return nil, nil, err
	}
	return response, secret, nil
}

func sizeOf(secret *locked.Buffer) int {
	if secret == nil {
		return 0
	}
	return secret.Len()
}

// end closes the socket, at which the helper ends by itself, kills it if it
// does not within grace, and waits until it is gone. A process that even then
// is not gone hangs in a driver; the goroutine that waits for it stays.
func (p *process) end(grace time.Duration) (gone bool) {
	p.conn.Close()
	if grace > 0 && p.wait(grace) {
		return true
	}
	_ = p.os.Kill() // does nothing if it has ended
	return p.wait(limits.grace)
}

func (p *process) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-p.done:
		return true
	case <-timer.C:
		return false
	}
}

// fate tells how the process ended.
func (p *process) fate() string {
	if !p.ended() {
		return "it could not be killed"
	}
	var exit *exec.ExitError
	switch {
	case p.err == nil:
		return "it ended without a word"
	case errors.As(p.err, &exit):
		return exit.String()
	}
	return p.err.Error()
}

// settings are variables of the helper's environment that keep its secrets from
// leaking, each added to the operator's settings.
var settings = map[string]string{
	// Memory freed by C code is overwritten: modules do not wipe everything that they
	// decrypted.
	"GLIBC_TUNABLES": "glibc.malloc.perturb=165:glibc.malloc.tcache_count=0",
	// Goroutines are preempted only at function calls. Elsewhere the
	// registers of the interrupted code, which may hold a part of a secret, are
	// saved in memory that is never wiped.
	"GODEBUG": "asyncpreemptoff=1",
}

// program returns the program to execute. Tests change it.
var program = executable

// executable is this program, even if its file was replaced since.
func executable() string {
	if _, err := os.Stat("/proc/self/exe"); err == nil {
		return "/proc/self/exe"
	}
	path, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return path
}

// helperEnvironment is ours, since modules are configured by variables, and the
// settings.
func helperEnvironment(ours []string) []string {
	separator := map[string]string{"GLIBC_TUNABLES": ":", "GODEBUG": ","}
	env := slices.Clone(ours)
	for name, value := range settings {
		i := slices.IndexFunc(env, func(v string) bool { return strings.HasPrefix(v, name+"=") })
		switch {
		case i < 0:
			env = append(env, name+"="+value)
		case env[i] == name+"=":
			env[i] += value
		default:
			env[i] += separator[name] + value
		}
	}
	return env
}

// Bounds of what a module may say in the log.
const (
	maxLine  = 400 // bytes of a line
	maxLines = 200 // of one helper
)

// logger is that of LogTo.
var logger atomic.Pointer[slog.Logger]

// LogTo has all tokens of this process log to log: that a helper ended, and at
// debug level a module's standard output and error. Without it,
// nothing is logged.
func LogTo(log *slog.Logger) { logger.Store(log) }

func logging() *slog.Logger {
	if log := logger.Load(); log != nil {
		return log
	}
	return slog.New(slog.DiscardHandler)
}

// pump logs a helper's standard output and error, to help find
// errors of a module. One goroutine uses it.
type pump struct {
	log   *slog.Logger
	pin   fingerprint
	line  []byte
	lines int
	trace bool // the Go runtime's trace has begun
}

// Write takes any part of the text. It never fails.
func (p *pump) Write(text []byte) (int, error) {
	n := len(text)
	for len(text) > 0 {
		part, rest, found := bytes.Cut(text, []byte("\n"))
		if room := maxLine - len(p.line); room > 0 {
			p.line = append(p.line, part[:min(room, len(part))]...)
		}
		if found {
			p.flush()
		}
		text = rest
	}
	return n, nil
}

// flush logs the line that was begun.
func (p *pump) flush() {
	line := p.line
	p.line = nil
	if len(line) == 0 || p.trace || p.lines > maxLines || !p.log.Enabled(context.Background(), slog.LevelDebug) {
		clear(line)
		return
	}
	if p.lines++; p.lines > maxLines {
		p.log.Debug("a helper for a token says more than is logged")
		return
	}
	// A trace has arguments and registers, in which there may be secrets.
	p.trace = bytes.HasPrefix(line, []byte("goroutine "))
	switch {
	case p.trace:
		p.log.Debug("a helper for a token crashed; the trace is left out")
	case p.pin.within(line):
		p.log.Debug("a helper for a token wrote the PIN; the line is left out")
	default:
		p.log.Debug("a helper for a token says", "text", strings.ToValidUTF8(string(line), "\uFFFD"))
	}
	clear(line)
}
