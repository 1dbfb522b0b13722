package etcdlab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"onionbalancer/internal/child"
)

// member is one etcd.
type member struct {
	name, dir    string
	client, peer int // ports
	args         []string

	cmd     *exec.Cmd     // nil before the first start
	exited  chan struct{} // closed once it has ended
	paused  bool
	killing bool // its end is wanted
}

func (m *member) logFile() string { return filepath.Join(m.dir, "log") }

func (m *member) start(binary string) error {
	if m.running() {
		return fmt.Errorf("starting %s: it runs", m.name)
	}
	// A log of its own for each run: what it ended with is not taken for what it ends with.
	output, err := os.OpenFile(m.logFile(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer output.Close()
	os.Remove(filepath.Join(m.dir, socketName)) // left behind by one that was killed
	cmd := exec.Command(binary, m.args...)
	cmd.Dir = m.dir
	cmd.Stdout, cmd.Stderr = output, output
	for _, setting := range os.Environ() { // of which etcd takes arguments, too
		if !strings.HasPrefix(setting, "ETCD_") {
			cmd.Env = append(cmd.Env, setting)
		}
	}
	exited := make(chan struct{})
	if err := child.Start(cmd, syscall.SIGKILL, func(error) { close(exited) }); err != nil {
		return fmt.Errorf("starting %s: %w", m.name, err)
	}
	m.cmd, m.exited, m.paused, m.killing = cmd, exited, false, false
	return nil
}

// running says whether it is there, though it may be paused.
func (m *member) running() bool {
	if m.cmd == nil {
		return false
	}
	select {
	case <-m.exited:
		return false
	default:
		return true
	}
}

// crashed is why it has ended by itself, or nil.
func (m *member) crashed() error {
	if m.cmd == nil || m.killing || m.running() {
		return nil
	}
	log := m.log()
	if strings.Contains(log, "address already in use") {
		return errPortTaken
	}
	return fmt.Errorf("%s ended by itself:\n%s", m.name, log)
}

func (m *member) kill() {
	if !m.running() {
		return
	}
	m.killing = true
	m.cmd.Process.Kill()
	<-m.exited
}

func (m *member) pause() error {
	if !m.running() {
		return errors.New("pausing " + m.name + ": it does not run")
	}
	m.paused = true
	return m.cmd.Process.Signal(syscall.SIGSTOP)
}

func (m *member) resume() error {
	m.paused = false
	return m.cmd.Process.Signal(syscall.SIGCONT)
}

func (m *member) log() string {
	text, err := os.ReadFile(m.logFile())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4<<10):])
}
