package advice

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"onionbalancer/internal/child"
	"onionbalancer/internal/printable"
)

// Limits of one run of a program.
const (
	deadline    = 5 * time.Second
	maxQuestion = 8 << 20 // bytes; 200 instances with 20 points each have one megabyte
	maxAnswer   = 1 << 20 // bytes
	maxReason   = 200     // bytes of the first line of its standard error
	// linger is how long the output of a program that has ended may be held open by
	// processes that it left behind.
	linger = 200 * time.Millisecond
	// atOnce is how many programs run at once, of all services: each takes a thread
	// of ours, and Go ends a process with 10,000 of them.
	atOnce = 16
)

// running holds a token for each program that runs.
var running = make(chan struct{}, atOnce)

// CheckFile returns an error if path is no program. Whether others can change it is not
// looked at.
func CheckFile(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return fmt.Errorf("looking at the strategy's program: %w", err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("the strategy's program %s is no regular file", path)
	case info.Mode()&0o111 == 0:
		return fmt.Errorf("the strategy's program %s is not executable: run: chmod +x it", path)
	}
	return nil
}

// Run asks a program a question. The program has no arguments, no environment but PATH,
// no open files but the three standard ones, / for its working directory, and 5 seconds.
// If we are root, it runs as nobody. Whatever it left in its process group is killed at
// the end. While many others run it waits, and the 5 seconds begin afterwards.
func Run(ctx context.Context, program string, q Question) (Answer, error) {
	a, err := ask(ctx, program, &q)
	if err != nil {
		return Answer{}, fmt.Errorf("asking %s: %w", program, err)
	}
	return a, nil
}

func ask(ctx context.Context, program string, q *Question) (Answer, error) {
	question, err := json.Marshal(q)
	if err != nil {
		return Answer{}, err
	}
	if len(question) > maxQuestion {
		return Answer{}, fmt.Errorf("the question has %d bytes, at most %d are asked", len(question), maxQuestion)
	}
	text, err := call(ctx, program, append(question, '\n'), deadline)
	if err != nil {
		return Answer{}, err
	}
	return parseAnswer(text, q)
}

var errTooLong = fmt.Errorf("its answer has more than %d bytes", maxAnswer)

// call runs a program with the given input, and returns its output.
func call(ctx context.Context, program string, input []byte, deadline time.Duration) ([]byte, error) {
	select {
	case running <- struct{}{}:
		defer func() { <-running }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(deadline, func() { cancel(fmt.Errorf("no answer within %s", deadline)) })
	defer timer.Stop()
	cmd := exec.CommandContext(ctx, program)
	cmd.Dir, cmd.Env = "/", []string{"PATH=" + os.Getenv("PATH")}
	output, reason := limited{most: maxAnswer, over: func() { cancel(errTooLong) }}, limited{most: maxReason}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &output, &reason
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: unprivileged()}
	cmd.Cancel = func() error { return killGroup(cmd) }
	cmd.WaitDelay = linger
	// Go opens files for us alone; others may have left some open when they started us.
	// (Linux before 5.11 cannot.)
	_ = unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC)
	ended := make(chan error, 1)
	if err := child.Start(cmd, syscall.SIGKILL, func(err error) { ended <- err }); err != nil {
		return nil, err
	}
	err := <-ended
	_ = killGroup(cmd) // what it left behind; mostly there is nothing
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return nil, cause
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil, errors.New("it has ended, and left processes behind that hold its output open")
	}
	if line, _, _ := strings.Cut(strings.TrimSpace(string(reason.kept)), "\n"); err != nil && line != "" {
		return nil, fmt.Errorf("%w: %s", err, printable.Text(strings.ToValidUTF8(line, "")))
	}
	return output.kept, err
}

// killGroup kills all processes of a program's group, which the program leads.
func killGroup(cmd *exec.Cmd) error {
	err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// unprivileged returns whom to run a program as: nobody, if we are root; else nil, for
// ourselves.
func unprivileged() *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	const overflow = 65534 // nobody's number where there is no such name
	id := func(text string) uint32 {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil || n == 0 {
			return overflow
		}
		return uint32(n)
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		nobody = new(user.User)
	}
	return &syscall.Credential{Uid: id(nobody.Uid), Gid: id(nobody.Gid)}
}

// limited keeps the first bytes that are written to it. (It embeds no bytes.Buffer: that
// reads by itself, as much as there is.)
type limited struct {
	kept []byte
	most int
	over func() // called when there are more; nil if more are of no interest
}

func (l *limited) Write(p []byte) (int, error) {
	fits := min(len(p), l.most-len(l.kept))
	l.kept = append(l.kept, p[:fits]...)
	if fits < len(p) && l.over != nil {
		l.over()
		return fits, errTooLong
	}
	return len(p), nil
}
