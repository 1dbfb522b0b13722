package hsdir

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"

	"onionbalancer/descriptor"
)

// flags are what the authorities say of a relay. Relays of one kind share them.
type flags struct {
	names          []string
	hsdir, running bool
}

// RelayInfo is what the consensus and the microdescriptors say of a relay.
type RelayInfo struct {
	relay    *listedRelay
	families families
}

// Relay returns the relay that an introduction point names by its RSA identity, and
// whether the consensus has it.
func (c *Consensus) Relay(p *descriptor.IntroductionPoint) (RelayInfo, bool) {
	relay := c.relayOf(p)
	return RelayInfo{relay, c.families}, relay != nil
}

// Fingerprint is the SHA-1 of the relay's RSA identity.
func (r RelayInfo) Fingerprint() [20]byte { return r.relay.fingerprint }

// Address is the relay's IPv4 address, by which tor tells its country.
func (r RelayInfo) Address() netip.Addr { return r.relay.ipv4.Addr() }

// HasFlag reports whether the authorities give the relay a flag, "Exit" for instance.
func (r RelayInfo) HasFlag(name string) bool {
	return r.relay.flags != nil && slices.Contains(r.relay.flags.names, name)
}

// InFamily reports whether the relay is the one of that fingerprint, or both say that
// they belong together. It knows only the families that Parser.Families asked for.
func (r RelayInfo) InFamily(of [20]byte) bool {
	return r.relay.fingerprint == of || r.families[of][r.relay.fingerprint]
}

// families has the other members of the families of some relays. As for tor, two relays
// are of one family if each lists the other in its "family" line, by fingerprint or
// nickname, or if their "family-ids" lines have an ID in common (dir-spec, "Computing
// microdescriptors"; tor's nodes_in_same_family). Not transitive, except by ID.
type families map[[20]byte]map[[20]byte]bool

// Families says whose families the results of the next calls of Parse shall know, for
// RelayInfo.InFamily. Without any, none is looked for: the lists are a large part of all
// microdescriptors, and few are of interest. It reports whether that is news.
func (p *Parser) Families(of [][20]byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.Equal(p.wanted, of) {
		return false
	}
	p.wanted, p.last = slices.Clone(of), nil
	return true
}

// declared is what a microdescriptor says of its relay's family. It aliases the
// document.
type declared struct{ members, ids []byte }

// declares returns the lines about the family in a microdescriptor. Of several of a
// kind, which tor refuses, the last counts.
func declares(body []byte) (d declared) {
	l := lines{doc: body}
	for line, ok := l.scan(); ok; line, ok = l.scan() {
		if !bytes.HasPrefix(line, familyKeyword) {
			continue
		}
		switch keyword, rest := word(line); string(keyword) {
		case "family":
			d.members = rest
		case "family-ids":
			d.ids = rest
		}
	}
	return d
}

var familyKeyword = []byte("family")

// lists reports whether a family line has a relay, as $FINGERPRINT, perhaps with a
// nickname behind it, or as a nickname.
func (d declared) lists(s *routerStatus) bool {
	for w, rest := word(d.members); len(w) > 0; w, rest = word(rest) {
		if fingerprint, is := bytes.CutPrefix(w, []byte{'$'}); !is {
			if bytes.EqualFold(w, s.nickname) {
				return true
			}
		} else if len(fingerprint) >= 40 {
			var f [20]byte
			if _, err := hex.Decode(f[:], fingerprint[:40]); err == nil && f == s.fingerprint {
				return true
			}
		}
	}
	return false
}

// findFamilies reads the families of the wanted relays from the microdescriptors that
// mds has just parsed.
func findFamilies(wanted [][20]byte, doc *document, mds *microdescs, text []byte) families {
	status := make(map[[32]byte]*routerStatus, len(doc.relays))
	for i := range doc.relays {
		status[doc.relays[i].digest] = &doc.relays[i]
	}
	said := make(map[*routerStatus]declared)
	byPrint := make(map[[20]byte]*routerStatus)
	for at := nextMicrodesc(text, 0); at < len(text); {
		end := endOfMicrodesc(text, at)
		body := wholeLines(text[at:end])
		if s := status[mds.take(body).digest]; s != nil {
			if d := declares(body); len(d.members)+len(d.ids) > 0 {
				said[s], byPrint[s.fingerprint] = d, s
			}
		}
		at = nextMicrodesc(text, end)
	}
	out := make(families)
	for _, f := range wanted {
		first := byPrint[f]
		if first == nil || out[f] != nil {
			continue
		}
		own := said[first]
		ids := strings.Fields(string(own.ids))
		common := func(d declared) bool {
			return slices.ContainsFunc(ids, func(id string) bool { return hasWord(d.ids, []byte(id)) })
		}
		out[f] = make(map[[20]byte]bool)
		for s, d := range said {
			if s != first && (common(d) || d.lists(first) && own.lists(s)) {
				out[f][s.fingerprint] = true
			}
		}
	}
	return out
}
