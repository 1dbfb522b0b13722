package sim

import (
	"encoding/binary"
	"time"
)

// fate is what becomes of a request to an HSDir.
type fate int

const (
	arrives  fate = iota // and so does the answer
	unheard              // the circuit dies before the HSDir has it
	unspoken             // the circuit dies before the answer is back
)

// circuit decides the fate of a request that sets out at now. Of those that
// Config.Loss has die, half do their work before.
func (r *Relay) circuit(purpose string, now time.Time) fate {
	loss := r.net.cfg.Loss
	if loss <= 0 {
		return arrives
	}
	draw := r.net.cfg.derive("circuit", []byte(purpose), r.fingerprint[:], timeBytes(now))
	switch share := float64(binary.BigEndian.Uint32(draw[:])) / (1 << 32); {
	case share < loss/2:
		return unheard
	case share < loss:
		return unspoken
	}
	return arrives
}
