package testnet

import (
	"fmt"
	"syscall"
)

// Group is the group that the service's tor runs under, 0 if it is ours; see
// Config.FirstGroup.
func (s *Service) Group() uint32 { return s.server.group }

// Group is the group that the client's tor runs under, 0 if it is ours; see
// Config.FirstGroup.
func (c *Client) Group() uint32 { return c.group }

// Freeze stops the service's tor as a machine that hangs does: its connections stay
// and nobody answers.
func (s *Service) Freeze() error { return s.server.signal(syscall.SIGSTOP) }

// Thaw lets a frozen tor go on.
func (s *Service) Thaw() error { return s.server.signal(syscall.SIGCONT) }

// Together are all services of the service's tor, itself among them: they live and die
// together.
func (s *Service) Together() []*Service { return s.server.services }

// KillRelay ends a relay's tor by kill -9; fingerprint is 40 hexadecimal digits. The
// consensus goes on naming it until authorities miss it.
func (n *Network) KillRelay(fingerprint string) error {
	for _, r := range n.relays {
		if r.fingerprint == fingerprint {
			r.end(true)
			return nil
		}
	}
	return fmt.Errorf("killing a relay: none has the fingerprint %s", fingerprint)
}

// StopBackend ends the service's web server alone. Its tor answers that nobody
// listens.
func (s *Service) StopBackend() { s.backend.close(0) }

// StartBackend starts a web server that StopBackend ended, at its old port.
func (s *Service) StartBackend() error { return s.backend.start() }

// SetMasters changes the addresses that the service answers under besides its own,
// of which there must be one. Tor reads them when it is started.
func (s *Service) SetMasters(masters ...string) error {
	if len(masters) == 0 || len(s.config.Masters) == 0 {
		return fmt.Errorf("changing ob_config of %q: an instance, and one address at least", s.Name())
	}
	before := s.config.Masters
	s.config.Masters = masters
	if err := s.writeMasters(); err != nil {
		s.config.Masters = before
		return fmt.Errorf("changing ob_config of %q: %w", s.Name(), err)
	}
	return nil
}

// signal sends the node's tor a signal.
func (d *node) signal(what syscall.Signal) error {
	p := d.current()
	if p == nil || !p.running() {
		return fmt.Errorf("sending tor %q %v: it does not run", d.name, what)
	}
	return p.cmd.Process.Signal(what)
}
