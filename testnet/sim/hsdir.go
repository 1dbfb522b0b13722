package sim

import (
	"time"

	"onionbalancer/descriptor"
)

// Faults is what is wrong with a relay. The zero value is a relay that works.
// All of it concerns the relay as an HSDir; Silent makes introduction points
// on it unreachable too.
type Faults struct {
	// Silent: it never answers anybody.
	Silent bool
	// Delay: it answers this much later.
	Delay time.Duration
	// RejectUploads: it answers every upload with status 400.
	RejectUploads bool
	// Overloaded: it answers everything with status 503.
	Overloaded bool
	// RejectFetches: it answers every fetch with status 400.
	RejectFetches bool
	// Replay: it accepts uploads, and goes on handing out what it had before.
	Replay bool
	// Amnesia: it accepts uploads, and has nothing when asked.
	Amnesia bool
	// Forge, if not nil, makes what it hands out from what it should: from an
	// empty body if it has nothing. It runs with the network locked.
	Forge func(honest []byte) []byte
}

// SetFaults replaces what is wrong with the relay.
func (r *Relay) SetFaults(f Faults) {
	r.net.lock()
	defer r.net.mu.Unlock()
	r.faults = f
}

// Faults is what is wrong with the relay.
func (r *Relay) Faults() Faults {
	r.net.lock()
	defer r.net.mu.Unlock()
	return r.faults
}

// Wipe has the relay lose every descriptor that it stored, as when it restarts.
func (r *Relay) Wipe() {
	r.net.lock()
	defer r.net.mu.Unlock()
	clear(r.store)
}

// Stored returns the descriptor that the relay holds for a blinded key now,
// and its revision counter; nil if it holds none.
func (r *Relay) Stored(blinded descriptor.BlindedPublicKey) (body []byte, revision uint64) {
	r.net.lock()
	defer r.net.mu.Unlock()
	s := r.lookup(blinded, time.Now())
	if s == nil {
		return nil, 0
	}
	return s.content(r), s.counter()
}

// The statuses of HTTP with which an HSDir answers.
const (
	statusOK          = 200
	statusBad         = 400
	statusMissing     = 404
	statusUnavailable = 503
)

// stored is a descriptor on an HSDir: one that was posted, as bytes, or one
// of an instance, which is only made when somebody wants to see it.
type stored struct {
	received time.Time
	lifetime time.Duration
	body     []byte
	revision uint64
	upload   *upload
}

func (s *stored) counter() uint64 {
	if s.upload != nil {
		return s.upload.counter()
	}
	return s.revision
}

// content is the descriptor's bytes; an instance encrypts anew for every HSDir.
func (s *stored) content(r *Relay) []byte {
	if s.body == nil && s.upload != nil {
		s.body = s.upload.encode(r)
	}
	return s.body
}

// replaces says whether an HSDir that has old takes s: its revision counter
// must be higher. Of one instance's uploads the later one has the higher.
func (s *stored) replaces(old *stored) bool {
	if s.upload != nil && old.upload != nil && s.upload.sameSeries(old.upload) {
		return s.upload.at.Unix() > old.upload.at.Unix()
	}
	return s.counter() > old.counter()
}

func (r *Relay) lookup(blinded descriptor.BlindedPublicKey, now time.Time) *stored {
	s := r.store[blinded]
	if s == nil || now.After(s.received.Add(s.lifetime)) {
		delete(r.store, blinded)
		return nil
	}
	return s
}

// answers says whether the relay answers at all.
func (r *Relay) answers() bool { return !r.gone && !r.faults.Silent }

// receive takes an upload's bytes and returns the HTTP status.
func (r *Relay) receive(body []byte, now time.Time) int {
	w, err := readWrapper(body, now, int(r.net.cfg.param("HSV3MaxDescriptorSize", defaultMaxSize)))
	if err != nil && !r.faults.Overloaded {
		return statusBad
	}
	return r.keep(w.blinded, &stored{received: now, lifetime: w.lifetime, body: body, revision: w.revision})
}

// keep stores what is well formed, if the relay is willing.
func (r *Relay) keep(blinded descriptor.BlindedPublicKey, s *stored) int {
	switch f := r.faults; {
	case f.Overloaded:
		return statusUnavailable
	case f.RejectUploads:
		return statusBad
	case f.Amnesia:
		return statusOK
	}
	old := r.lookup(blinded, s.received)
	if old != nil && !s.replaces(old) {
		return statusBad
	}
	if r.faults.Replay && old != nil {
		old.received = s.received // it would expire otherwise
		return statusOK
	}
	r.store[blinded] = s
	return statusOK
}

// serve returns what the relay hands out for a blinded key, and the status.
func (r *Relay) serve(blinded descriptor.BlindedPublicKey, now time.Time) ([]byte, int) {
	switch f := r.faults; {
	case f.Overloaded:
		return nil, statusUnavailable
	case f.RejectFetches:
		return nil, statusBad
	}
	var honest []byte
	if s := r.lookup(blinded, now); s != nil && !r.faults.Amnesia {
		honest = s.content(r)
	}
	if r.faults.Forge != nil {
		if forged := r.faults.Forge(honest); forged != nil {
			return forged, statusOK
		}
	}
	if honest == nil {
		return nil, statusMissing
	}
	return honest, statusOK
}

// answerTime is when the relay's answer to something asked at now arrives.
func (r *Relay) answerTime(now time.Time) time.Time {
	limit := r.net.cfg.Latency
	draw := r.net.cfg.derive("latency", r.fingerprint[:], timeBytes(now))
	share := time.Duration(draw[0]) * limit / 2 / 256
	return now.Add(limit/2 + share + r.faults.Delay)
}
