package sim

import "strings"

// ControlFaults is what is wrong with a tor's control port. The zero value is
// one that works.
type ControlFaults struct {
	// Refuse: nobody can connect.
	Refuse bool
	// Mute: commands get no answer, though connections stay; the answers never
	// come.
	Mute bool
	// LoseEvents: no event is sent.
	LoseEvents bool
	// Trusting: fetched descriptors are handed over as they are. tor decodes
	// and verifies them first, and says BAD_DESC if they are not in order.
	Trusting bool
}

// SetFaults replaces what is wrong with the control port.
func (t *Tor) SetFaults(f ControlFaults) {
	t.net.lock()
	defer t.net.mu.Unlock()
	t.faults = f
}

// DropConnections closes every control connection; new ones are welcome.
func (t *Tor) DropConnections() {
	t.net.lock()
	defer t.net.mu.Unlock()
	t.dropAll()
}

func (t *Tor) dropAll() {
	for c := range t.conns {
		c.drop()
	}
}

// mangling is what becomes of one reply.
type mangling struct {
	cut     bool
	after   int
	garbage []byte
}

// CutReply has the connection drop in the middle of the next reply to a
// command of this name ("HSFETCH", "+HSPOST"): after this many bytes of it.
func (t *Tor) CutReply(command string, after int) {
	t.mangle(command, mangling{cut: true, after: after})
}

// GarbleReply has the next reply to a command of this name replaced by bytes
// that are no reply.
func (t *Tor) GarbleReply(command string, garbage []byte) {
	t.mangle(command, mangling{garbage: garbage})
}

func (t *Tor) mangle(command string, m mangling) {
	t.net.lock()
	defer t.net.mu.Unlock()
	if t.mangled == nil {
		t.mangled = make(map[string]mangling)
	}
	t.mangled[strings.ToUpper(command)] = m
}
