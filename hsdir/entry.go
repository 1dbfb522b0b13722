package hsdir

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
)

// entry reads the entry that begins with the given r line. It returns the line
// after the entry, and false if the document ends with the entry.
func (r *consensusReader) entry(first []byte) ([]byte, bool, error) {
	var s status
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
func (s *status) readR(line []byte) error {
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
// that matter to circuits alone, are left to others.
func (r *consensusReader) entryLine(s *status, keyword, rest []byte) (err error) {
	switch string(keyword) {
	case "s":
		if s.seen.s {
			return fmt.Errorf("s: %w", errTwice)
		}
		s.seen.s = true
		s.flag, s.running = hasWord(rest, hsdirName), hasWord(rest, runningName)
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

// protocols is supportsHSDir with a memory: relays of one version all have the
// same pr line.
func (r *consensusReader) protocols(line []byte) (bool, error) {
	if supported, ok := r.pr[string(line)]; ok {
		return supported, nil
	}
	supported, err := supportsHSDir(line)
	const kinds = 256
	if err == nil && len(r.pr) < kinds {
		r.pr[string(line)] = supported
	}
	return supported, err
}

func hasWord(line, want []byte) bool {
	for w, rest := word(line); len(w) > 0; w, rest = word(rest) {
		if bytes.Equal(w, want) {
			return true
		}
	}
	return false
}
