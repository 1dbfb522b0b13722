package hsdir

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sort"

	"onionbalancer/descriptor"
)

// listedRelay is the consensus's entry of a relay that introduction points may name.
type listedRelay struct {
	fingerprint [20]byte
	ed25519     [32]byte // zero if it is not known
	ipv4, ipv6  netip.AddrPort
	flags       *flags
}

// ErrRelay says that the consensus lists no such relay as an introduction point
// names.
var ErrRelay = errors.New("its relay is not in the consensus as the introduction point names it")

// Vouch returns p as it may be published, mostly p itself, if the relay that p names is in the
// consensus, running, and has the identities and the IPv4 address that p gives.
// An IPv6 address that the consensus does not know is left out: authorities list
// it only while they reach it. Any error is an ErrRelay. The Ed25519 identity of a
// relay whose microdescriptor is missing is not checked: a wrong one keeps
// clients from p alone.
func (c *Consensus) Vouch(p *descriptor.IntroductionPoint) (*descriptor.IntroductionPoint, error) {
	relay := c.relayOf(p)
	switch {
	case relay == nil:
		return nil, fmt.Errorf("%w: there is no %s", ErrRelay, p.Relay())
	case relay.flags == nil || !relay.flags.running:
		return nil, fmt.Errorf("%w: %s is not running", ErrRelay, p.Relay())
	}
	for _, l := range p.LinkSpecifiers {
		if what := relay.contradicts(l); what != "" {
			return nil, fmt.Errorf("%w: %s has another %s", ErrRelay, p.Relay(), what)
		}
	}
	if unknown := func(l descriptor.LinkSpecifier) bool {
		return l.Type == descriptor.LinkIPv6 && !sameAddress(l.Data, relay.ipv6)
	}; slices.ContainsFunc(p.LinkSpecifiers, unknown) {
		without := *p
		without.LinkSpecifiers = slices.DeleteFunc(slices.Clone(p.LinkSpecifiers), unknown)
		return &without, nil
	}
	return p, nil
}

// relayOf finds the relay by the RSA identity that p gives first, nil if there is
// none.
func (c *Consensus) relayOf(p *descriptor.IntroductionPoint) *listedRelay {
	for _, l := range p.LinkSpecifiers {
		if l.Type != descriptor.LinkRSA {
			continue
		}
		at := sort.Search(len(c.relays), func(i int) bool { return bytes.Compare(c.relays[i].fingerprint[:], l.Data) >= 0 })
		if at < len(c.relays) && bytes.Equal(c.relays[at].fingerprint[:], l.Data) {
			return &c.relays[at]
		}
		break
	}
	return nil
}

// contradicts returns what l has wrong about the relay, empty if nothing.
func (r *listedRelay) contradicts(l descriptor.LinkSpecifier) string {
	switch {
	case l.Type == descriptor.LinkIPv4 && !sameAddress(l.Data, r.ipv4):
		return "IPv4 address or port"
	case l.Type == descriptor.LinkRSA && !bytes.Equal(l.Data, r.fingerprint[:]):
		return "RSA identity"
	case l.Type == descriptor.LinkEd25519 && r.ed25519 != [32]byte{} && !bytes.Equal(l.Data, r.ed25519[:]):
		return "Ed25519 identity"
	}
	return ""
}

// sameAddress compares the data of a link specifier, an address and a port.
func sameAddress(data []byte, want netip.AddrPort) bool {
	ip, ok := netip.AddrFromSlice(data[:max(0, len(data)-2)])
	return ok && ip == want.Addr() && binary.BigEndian.Uint16(data[len(data)-2:]) == want.Port()
}
