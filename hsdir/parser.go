package hsdir

import (
	"fmt"
	"strings"
	"sync"
)

// Parser reads consensuses and microdescriptors and remembers what it needs
// to be quick at the next ones, of which most stays the same: the zero value
// is ready for use. It may be used by several goroutines.
type Parser struct {
	mu      sync.Mutex
	mds     *microdescs
	indexes *indexCache

	// What the last call got and gave.
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
// microdescriptors, which are what GETINFO gives for
// dir/status-vote/current/consensus-microdesc and md/all. testing says whether
// the network has TestingTorNetwork set, and so its own period length.
//
// The error is a *ParseError when one of the documents is to blame. Relays
// whose microdescriptor is missing or of no use are left out of the rings and
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
	c.relays = make([]listed, len(doc.relays))
	c.HSDirs = make([]Relay, 0, doc.hsdirs)
	names := doc.nicknames()
	for i := range doc.relays {
		s := &doc.relays[i]
		c.relays[i] = listed{fingerprint: s.fingerprint, ipv4: s.ipv4, ipv6: s.ipv6, running: s.running}
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
