package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// child is one tor process, from its start to its end.
type child struct {
	pid    int
	opened chan struct{} // closed when its control port is open
	exited chan struct{} // closed when it is gone and its output read
	log    *torLog
	signal func(os.Signal) error
	status error // of Wait; set before exited is closed
}

// launch starts tor.
func launch(cfg Config, f *files) (*child, error) {
	cmd := exec.Command(cfg.Binary, "-f", f.torrc, "--defaults-torrc", f.defaults)
	cmd.Dir = f.dir
	cmd.Env = environment(os.Environ())
	cmd.SysProcAttr = attributes()
	out, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe for tor's log: %w", err)
	}
	cmd.Stdout, cmd.Stderr = in, in
	c := &child{opened: make(chan struct{}), exited: make(chan struct{})}
	c.log = &torLog{log: cfg.Log, opened: sync.OnceFunc(func() { close(c.opened) })}
	started := make(chan error)
	go c.run(cmd, out, started)
	err = <-started
	_ = in.Close()
	if err != nil {
		_ = out.Close()
		return nil, fmt.Errorf("running %s: %w", cfg.Binary, err)
	}
	return c, nil
}

// run starts the process and waits for it, both on one thread that it keeps:
// the kernel's signal at a parent's death goes by the thread that started the
// child, and an idle thread of Go's may end at any time.
func (c *child) run(cmd *exec.Cmd, out *os.File, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		started <- err
		return
	}
	c.pid, c.signal = cmd.Process.Pid, cmd.Process.Signal
	var reading sync.WaitGroup
	reading.Go(func() { c.log.read(out) })
	started <- nil
	c.status = cmd.Wait()
	// What tor started in its turn (a pluggable transport) may hold the pipe.
	_ = out.SetReadDeadline(time.Now().Add(time.Second))
	reading.Wait()
	_ = out.Close()
	close(c.exited)
}

// stop ends the process, by asking first if patience is positive, and returns
// when it is gone. A client needs no SIGINT: it ends at once on either.
func (c *child) stop(patience time.Duration) {
	if patience > 0 {
		_ = c.signal(syscall.SIGTERM)
		if c.await(patience) {
			return
		}
	}
	_ = c.signal(syscall.SIGKILL)
	<-c.exited
}

// await gives the process time to end, and tells whether it did.
func (c *child) await(patience time.Duration) bool {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-c.exited:
		return true
	case <-timer.C:
		return false
	}
}

// crashed tells whether the process is gone and did not end in good order.
func (c *child) crashed() bool {
	select {
	case <-c.exited:
		return c.status != nil
	default:
		return false
	}
}

// err says how the process ended, with tor's own complaints. Only for after
// exited.
func (c *child) err() error {
	if c.log.inUse {
		return ErrInUse
	}
	how := errors.New("it ended by itself")
	if c.status != nil {
		how = c.status
	}
	if words := c.log.lastWords(); words != "" {
		return fmt.Errorf("%w: %s", how, words)
	}
	return how
}

// environment leaves out what a service manager meant for us alone: tor would
// report itself ready in our name.
func environment(ours []string) []string {
	return slices.DeleteFunc(slices.Clone(ours), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return name == "NOTIFY_SOCKET" || strings.HasPrefix(name, "WATCHDOG_") || strings.HasPrefix(name, "LISTEN_")
	})
}
