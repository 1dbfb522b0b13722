package hsdir

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// Relay is a relay that takes part in the hash rings.
type Relay struct {
	Fingerprint [20]byte // SHA-1 of the RSA identity, which names the relay on the control port
	Ed25519     [32]byte // Ed25519 identity, which places it in the rings
	Nickname    string
}

// Hex returns the fingerprint as the control protocol writes it: 40 upper-case
// hexadecimal digits.
func (r Relay) Hex() string { return upperHex(r.Fingerprint[:]) }

// Coverage counts how many of the relays that the consensus lists as HSDirs
// made it into the rings. When many did not, our rings are not those of the
// clients: their microdescriptors have not reached tor yet.
type Coverage struct {
	Relays        int   // relays in the consensus
	Listed        int   // of these, listed as HSDirs for version 3 descriptors
	Missing       int   // of these, without a usable microdescriptor
	NoIdentity    int   // of these, without an Ed25519 identity
	BadMicrodescs int   // microdescriptors that tor would refuse
	Reason        error // why the first of these is bad
}

// String says in a line how complete the rings are.
func (c Coverage) String() string {
	left := c.Missing + c.NoIdentity
	return fmt.Sprintf("%d of %d HSDirs known (%d without microdescriptor, %d without Ed25519 identity)",
		c.Listed-left, c.Listed, c.Missing, c.NoIdentity)
}

// Consensus is what tor knows about the network, as far as descriptors are
// concerned. It is immutable and safe for concurrent use. A Parser makes it.
type Consensus struct {
	ValidAfter, FreshUntil, ValidUntil time.Time
	Params                             Params
	// The shared random values; nil when the authorities agreed on none, and
	// then the disaster value of a period stands in.
	SharedRandomCurrent, SharedRandomPrevious *[32]byte
	HSDirs                                    []Relay // by fingerprint
	Coverage                                  Coverage
	Testing                                   bool

	relays   []listed // by fingerprint
	schedule schedule
	indexes  *indexCache
	rings    [2]struct {
		once sync.Once
		ring *Ring
	}
}

// VotingInterval is the time between one consensus and the next.
func (c *Consensus) VotingInterval() time.Duration { return c.FreshUntil.Sub(c.ValidAfter) }

// Live reports whether the consensus is valid at now.
func (c *Consensus) Live(now time.Time) bool {
	return !now.Before(c.ValidAfter) && !now.After(c.ValidUntil)
}

// reasonablyLive is how far outside of its validity tor still goes by a
// consensus when it places descriptors, and how wrong a clock may be.
const reasonablyLive = 24 * time.Hour

// ReasonablyLive reports whether tor would still go by the consensus at now:
// it does so for a day before and after the time that the consensus is valid.
func (c *Consensus) ReasonablyLive(now time.Time) bool {
	return !now.Before(c.ValidAfter.Add(-reasonablyLive)) && !now.After(c.ValidUntil.Add(reasonablyLive))
}

// ErrNoHSDirs says that no relay can be asked or given anything: the rings are
// empty, most often because tor has no microdescriptors yet.
var ErrNoHSDirs = errors.New("no HSDir is known")

// First returns the ring of the first descriptor, the older one of the two
// that a service has at any time. The only error is ErrNoHSDirs.
func (c *Consensus) First() (*Ring, error) { return c.Ring(FirstRole) }

// Second returns the ring of the second descriptor, the newer one.
func (c *Consensus) Second() (*Ring, error) { return c.Ring(SecondRole) }

// Ring returns the ring of the first or of the second descriptor. It is
// computed at the first call.
func (c *Consensus) Ring(role Role) (*Ring, error) {
	r := c.ring(role)
	if len(r.nodes) == 0 {
		return nil, fmt.Errorf("working out the ring of the %s descriptor: %w (%v)", role, ErrNoHSDirs, c.Coverage)
	}
	return r, nil
}

// Current returns the ring that clients fetch from, which is that of the first
// or that of the second descriptor. It may be empty.
func (c *Consensus) Current() *Ring { return c.ring(c.schedule.current) }

func (c *Consensus) ring(role Role) *Ring {
	slot := &c.rings[role&1]
	slot.once.Do(func() { slot.ring = newRing(c, role&1) })
	return slot.ring
}
