// Package descriptor is the codec for version 3 onion-service descriptors and
// the public-key mathematics around them: addresses, time periods, key
// blinding, certificates, the three layers, introduction points and revision
// counters. It implements rend-spec-v3 and the parts of cert-spec that it
// needs, in both directions.
//
// The package touches no network, no file and no clock: the time, when it
// matters, is an argument, and so is every source of randomness. Of our own
// packages it uses internal/locked alone, which touches nothing outside either: the
// memory for identity and blinded secrets, and the functions that erase the
// traces of computing with them.
package descriptor

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Contents is the second layer of a descriptor, which only those who know the
// onion address, and the client key if one is needed, can read
// (rend-spec-v3, section 2.5.2).
type Contents struct {
	// Create2Formats are the handshakes that the introduction points take; 2 is
	// ntor. Empty stands for 2 alone when encoding.
	Create2Formats []int
	// IntroAuthRequired is empty but for services that want introduction-layer
	// authentication ("ed25519").
	IntroAuthRequired []string
	// SingleOnion says that the service does without anonymity, so that a client
	// may count on shorter circuits.
	SingleOnion bool
	// FlowControl is nil if the service does no congestion control.
	FlowControl *FlowControl
	// PowParams asks clients for proof of work. They are bound to the descriptor
	// they stand in: never copy an instance's into a master descriptor.
	PowParams []PowParams
	// CAA says which certification authorities may issue for the address.
	CAA []CAA
	// CAACritical tells readers of the first layer alone that an authority must not
	// issue before it has read CAA (RFC 9799, section 6.3).
	CAACritical        bool
	IntroductionPoints []IntroductionPoint
	// Made is when the descriptor is made, by which Encode dates its certificates as
	// tor does: those of all introduction points expire at PointExpiry, and that of the
	// descriptor-signing key is the one of this hour. If it is zero, each point has its
	// own expiry, and the descriptor-signing key its first certificate. Decode leaves
	// it zero.
	Made time.Time
	// Clients are the only ones who can read the layer, whatever their order; it
	// is public if there are none. A descriptor does not tell who they are, so
	// Decode leaves them empty.
	Clients []AuthorizedClient
}

// FlowControl advertises congestion control (proposal 324).
type FlowControl struct {
	Versions  string // of the FlowCtrl subprotocol: "1-2"
	SendmeInc uint8  // cells per SENDME; clients refuse a value far from their consensus's
}

// PowParams is one pow-params line (proposal 327).
type PowParams struct {
	Scheme  string // "v1" or, kept but not understood, another
	Seed    [32]byte
	Effort  uint32 // suggested
	Expires time.Time
	Other   string // the arguments, for a scheme other than v1
}

const powTime = "2006-01-02T15:04:05"

// String returns the arguments of the pow-params line.
func (p PowParams) String() string {
	if p.Scheme != powScheme {
		if p.Other == "" {
			return p.Scheme
		}
		return p.Scheme + " " + p.Other
	}
	return fmt.Sprintf("%s %s %d %s", p.Scheme, base64.StdEncoding.EncodeToString(p.Seed[:]), p.Effort, p.Expires.UTC().Format(powTime))
}

const powScheme = "v1"

// AuthClient is one auth-client entry of the first layer: the descriptor
// cookie, encrypted for one client, or random bytes in the shape of it.
type AuthClient struct {
	ID              [8]byte
	IV              [16]byte
	EncryptedCookie [16]byte
}

// Descriptor is a decoded and verified descriptor. Its slices may be shared
// with other decodes of the same bytes: they are read only.
type Descriptor struct {
	Lifetime         time.Duration // whole minutes, 30 to 720
	RevisionCounter  uint64
	SigningCert      Certificate // type 08: certifies the descriptor-signing key
	AuthEphemeralKey [32]byte    // x25519
	AuthClients      []AuthClient
	// NeedsClientKey says that a client key was needed to read Contents.
	NeedsClientKey bool
	Contents
	// Dropped has the error of each introduction point that was left out;
	// the rest of the descriptor is valid.
	Dropped []*ParseError
}

// String returns the arguments of the flow-control line.
func (f FlowControl) String() string { return fmt.Sprintf("%s %d", f.Versions, f.SendmeInc) }

// Layer names the part of a descriptor that an error is about.
type Layer string

// The three texts that a descriptor consists of (rend-spec-v3, sections 2.4,
// 2.5.1 and 2.5.2).
const (
	LayerOuter  Layer = "outer wrapper"
	LayerFirst  Layer = "first layer"
	LayerSecond Layer = "second layer"
)

// ErrClientKey is wrapped by a Decode error when the second layer does not
// open: the descriptor needs client authorization and no client key, or
// another service's, was given. A damaged second layer looks the same.
var ErrClientKey = errors.New("needs client authorization, and no client key given opens it")

// ErrTooLarge is wrapped by errors about a descriptor of too many bytes.
var ErrTooLarge = errors.New("too large")

// ErrNotOurs is wrapped by a Decode error when the descriptor is signed, but
// for another blinded key than the one asked for: another service, another
// period, or a forgery.
var ErrNotOurs = errors.New("made for another blinded key")

// ParseError says where a descriptor departs from the format.
type ParseError struct {
	Layer   Layer
	Line    int    // from 1, within the layer's plaintext; 0 if no single line is at fault
	Keyword string // of the line at fault or missing; empty if there is none
	Err     error
}

// Error names the place, then the fault.
func (e *ParseError) Error() string {
	var b strings.Builder
	b.WriteString("descriptor, ")
	b.WriteString(string(e.Layer))
	if e.Line > 0 {
		fmt.Fprintf(&b, ", line %d", e.Line)
	}
	if e.Keyword != "" {
		fmt.Fprintf(&b, ", %q", e.Keyword)
	}
	b.WriteString(": ")
	b.WriteString(e.Err.Error())
	return b.String()
}

// Unwrap returns the fault.
func (e *ParseError) Unwrap() error { return e.Err }

// check refuses contents that would make a client refuse the whole descriptor.
func (c *Contents) check() error {
	if n := len(c.IntroductionPoints); n > MaxIntroductionPoints {
		return fmt.Errorf("%d introduction points, clients take at most %d", n, MaxIntroductionPoints)
	}
	if len(c.Create2Formats) > 0 && !slices.Contains(c.Create2Formats, ntorFormat) {
		return fmt.Errorf("%s without ntor (%d)", kwCreate2, ntorFormat)
	}
	for _, f := range c.Create2Formats {
		if f < 0 || f > 1<<16-1 {
			return fmt.Errorf("%s: %d is no handshake type", kwCreate2, f)
		}
	}
	if len(c.IntroAuthRequired) > 0 && c.IntroAuthRequired[0] != introAuthWord {
		return fmt.Errorf("%s does not begin with %q", kwIntroAuth, introAuthWord)
	}
	if len(c.IntroAuthRequired) > maxWords {
		return fmt.Errorf("%s: %w", kwIntroAuth, errTooMany)
	}
	for _, word := range c.IntroAuthRequired {
		if !isWord(word) {
			return fmt.Errorf("%s: %q is no single word", kwIntroAuth, word)
		}
	}
	if f := c.FlowControl; f != nil {
		if err := f.check(); err != nil {
			return fmt.Errorf("%s: %w", kwFlowControl, err)
		}
	}
	if err := c.checkCAA(); err != nil {
		return fmt.Errorf("%s: %w", kwCAA, err)
	}
	return c.checkPow()
}

func (c *Contents) checkPow() error {
	if len(c.PowParams) > maxWords {
		return fmt.Errorf("%s: %w", kwPowParams, errTooMany)
	}
	v1 := 0
	for _, p := range c.PowParams {
		if p.Scheme == powScheme {
			v1++
			if y := p.Expires.UTC().Year(); y < 1970 || y > 9999 {
				return fmt.Errorf("%s: expiry does not fit", kwPowParams)
			}
		} else if !isWord(p.Scheme) || !areWords(p.Other) {
			return fmt.Errorf("%s: malformed", kwPowParams)
		}
	}
	if v1 > 1 {
		return fmt.Errorf("%s of scheme %s more than once", kwPowParams, powScheme)
	}
	return nil
}

// isWord reports whether s can stand as one argument.
func isWord(s string) bool { return s != "" && !strings.ContainsAny(s, " \n\x00") }

// areWords reports whether s is empty or arguments with a blank between each.
func areWords(s string) bool {
	words := strings.Split(s, " ")
	return s == "" || len(words) <= maxWords && !slices.ContainsFunc(words, func(w string) bool { return !isWord(w) })
}

// check refuses a value that is not a list of versions or would never send a SENDME.
func (f *FlowControl) check() error {
	if f.SendmeInc == 0 {
		return errors.New("a SENDME for every 0 cells")
	}
	if f.Versions == "" || strings.Trim(f.Versions, "0123456789-,") != "" {
		return errors.New("not a list of versions")
	}
	return nil
}
