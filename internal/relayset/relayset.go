// Package relayset reads sets of relays and says which relays are in them. It has the
// notation of tor's ExcludeNodes, as far as that is certain about a relay (a nickname is
// not), and two more:
//
//	$FINGERPRINT         the relay, with or without the $
//	{de}                 relays in a country, by tor's GeoIP file; {??} where it knows none
//	family:$FINGERPRINT  the relay, and those with which it declares a family, mutually
//	flag:Exit            relays with a flag of the consensus
package relayset

import (
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"onionbalancer/hsdir"
)

// Pattern is one entry of a set. Of its fields one is given.
type Pattern struct {
	fingerprint *[20]byte
	family      *[20]byte
	country     string // two letters in lower case, or "??"
	flag        string
}

// flags are those of the consensus (dir-spec, section 3.4.1, "s"). Every relay has
// Valid, and every one that a point may name Running.
var flags = []string{"Authority", "BadExit", "Exit", "Fast", "Guard", "HSDir", "MiddleOnly", "NoEdConsensus", "Running", "Stable", "StaleDesc", "Sybil", "V2Dir", "Valid"}

var (
	fingerprint = regexp.MustCompile(`^\$?([0-9A-Fa-f]{40})$`)
	// tor looks no country up by other than two letters or "??".
	country = regexp.MustCompile(`^\{([A-Za-z]{2}|\?\?)\}$`)
)

// Parse reads one entry.
func Parse(text string) (p Pattern, err error) {
	kind, rest, found := strings.Cut(text, ":")
	switch m := country.FindStringSubmatch(text); {
	case m != nil:
		p.country = strings.ToLower(m[1])
	case found && strings.EqualFold(kind, "flag"):
		p.flag, err = parseFlag(rest)
	case found && strings.EqualFold(kind, "family"):
		if p.family = parseFingerprint(rest); p.family == nil {
			err = fmt.Errorf("%q is no fingerprint: want 40 hexadecimal digits, as in \"family:$FINGERPRINT\"", rest)
		}
	default:
		if p.fingerprint = parseFingerprint(text); p.fingerprint == nil {
			err = whyNot(text)
		}
	}
	return p, err
}

func parseFingerprint(text string) *[20]byte {
	m := fingerprint.FindStringSubmatch(text)
	if m == nil {
		return nil
	}
	raw, _ := hex.DecodeString(m[1]) // which the pattern has only hexadecimal digits in
	return (*[20]byte)(raw)
}

func parseFlag(name string) (string, error) {
	for _, f := range flags {
		if strings.EqualFold(f, name) {
			return f, nil
		}
	}
	return "", fmt.Errorf("there is no flag %q, only %s", name, strings.Join(flags, ", "))
}

// whyNot says what is wrong with an entry of no kind.
func whyNot(text string) error {
	letters := strings.Trim(text, "{}")
	switch {
	case country.MatchString("{" + letters + "}"):
		return fmt.Errorf("a country is written in braces: write \"{%s}\"", strings.ToLower(letters))
	case strings.HasPrefix(text, "{"):
		return fmt.Errorf("%q is no country: want its two letters in braces, as in \"{de}\"", text)
	case strings.ContainsAny(text, "./"):
		return fmt.Errorf("%q: addresses are not for rules about introduction points; want \"$FINGERPRINT\", \"{de}\", \"family:$FINGERPRINT\" or \"flag:Exit\"", text)
	case slices.ContainsFunc(flags, func(f string) bool { return strings.EqualFold(f, text) }):
		flag, _ := parseFlag(text)
		return fmt.Errorf("a flag is written with its kind: write \"flag:%s\"", flag)
	}
	return fmt.Errorf("%q is no relay: want \"$FINGERPRINT\" (40 hexadecimal digits, as nicknames are anybody's), \"{de}\", \"family:$FINGERPRINT\" or \"flag:Exit\"", text)
}

// String writes the entry as Parse reads it.
func (p Pattern) String() string {
	switch {
	case p.fingerprint != nil:
		return fmt.Sprintf("$%X", *p.fingerprint)
	case p.family != nil:
		return fmt.Sprintf("family:$%X", *p.family)
	case p.flag != "":
		return "flag:" + p.flag
	}
	return "{" + p.country + "}"
}

// Has reports whether a relay is one of the pattern's. country is that of its address,
// empty if it is not known: then it is none.
func (p Pattern) Has(r hsdir.RelayInfo, country string) bool {
	switch {
	case p.fingerprint != nil:
		return r.Fingerprint() == *p.fingerprint
	case p.family != nil:
		return r.InFamily(*p.family)
	case p.flag != "":
		return r.HasFlag(p.flag)
	}
	return country == p.country && country != ""
}

// Set is a set of relays: those of any of its entries.
type Set []Pattern

// ParseSet reads the entries of a set.
func ParseSet(entries []string) (Set, error) {
	var s Set
	var errs []error
	for _, text := range entries {
		p, err := Parse(text)
		s, errs = append(s, p), append(errs, err)
	}
	return s, errors.Join(errs...)
}

// Find returns the index of the first entry that a relay is of, or below 0.
func (s Set) Find(r hsdir.RelayInfo, country string) int {
	return slices.IndexFunc(s, func(p Pattern) bool { return p.Has(r, country) })
}

// Countries reports whether countries decide about some relay.
func (s Set) Countries() bool {
	return slices.ContainsFunc(s, func(p Pattern) bool { return p.country != "" })
}

// Families lists the relays whose families the set has.
func (s Set) Families() (list [][20]byte) {
	for _, p := range s {
		if p.family != nil {
			list = append(list, *p.family)
		}
	}
	return list
}

// String writes the entries as tor does, with commas between; "none" if there are none.
func (s Set) String() string {
	if len(s) == 0 {
		return "none"
	}
	var list []string
	for _, p := range s {
		list = append(list, p.String())
	}
	return strings.Join(list, ",")
}
