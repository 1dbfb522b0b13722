package hsdir

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
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

// document is the content of a consensus, before the microdescriptors are matched
// with it.
type document struct {
	validAfter, freshUntil, validUntil time.Time
	params                             Params
	current, previous                  *[32]byte
	relays                             []routerStatus // all that are listed, by fingerprint
	hsdirs                             int            // of these, those that can be in the rings
}

// routerStatus is the entry of one relay.
type routerStatus struct {
	fingerprint [20]byte
	nickname    []byte   // aliases the document
	digest      [32]byte // of the microdescriptor; zero if the entry has none
	ipv4, ipv6  netip.AddrPort
	flags       *flags // of the s line; nil without one
	protocol    bool   // HSDir=2
	broken      bool   // of a version that serves descriptors wrongly
	seen        seenLines
}

type seenLines struct{ s, pr, v, m, a bool }

// isHSDir reports whether the relay is in the rings, given its identity.
func (s *routerStatus) isHSDir() bool {
	return s.flags != nil && s.flags.hsdir && s.protocol && !s.broken
}

// consensusReader holds the state of one pass over a consensus.
type consensusReader struct {
	lines
	doc  document
	seen map[string]bool   // header keywords that may come once
	last [20]byte          // identity of the entry before
	pr   map[string]bool   // what pr lines say, of which there are few kinds
	s    map[string]*flags // the same of s lines
}

// parseConsensus reads a consensus of the microdesc flavour, in one pass and
// without copying the text (dir-spec, section 3.4.1). It does not check signatures:
// tor has verified what its control port returns.
//
// expected is the number of relays that the last one had.
func parseConsensus(text []byte, expected int) (*document, error) {
	if len(text) > maxConsensus {
		return nil, &ParseError{documentConsensus, 0, fmt.Errorf("%d bytes, want at most %d", len(text), maxConsensus)}
	}
	r := &consensusReader{lines: lines{doc: text}, seen: make(map[string]bool), pr: make(map[string]bool), s: make(map[string]*flags)}
	r.doc.params = defaultParams()
	r.doc.relays = make([]routerStatus, 0, min(expected+expected/8, maxRelays))
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
	// lacks some puts descriptors where clients do not look.
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

// header reads one line of the preamble. Unknown lines are ignored.
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

// entry reads the entry that begins with the given r line. It returns the line
// after the entry, and false if the document ends with the entry.
func (r *consensusReader) entry(first []byte) ([]byte, bool, error) {
	var s routerStatus
	if err := s.readR(first); err != nil {
		return nil, false, err
	}
	if len(r.doc.relays) > 0 && bytes.Compare(s.fingerprint[:], r.last[:]) <= 0 {
		return nil, false, fmt.Errorf("relay %s is out of order or there twice", upperHex(s.fingerprint[:]))
	}
	r.last = s.fingerprint
	if len(r.doc.relays) == maxRelays {
		return nil, false, fmt.Errorf("more than %d relays", maxRelays)
	}
	line, ok := r.scan()
	for ; ok && !isEntry(line); line, ok = r.scan() {
		keyword, rest := word(line)
		if isFooter(keyword) {
			break
		}
		if err := r.entryLine(&s, keyword, rest); err != nil {
			return nil, false, fmt.Errorf("relay %s: %w", upperHex(s.fingerprint[:]), err)
		}
	}
	if ok && (!s.seen.s || !s.seen.pr) {
		return nil, false, fmt.Errorf("the relay before, %s, has no s line or no pr line", upperHex(s.fingerprint[:]))
	}
	if s.isHSDir() {
		r.doc.hsdirs++
	}
	r.doc.relays = append(r.doc.relays, s)
	return line, ok, nil
}

// readR reads the r line: who the relay is, and where.
func (s *routerStatus) readR(line []byte) error {
	_, rest := word(line)
	nickname, rest := word(rest)
	identity, rest := word(rest)
	var more [rLineArguments - 2][]byte // date, time, address, two ports
	for i := range more {
		if more[i], rest = word(rest); len(more[i]) == 0 {
			return fmt.Errorf("an r line of %d words, want %d", i+2, rLineArguments)
		}
	}
	if !isNickname(nickname) {
		return fmt.Errorf("%s is not a nickname", quote(nickname))
	}
	s.nickname = nickname
	if err := decodeBase64(s.fingerprint[:], identity); err != nil {
		return fmt.Errorf("identity %s: %w", quote(identity), err)
	}
	address, port := more[2], more[3]
	ip, err := netip.ParseAddr(string(address))
	number, errPort := strconv.ParseUint(string(port), 10, 16)
	if err != nil || errPort != nil || !ip.Is4() {
		return fmt.Errorf("%s %s is no IPv4 address and port", quote(address), quote(port))
	}
	s.ipv4 = netip.AddrPortFrom(ip, uint16(number))
	return nil
}

func isNickname(text []byte) bool {
	for _, c := range text {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return len(text) > 0 && len(text) <= maxNickname
}

var errTwice = errors.New("a line of this kind came before")

// entryLine reads one of the lines below the r line. Unknown ones, and those
// that matter to circuits only, are ignored.
func (r *consensusReader) entryLine(s *routerStatus, keyword, rest []byte) (err error) {
	switch string(keyword) {
	case "s":
		if s.seen.s {
			return fmt.Errorf("s: %w", errTwice)
		}
		s.seen.s = true
		s.flags = r.flags(rest)
	case "a":
		// Of several, tor takes the first IPv6 address.
		if s.seen.a {
			return nil
		}
		address, _ := word(rest)
		if a, err := netip.ParseAddrPort(string(address)); err == nil && a.Addr().Is6() {
			s.ipv6, s.seen.a = a, true
		}
	case "pr":
		if s.seen.pr {
			return fmt.Errorf("pr: %w", errTwice)
		}
		s.seen.pr = true
		s.protocol, err = r.protocols(rest)
	case "v":
		if s.seen.v {
			return fmt.Errorf("v: %w", errTwice)
		}
		s.seen.v = true
		s.broken = brokenHSDir(rest)
	case "m":
		// Of several, tor takes the first.
		if s.seen.m {
			return nil
		}
		s.seen.m = true
		digest, _ := word(rest)
		if err = decodeBase64(s.digest[:], digest); err != nil {
			return fmt.Errorf("microdescriptor digest %s: %w", quote(digest), err)
		}
	}
	return err
}

// protocols is supportsHSDir with a cache: relays of one version all have the
// same pr line.
func (r *consensusReader) protocols(line []byte) (bool, error) {
	if supported, ok := r.pr[string(line)]; ok {
		return supported, nil
	}
	supported, err := supportsHSDir(line)
	if err == nil && len(r.pr) < maxKinds {
		r.pr[string(line)] = supported
	}
	return supported, err
}

// maxKinds limits how many kinds of a line are remembered.
const maxKinds = 256

// flags returns what an s line says, which few others say differently.
func (r *consensusReader) flags(line []byte) *flags {
	f := r.s[string(line)]
	if f == nil {
		f = &flags{names: strings.Fields(string(line)), hsdir: hasWord(line, hsdirName), running: hasWord(line, runningName)}
		if len(r.s) < maxKinds {
			r.s[string(line)] = f
		}
	}
	return f
}

func hasWord(line, want []byte) bool {
	for w, rest := word(line); len(w) > 0; w, rest = word(rest) {
		if bytes.Equal(w, want) {
			return true
		}
	}
	return false
}

// hsdirProtocol is the version of the HSDir protocol that serves version 3
// descriptors (tor-spec, section 9).
const hsdirProtocol = 2

var (
	hsdirName    = []byte("HSDir")
	runningName  = []byte("Running")
	errProtocols = errors.New("malformed list of protocols")
)

// supportsHSDir reports whether a pr line lists the HSDir protocol in the
// version that version 3 descriptors need.
func supportsHSDir(line []byte) (bool, error) {
	found := false
	for entry, rest := word(line); len(entry) > 0; entry, rest = word(rest) {
		name, ranges, ok := bytes.Cut(entry, []byte{'='})
		if !ok || len(name) == 0 {
			return false, fmt.Errorf("%w: %s", errProtocols, quote(entry))
		}
		if !bytes.Equal(name, hsdirName) {
			continue
		}
		for len(ranges) > 0 {
			var span []byte
			span, ranges, _ = bytes.Cut(ranges, []byte{','})
			low, high, err := parseRange(span)
			if err != nil {
				return false, fmt.Errorf("%w: %s", errProtocols, quote(entry))
			}
			found = found || low <= hsdirProtocol && hsdirProtocol <= high
		}
	}
	return found, nil
}

// parseRange reads "2" or "1-2".
func parseRange(text []byte) (low, high uint64, err error) {
	first, last, isRange := bytes.Cut(text, []byte{'-'})
	if low, err = strconv.ParseUint(string(first), 10, 32); err != nil {
		return 0, 0, err
	}
	if !isRange {
		return low, low, nil
	}
	if high, err = strconv.ParseUint(string(last), 10, 32); err != nil {
		return 0, 0, err
	}
	if high < low {
		return 0, 0, errProtocols
	}
	return low, high, nil
}

// brokenHSDir reports whether the version on a v line is older than 0.3.0.8:
// such a relay serves version 3 descriptors wrongly, and tor leaves it out of
// the ring although it lists the protocol. A version that is not tor's, or cannot
// be parsed, counts as new enough.
func brokenHSDir(line []byte) bool {
	software, rest := word(line)
	if string(software) != "Tor" {
		return false
	}
	version, _ := word(rest)
	// A suffix after the dash never makes a version older than the same without.
	number, _, _ := bytes.Cut(version, []byte{'-'})
	var got [4]uint64
	for i := 0; len(number) > 0; i++ {
		var part []byte
		part, number, _ = bytes.Cut(number, []byte{'.'})
		n, err := strconv.ParseUint(string(part), 10, 31)
		if err != nil || i == len(got) {
			return false
		}
		got[i] = n
	}
	fixed := [4]uint64{0, 3, 0, 8}
	return slices.Compare(got[:], fixed[:]) < 0
}
