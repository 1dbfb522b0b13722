package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"onionbalancer/internal/child"
)

// torProcess is one tor process, from its start to its end.
type torProcess struct {
	pid    int
	opened chan struct{} // closed when its control port is open
	exited chan struct{} // closed when it is gone and its output read
	log    *torLog
	signal func(os.Signal) error
	status error // of Wait; set before exited is closed
}

// launch starts tor.
func launch(cfg Config, f *files) (*torProcess, error) {
	cmd := exec.Command(cfg.Binary, "-f", f.path(torrcFile), "--defaults-torrc", f.path(defaultsFile))
	cmd.Dir = f.dir
	cmd.Env = environment(os.Environ())
	out, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe for tor's log: %w", err)
	}
	cmd.Stdout, cmd.Stderr = in, in
	c := &torProcess{opened: make(chan struct{}), exited: make(chan struct{})}
	c.log = &torLog{log: cfg.Log, opened: sync.OnceFunc(func() { close(c.opened) })}
	var reading sync.WaitGroup
	reading.Go(func() { c.log.read(out) })
	err = child.Start(cmd, syscall.SIGTERM, func(status error) {
		c.status = status
		// Children of tor (a pluggable transport) may hold the pipe open.
		_ = out.SetReadDeadline(time.Now().Add(time.Second))
		reading.Wait()
		_ = out.Close()
		close(c.exited)
	})
	_ = in.Close()
	if err != nil {
		reading.Wait()
		_ = out.Close()
		return nil, fmt.Errorf("running %s: %w", cfg.Binary, err)
	}
	c.pid, c.signal = cmd.Process.Pid, cmd.Process.Signal
	return c, nil
}

// stop ends the process, with a signal first if patience is positive, and returns
// when it is gone. A client needs no SIGINT: it ends at once on either.
func (c *torProcess) stop(patience time.Duration) {
	if patience > 0 {
		_ = c.signal(syscall.SIGTERM)
		if c.await(patience) {
			return
		}
	}
	_ = c.signal(syscall.SIGKILL)
	<-c.exited
}

// await gives the process time to end, and reports whether it did.
func (c *torProcess) await(patience time.Duration) bool {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-c.exited:
		return true
	case <-timer.C:
		return false
	}
}

// crashed reports whether the process has ended abnormally.
func (c *torProcess) crashed() bool {
	select {
	case <-c.exited:
		return c.status != nil
	default:
		return false
	}
}

// err says how the process ended, with tor's last warnings. Only for after
// exited.
func (c *torProcess) err() error {
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

// environment drops the variables that a service manager set for this process:
// with them tor would report itself ready in our name.
func environment(ours []string) []string {
	return slices.DeleteFunc(slices.Clone(ours), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return name == "NOTIFY_SOCKET" || strings.HasPrefix(name, "WATCHDOG_") || strings.HasPrefix(name, "LISTEN_")
	})
}
