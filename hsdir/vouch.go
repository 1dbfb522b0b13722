package hsdir

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sort"

	"onionbalancer/descriptor"
)

// listed is what a consensus says of a relay that introduction points may name.
type listed struct {
	fingerprint [20]byte
	ed25519     [32]byte // zero if it is not known
	ipv4, ipv6  netip.AddrPort
	running     bool
}

// ErrRelay says that the consensus knows no such relay as an introduction point
// names.
var ErrRelay = errors.New("its relay is not in the consensus as the introduction point names it")

// Vouch reports whether the relay that p names is in the consensus, running,
// and has the identities and addresses that p gives; the error then is nil. Any
// other error is an ErrRelay. The Ed25519 identity of a relay whose
// microdescriptor is not known goes unchecked: a wrong one keeps clients from p
// alone.
func (c *Consensus) Vouch(p *descriptor.IntroductionPoint) error {
	var rsa []byte
	for _, l := range p.LinkSpecifiers {
		if l.Type == descriptor.LinkRSA {
			rsa = l.Data
			break
		}
	}
	at := sort.Search(len(c.relays), func(i int) bool { return bytes.Compare(c.relays[i].fingerprint[:], rsa) >= 0 })
	if at == len(c.relays) || !bytes.Equal(c.relays[at].fingerprint[:], rsa) {
		return fmt.Errorf("%w: there is no %s", ErrRelay, p.Relay())
	}
	relay := &c.relays[at]
	if !relay.running {
		return fmt.Errorf("%w: %s is not running", ErrRelay, p.Relay())
	}
	for _, l := range p.LinkSpecifiers {
		if what := relay.contradicts(l); what != "" {
			return fmt.Errorf("%w: %s has another %s", ErrRelay, p.Relay(), what)
		}
	}
	return nil
}

// contradicts returns what l has wrong about the relay, or nothing.
func (r *listed) contradicts(l descriptor.LinkSpecifier) string {
	switch {
	case l.Type == descriptor.LinkIPv4 && !sameAddress(l.Data, r.ipv4):
		return "IPv4 address or port"
	case l.Type == descriptor.LinkIPv6 && !sameAddress(l.Data, r.ipv6):
		return "IPv6 address or port"
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
