package hsdir

import (
	"errors"
	"fmt"
	"strings"
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
// are in the rings. If many are not, our rings are not those of the
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

	relays   []listedRelay // by fingerprint
	families families
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

// reasonablyLive is how far outside of its validity tor still uses a
// consensus when it places descriptors, and how wrong a clock may be.
const reasonablyLive = 24 * time.Hour

// ReasonablyLive reports whether tor would still use the consensus at now:
// it does so for a day before and after the time that the consensus is valid.
func (c *Consensus) ReasonablyLive(now time.Time) bool {
	return !now.Before(c.ValidAfter.Add(-reasonablyLive)) && !now.After(c.ValidUntil.Add(reasonablyLive))
}

// ErrNoHSDirs says that there is no HSDir to fetch from or upload to: the rings are
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

// Parser reads consensuses and microdescriptors and caches what it needs
// to parse the next ones fast, most of which stay the same: the zero value
// is ready for use. It may be used by several goroutines.
type Parser struct {
	mu      sync.Mutex
	mds     *microdescs
	indexes *indexCache

	wanted []([20]byte) // relays whose families are looked for

	// Input and result of the last call.
	relays    int
	lastInput parserInput
	last      *Consensus
}

// parserInput identifies the input of a call, see textKey.
type parserInput struct {
	consensus, microdescs textKey
	testing               bool
}

// Parse reads a consensus of the microdesc flavour and the concatenated
// microdescriptors, as returned by GETINFO
// dir/status-vote/current/consensus-microdesc and md/all. testing says whether
// the network has TestingTorNetwork set, and so its own period length.
//
// The error is a *ParseError when one of the documents is to blame. Relays
// whose microdescriptor is missing or unusable are left out of the rings and
// counted in the Coverage of the result. The same input gives the same
// Consensus. Parse keeps no reference to its arguments.
func (p *Parser) Parse(consensus, microdescs []byte, testing bool) (*Consensus, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mds == nil {
		p.mds, p.indexes = newMicrodescs(), new(indexCache)
	}
	input := parserInput{p.mds.key(consensus), p.mds.key(microdescs), testing}
	if p.last != nil && input == p.lastInput {
		return p.last, nil
	}
	doc, err := parseConsensus(consensus, p.relays)
	if err != nil {
		return nil, err
	}
	bad, reason, err := p.mds.parse(microdescs)
	if err != nil {
		return nil, err
	}
	c := &Consensus{
		ValidAfter: doc.validAfter, FreshUntil: doc.freshUntil, ValidUntil: doc.validUntil,
		Params:              doc.params,
		SharedRandomCurrent: doc.current, SharedRandomPrevious: doc.previous,
		Testing: testing,
		indexes: p.indexes,
	}
	c.Coverage.BadMicrodescs, c.Coverage.Reason = bad, reason
	c.takeRelays(doc, p.mds)
	if len(p.wanted) > 0 {
		c.families = findFamilies(p.wanted, doc, p.mds, microdescs)
	}
	if c.schedule, err = newSchedule(c); err != nil {
		return nil, &ParseError{documentConsensus, 0, fmt.Errorf("working out its time periods: %w", err)}
	}
	p.last, p.lastInput, p.relays = c, input, c.Coverage.Relays
	return c, nil
}

// takeRelays fills in the relays, and which of them are in the rings. A relay
// without an Ed25519 identity has no place there (tor does the same).
func (c *Consensus) takeRelays(doc *document, mds *microdescs) {
	c.Coverage.Relays, c.Coverage.Listed = len(doc.relays), doc.hsdirs
	c.relays = make([]listedRelay, len(doc.relays))
	c.HSDirs = make([]Relay, 0, doc.hsdirs)
	names := doc.nicknames()
	for i := range doc.relays {
		s := &doc.relays[i]
		c.relays[i] = listedRelay{fingerprint: s.fingerprint, ipv4: s.ipv4, ipv6: s.ipv6, flags: s.flags}
		md, ok := mds.find(s.digest)
		if ok = ok && s.seen.m && !md.bad; ok {
			c.relays[i].ed25519 = md.ed25519
		}
		if !s.isHSDir() {
			continue
		}
		nickname := names[:len(s.nickname)]
		names = names[len(s.nickname):]
		switch {
		case !ok:
			c.Coverage.Missing++
		case md.ed25519 == [32]byte{}:
			c.Coverage.NoIdentity++
		default:
			c.HSDirs = append(c.HSDirs, Relay{s.fingerprint, md.ed25519, nickname})
		}
	}
}

// nicknames returns the nicknames of all HSDirs in one string, from which they
// are cut: one allocation for all of them.
func (d *document) nicknames() string {
	var b strings.Builder
	size := 0
	for i := range d.relays {
		if d.relays[i].isHSDir() {
			size += len(d.relays[i].nickname)
		}
	}
	b.Grow(size)
	for i := range d.relays {
		if d.relays[i].isHSDir() {
			b.Write(d.relays[i].nickname)
		}
	}
	return b.String()
}
