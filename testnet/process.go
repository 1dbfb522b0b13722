package testnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cretz/bine/control"
	"golang.org/x/sys/unix"
)

// stopGrace is how long a tor may take to leave after SIGINT before it is
// killed. Relays would wait for their clients, but ShutdownWaitLength is 0.
const stopGrace = 3 * time.Second

// errPortTaken says that another program was quicker to listen on a port.
var errPortTaken = errors.New("a port was taken by another program")

// process is one running tor. A process that was killed or has crashed is
// never started again; its node starts another one.
type process struct {
	name  string
	dir   string
	cmd   *exec.Cmd
	owner net.Conn // our end of the socket pair that keeps tor alive

	commands sync.Mutex // serialises use of conn, which only bears one command at a time
	conn     *control.Conn

	exited  chan struct{} // closed once tor is gone and has been waited for
	err     error         // why it ended; read after exited is closed
	settled chan struct{} // closed once relays have passed on that it is gone

	wg sync.WaitGroup // the goroutines below
}

// startProcess runs tor with the torrc in dir, and returns when tor has taken
// its configuration over: keys and host names exist then, listeners are bound.
// onEvent is called from one goroutine, with one event at a time, until tor
// has gone; it may be called before startProcess returns. group is the group that
// it runs under, 0 for ours.
func startProcess(ctx context.Context, binary, name, dir string, group uint32, onEvent func(control.Event)) (*process, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("starting tor %q: %w", name, err)
	}
	defer theirs.Close()
	output, err := os.OpenFile(filepath.Join(dir, "output.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("starting tor %q: %w", name, err)
	}
	defer output.Close()

	cmd := exec.Command(binary, "-f", filepath.Join(dir, "torrc"),
		"--defaults-torrc", filepath.Join(dir, "no-defaults"), "--ignore-missing-torrc",
		"__OwningControllerProcess", strconv.Itoa(os.Getpid()),
		"__OwningControllerFD", "3") // the first of ExtraFiles
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = output, output
	cmd.ExtraFiles = []*os.File{theirs}
	// A group of its own: Ctrl-C at a terminal is for us, who end the
	// processes in order, not for the whole flock at once.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if group != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(os.Getuid()), Gid: group}
	}
	if err := cmd.Start(); err != nil {
		ours.Close()
		return nil, fmt.Errorf("starting tor %q: %w", name, err)
	}

	p := &process{name: name, dir: dir, cmd: cmd, owner: ours, exited: make(chan struct{}), settled: make(chan struct{})}
	p.wg.Go(func() {
		p.err = cmd.Wait()
		close(p.exited)
		ours.Close()
	})
	if err := p.listen(ctx, onEvent); err != nil {
		p.kill()
		log := logTail(dir)
		if bytes.Contains(log, []byte("Address already in use")) {
			err = errPortTaken
		}
		return nil, fmt.Errorf("starting tor %q: %w\n%s", name, err, log)
	}
	return p, nil
}

// listen subscribes to the few events the package waits for, over the socket
// pair, which tor takes for an authenticated control connection.
func (p *process) listen(ctx context.Context, onEvent func(control.Event)) error {
	if deadline, ok := ctx.Deadline(); ok {
		p.owner.SetDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { p.owner.SetDeadline(time.Unix(1, 0)) })
	p.conn = control.NewConn(textproto.NewConn(p.owner))
	events := make(chan control.Event, 64)
	err := p.conn.AddEventListener(events, control.EventCodeStatusClient, control.EventCodeHSDesc)
	if !stop() || err != nil {
		return errors.Join(ctx.Err(), err)
	}
	p.owner.SetDeadline(time.Time{})
	p.wg.Go(func() {
		defer close(events)
		for p.conn.HandleNextEvent() == nil {
		}
	})
	p.wg.Go(func() {
		for event := range events {
			onEvent(event)
		}
	})
	return nil
}

// command sends one line to tor and returns its reply.
func (p *process) command(line string) (string, error) {
	p.commands.Lock()
	defer p.commands.Unlock()
	response, err := p.conn.SendRequest("%s", line)
	if err != nil {
		return "", err
	}
	return response.Reply, nil
}

// info asks tor for a value of one line; empty if tor has none.
func (p *process) info(key string) string {
	p.commands.Lock()
	defer p.commands.Unlock()
	response, err := p.conn.SendRequest("GETINFO %s", key)
	if err != nil || len(response.Data) == 0 {
		return ""
	}
	_, value, _ := strings.Cut(response.Data[0], "=")
	return value
}

// pid is the process number of tor.
func (p *process) pid() int { return p.cmd.Process.Pid }

// running says whether tor is still there.
func (p *process) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// interrupt asks tor to leave.
func (p *process) interrupt() { p.cmd.Process.Signal(syscall.SIGINT) }

// kill ends tor at once and waits until it is gone.
func (p *process) kill() {
	p.cmd.Process.Kill()
	p.wg.Wait()
}

// stop asks tor to leave, kills it after stopGrace, and waits until it is gone.
func (p *process) stop() {
	p.interrupt()
	timer := time.AfterFunc(stopGrace, func() { p.cmd.Process.Kill() })
	defer timer.Stop()
	p.wg.Wait()
}

// socketPair returns two connected Unix sockets: one for us, and one to hand
// to a child.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "owner"), os.NewFile(uintptr(fds[1]), "owned")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	return conn, theirs, nil
}

// broadcast wakes everyone who waits for a change of the network.
type broadcast struct {
	mu sync.Mutex
	ch chan struct{}
}

// wait returns a channel that the next notify closes.
func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

// notify wakes those who wait.
func (b *broadcast) notify() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}

// until waits for a condition, which it looks at after every event of any tor
// and, for what no event tells, every poll. A tor that has ended by itself
// ends the wait.
func (n *Network) until(ctx context.Context, poll time.Duration, condition func() (bool, error)) error {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		changed := n.changed.wait()
		if ok, err := condition(); ok || err != nil {
			return err
		}
		if err := n.crashed(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-n.stopped:
			return ErrStopped
		case <-changed:
		case <-ticker.C:
		}
	}
}
