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
	listed    int
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
	doc, err := parseConsensus(consensus, p.listed)
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
	c.takeHSDirs(doc, p.mds)
	if c.schedule, err = newSchedule(c); err != nil {
		return nil, &ParseError{documentConsensus, 0, fmt.Errorf("working out its time periods: %w", err)}
	}
	p.last, p.lastInput, p.listed = c, input, c.Coverage.Listed
	return c, nil
}

// takeHSDirs fills in the relays that are in the rings. A relay without an
// Ed25519 identity has no place in them (tor does the same).
func (c *Consensus) takeHSDirs(doc *document, mds *microdescs) {
	c.Coverage.Relays, c.Coverage.Listed = doc.relays, len(doc.hsdirs)
	c.HSDirs = make([]Relay, 0, len(doc.hsdirs))
	names := doc.nicknames()
	for i := range doc.hsdirs {
		s := &doc.hsdirs[i]
		nickname := names[:len(s.nickname)]
		names = names[len(s.nickname):]
		md, ok := mds.find(s.digest)
		switch {
		case !ok || !s.seen.m || md.bad:
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
	for i := range d.hsdirs {
		size += len(d.hsdirs[i].nickname)
	}
	b.Grow(size)
	for i := range d.hsdirs {
		b.Write(d.hsdirs[i].nickname)
	}
	return b.String()
}
