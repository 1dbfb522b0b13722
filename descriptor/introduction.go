package descriptor

import (
	"bytes"
	"fmt"
	"slices"
	"time"
)

// MaxIntroductionPoints is how many introduction points a descriptor may have.
// Clients refuse one with more, whatever its size.
const MaxIntroductionPoints = 20

// IntroductionPoint is a relay through which a service is reached, with what
// is needed to publish it again under another descriptor-signing key.
// Its slices may be shared between descriptors: they are read only.
type IntroductionPoint struct {
	LinkSpecifiers []LinkSpecifier // as they came, unknown types too
	OnionKey       [32]byte        // ntor key of the relay
	AuthKey        [32]byte        // Ed25519: names the circuit to the service
	EncKey         [32]byte        // curve25519: what the client encrypts to
	Expires        time.Time       // the earlier of the two certificates' expiry, a whole hour
	Legacy         bool            // had a legacy-key: never published again

	authCert, encCert Certificate // as decoded; zero for a point made here
}

// Certificates returns the certificates that the point was decoded with: its
// auth-key's (type 09) and its enc-key's (type 0B).
func (p *IntroductionPoint) Certificates() (auth, enc Certificate) { return p.authCert, p.encCert }

// Relay identifies the relay as clients do, who find the point of an open
// circuit by it: the first RSA fingerprint, in 40 upper-case hexadecimal
// digits. It is empty for a point without one, which Decode leaves out.
func (p *IntroductionPoint) Relay() string {
	for _, l := range p.LinkSpecifiers {
		if l.Type == LinkRSA {
			return fmt.Sprintf("%X", l.Data)
		}
	}
	return ""
}

// Publishable returns p as it may stand in another descriptor: with nothing but
// what tor knows, and in tor's order. So neither what an instance adds nor how
// it writes it is carried on, and a point takes a bounded room, see MaxPoints.
func (p *IntroductionPoint) Publishable() IntroductionPoint {
	q := *p
	q.LinkSpecifiers = knownSpecifiers(p.LinkSpecifiers)
	return q
}

// Equal reports whether p and q are the same point, to be published in the
// same way: same relay and specifiers, same keys, same expiry. The signatures
// that the two came with do not matter.
func (p *IntroductionPoint) Equal(q *IntroductionPoint) bool {
	return p.OnionKey == q.OnionKey && p.AuthKey == q.AuthKey && p.EncKey == q.EncKey &&
		p.Expires.Equal(q.Expires) && p.Legacy == q.Legacy &&
		slices.EqualFunc(p.LinkSpecifiers, q.LinkSpecifiers, func(a, b LinkSpecifier) bool {
			return a.Type == b.Type && bytes.Equal(a.Data, b.Data)
		})
}
