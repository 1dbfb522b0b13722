package hsdir

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Limits on input. The public network has 8,000 relays, a consensus of 3 MB
// and microdescriptors of 10 MB.
const (
	maxConsensus   = 32 << 20
	maxMicrodescs  = 64 << 20
	maxRelays      = 100_000
	maxNickname    = 19
	rLineArguments = 7 // nickname, identity, date, time, address, two ports
)

const (
	documentConsensus  = "consensus"
	documentMicrodescs = "microdescriptors"
	dirTimeLayout      = time.DateTime // UTC
)

// document is what a consensus says, before the microdescriptors are matched
// with it.
type document struct {
	validAfter, freshUntil, validUntil time.Time
	params                             Params
	current, previous                  *[32]byte
	relays                             []status // all that are listed, by fingerprint
	hsdirs                             int      // of these, those that can be in the rings
}

// status is the entry of one relay.
type status struct {
	fingerprint [20]byte
	nickname    []byte   // aliases the document
	digest      [32]byte // of the microdescriptor; zero if the entry has none
	ipv4, ipv6  netip.AddrPort
	running     bool
	flag        bool // HSDir
	protocol    bool // HSDir=2
	broken      bool // of a version that serves descriptors wrongly
	seen        seenLines
}

type seenLines struct{ s, pr, v, m, a bool }

// isHSDir reports whether the relay is in the rings, given its identity.
func (s *status) isHSDir() bool { return s.flag && s.protocol && !s.broken }

// consensusReader holds the state of one pass over a consensus.
type consensusReader struct {
	lines
	doc  document
	seen map[string]bool // header keywords that may come once
	last [20]byte        // identity of the entry before
	pr   map[string]bool // what pr lines say, of which there are few kinds
}

// parseConsensus reads a consensus of the microdesc flavour, in one pass and
// with no copy of the text (dir-spec, section 3.4.1). Signatures are tor's
// business: what the control port hands out was verified.
//
// expected is the number of relays that the last one had.
func parseConsensus(text []byte, expected int) (*document, error) {
	if len(text) > maxConsensus {
		return nil, &ParseError{documentConsensus, 0, fmt.Errorf("%d bytes, want at most %d", len(text), maxConsensus)}
	}
	r := &consensusReader{lines: lines{doc: text}, seen: make(map[string]bool), pr: make(map[string]bool)}
	r.doc.params = DefaultParams()
	r.doc.relays = make([]status, 0, min(expected+expected/8, maxRelays))
	if err := r.read(); err != nil {
		var whole *ParseError
		if errors.As(err, &whole) {
			return nil, err
		}
		return nil, &ParseError{documentConsensus, r.number(), err}
	}
	return &r.doc, nil
}

func (r *consensusReader) read() error {
	if err := r.firstLine(); err != nil {
		return err
	}
	line, ok := r.scan()
	for ; ok && !isEntry(line); line, ok = r.scan() {
		keyword, rest := word(line)
		if isFooter(keyword) {
			break
		}
		if err := r.header(keyword, rest); err != nil {
			return err
		}
	}
	if err := r.checkHeader(); err != nil {
		return err
	}
	for ok && isEntry(line) {
		var err error
		if line, ok, err = r.entry(line); err != nil {
			return err
		}
	}
	// Without the footer, relays at the end may be missing, and a ring that
	// lacks some puts descriptors where nobody looks.
	if !ok {
		return &ParseError{documentConsensus, 0, errors.New("cut off: it ends before its directory-footer")}
	}
	return nil
}

func isEntry(line []byte) bool { return len(line) > 2 && line[0] == 'r' && isBlank(line[1]) }

func isFooter(keyword []byte) bool {
	return string(keyword) == "directory-footer" || string(keyword) == "directory-signature"
}

func (r *consensusReader) firstLine() error {
	line, ok := r.scan()
	if !ok {
		return &ParseError{documentConsensus, 0, errors.New("empty: has tor no consensus yet?")}
	}
	keyword, rest := word(line)
	version, rest := word(rest)
	flavour, _ := word(rest)
	if string(keyword) != "network-status-version" || string(version) != "3" {
		return fmt.Errorf("%s is not how a consensus begins", quote(line))
	}
	if string(flavour) != "microdesc" {
		return fmt.Errorf("a consensus of flavour %s, want %q", quote(flavour), "microdesc")
	}
	return nil
}

// header reads one line of the preamble. Unknown lines are left to others.
func (r *consensusReader) header(keyword, rest []byte) (err error) {
	name := string(keyword)
	switch name {
	case "valid-after", "fresh-until", "valid-until", "params", "vote-status",
		"shared-rand-previous-value", "shared-rand-current-value":
		if r.seen[name] {
			return fmt.Errorf("a second %s line", name)
		}
		r.seen[name] = true
	}
	switch name {
	case "vote-status":
		if kind, _ := word(rest); string(kind) != "consensus" {
			return fmt.Errorf("a document of kind %s, want %q", quote(kind), "consensus")
		}
	case "valid-after":
		r.doc.validAfter, err = parseTime(rest)
	case "fresh-until":
		r.doc.freshUntil, err = parseTime(rest)
	case "valid-until":
		r.doc.validUntil, err = parseTime(rest)
	case "params":
		r.doc.params, err = parseParams(rest)
	case "shared-rand-previous-value":
		r.doc.previous, err = parseSharedRandom(rest)
	case "shared-rand-current-value":
		r.doc.current, err = parseSharedRandom(rest)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (r *consensusReader) checkHeader() error {
	for _, name := range []string{"valid-after", "fresh-until", "valid-until"} {
		if !r.seen[name] {
			return &ParseError{documentConsensus, 0, fmt.Errorf("no %s line before the first relay", name)}
		}
	}
	return nil
}
