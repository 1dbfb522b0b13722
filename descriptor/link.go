package descriptor

import (
	"errors"
	"fmt"
)

// Types of link specifiers (tor-spec, EXTEND2). Others are carried verbatim.
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
var linkLengths = map[byte]int{LinkIPv4: 6, LinkIPv6: 18, LinkRSA: 20, LinkEd25519: 32}

// checkLinkSpecifiers refuses what leaves a client without a relay to extend
// to: tor's clients want an IPv4 address with a port and an RSA identity.
func checkLinkSpecifiers(specs []LinkSpecifier) error {
	var address, identity bool
	for _, l := range specs {
		if want, known := linkLengths[l.Type]; known && len(l.Data) != want {
			return fmt.Errorf("link specifier of type %d and %d bytes, want %d", l.Type, len(l.Data), want)
		}
		if l.Type == LinkIPv4 && !address {
			address = true
			if [4]byte(l.Data) == ([4]byte{}) || [2]byte(l.Data[4:]) == ([2]byte{}) {
				return errors.New("link specifiers begin with the IPv4 address or port 0")
			}
		}
		identity = identity || l.Type == LinkRSA
	}
	if !address || !identity {
		return errors.New("link specifiers lack an IPv4 address or an RSA identity")
	}
	return nil
}
