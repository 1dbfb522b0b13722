package descriptor

import (
	"errors"
	"fmt"
)

// Types of link specifiers (tor-spec, EXTEND2). Others are read, and never
// published again.
const (
	LinkIPv4    = 0 // address, then port; 6 bytes
	LinkIPv6    = 1 // address, then port; 18 bytes
	LinkRSA     = 2 // fingerprint of the relay's RSA identity; 20 bytes
	LinkEd25519 = 3 // the relay's Ed25519 identity; 32 bytes
)

// LinkSpecifier says one thing about where a relay is or who it is.
type LinkSpecifier struct {
	Type byte
	Data []byte // at most 255 bytes
}

// appendLinkSpecifiers writes the binary form: their number, then type, length
// and data of each.
func appendLinkSpecifiers(b []byte, specs []LinkSpecifier) []byte {
	b = append(b, byte(len(specs)))
	for _, l := range specs {
		b = append(b, l.Type, byte(len(l.Data)))
		b = append(b, l.Data...)
	}
	return b
}

// parseLinkSpecifiers reads the whole of raw; the result aliases it.
func parseLinkSpecifiers(raw []byte) ([]LinkSpecifier, error) {
	if len(raw) == 0 || raw[0] == 0 {
		return nil, errors.New("no link specifiers")
	}
	count, rest := int(raw[0]), raw[1:]
	if len(rest) < 2*count {
		return nil, errors.New("link specifiers are cut short")
	}
	specs := make([]LinkSpecifier, count)
	for i := range specs {
		if len(rest) < 2 || len(rest)-2 < int(rest[1]) {
			return nil, errors.New("link specifiers are cut short")
		}
		end := 2 + int(rest[1])
		specs[i] = LinkSpecifier{Type: rest[0], Data: rest[2:end:end]}
		rest = rest[end:]
	}
	if len(rest) != 0 {
		return nil, fmt.Errorf("%d bytes after the link specifiers", len(rest))
	}
	return specs, checkLinkSpecifiers(specs)
}

// linkLengths are the lengths in bytes of the link specifiers that tor knows.
var linkLengths = [...]int{LinkIPv4: 6, LinkIPv6: 18, LinkRSA: 20, LinkEd25519: 32}

// checkLinkSpecifiers refuses what leaves a client without a relay to extend
// to, and what two readers may understand differently: of each type that tor
// knows there is one at most, and the IPv4 address and both identities are
// there. tor's clients extend to the last of two RSA identities and look for
// open circuits by the first.
func checkLinkSpecifiers(specs []LinkSpecifier) error {
	var seen [len(linkLengths)]bool
	for _, l := range specs {
		if int(l.Type) >= len(linkLengths) {
			continue
		}
		if want := linkLengths[l.Type]; len(l.Data) != want {
			return fmt.Errorf("link specifier of type %d and %d bytes, want %d", l.Type, len(l.Data), want)
		}
		if seen[l.Type] {
			return fmt.Errorf("two link specifiers of type %d", l.Type)
		}
		seen[l.Type] = true
		if l.Type == LinkIPv4 && ([4]byte(l.Data) == ([4]byte{}) || [2]byte(l.Data[4:]) == ([2]byte{})) {
			return errors.New("link specifiers with the IPv4 address or port 0")
		}
	}
	for _, want := range []byte{LinkIPv4, LinkRSA, LinkEd25519} {
		if !seen[want] {
			return fmt.Errorf("link specifiers lack one of type %d: an IPv4 address (%d), an RSA identity (%d) and an Ed25519 identity (%d) are needed",
				want, LinkIPv4, LinkRSA, LinkEd25519)
		}
	}
	return nil
}

// knownSpecifiers returns those of the specifiers that tor knows, in the order
// in which it writes them.
func knownSpecifiers(specs []LinkSpecifier) []LinkSpecifier {
	known := make([]LinkSpecifier, 0, len(linkLengths))
	for _, t := range []byte{LinkIPv4, LinkRSA, LinkEd25519, LinkIPv6} {
		for _, l := range specs {
			if l.Type == t {
				known = append(known, l)
			}
		}
	}
	return known
}
