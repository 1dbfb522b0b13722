package hsdir

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

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
// the ring although it lists the protocol. A version that is not tor's, or not
// to be understood, counts as new enough.
func brokenHSDir(line []byte) bool {
	software, rest := word(line)
	if string(software) != "Tor" {
		return false
	}
	version, _ := word(rest)
	// What follows the dash never makes a version older than the same without.
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
