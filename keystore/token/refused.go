package token

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"sync"
	"time"

	"onionbalancer/internal/locked"
)

// fingerprint recognises a PIN by a hash under a key that only this process has.
type fingerprint struct {
	sum  [sha256.Size]byte
	size int // of the PIN in bytes; 0 is none
}

var fingerprintKey = sync.OnceValue(func() []byte {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails
	return key
})

func fingerprintOf(pin *locked.Buffer) (f fingerprint) {
	if pin == nil {
		return fingerprint{}
	}
	f.size = pin.Len()
	locked.Do(func() { f.sum = hashOf(pin.Bytes()) })
	return f
}

func hashOf(text []byte) (sum [sha256.Size]byte) {
	h := hmac.New(sha256.New, fingerprintKey())
	h.Write(text)
	h.Sum(sum[:0])
	return sum
}

// within tells whether text holds the PIN, as it is or in hexadecimal with
// whatever between the digits.
func (f fingerprint) within(text []byte) (found bool) {
	if f.size == 0 {
		return false
	}
	locked.Do(func() { found = f.contained(text) || f.inHex(text) })
	return found
}

func (f fingerprint) contained(text []byte) bool {
	for ; len(text) >= f.size; text = text[1:] {
		if hashOf(text[:f.size]) == f.sum {
			return true
		}
	}
	return false
}

func (f fingerprint) inHex(text []byte) bool {
	digits := bytes.ReplaceAll(bytes.ToLower(text), []byte("0x"), nil)
	digits = slices.DeleteFunc(digits, func(c byte) bool { return (c < '0' || c > '9') && (c < 'a' || c > 'f') })
	for range 2 { // of both ways to pair the digits
		raw := make([]byte, len(digits)/2)
		if _, err := hex.Decode(raw, digits[:len(raw)*2]); err == nil && f.contained(raw) {
			return true
		}
		digits = digits[min(1, len(digits)):]
	}
	return false
}

// refusals is what tokens have said of PINs, for as long as this process lives:
// a helper that is started again, or a token that is opened again, must not try
// what was refused, for after a few tries a token locks itself.
var refusals struct {
	mu   sync.Mutex
	pins []refusedPIN
	held []heldBack
}

type refusedPIN struct {
	place
	pin fingerprint
}

// heldBack is a token that is not asked for a while, whatever the PIN.
type heldBack struct {
	place
	err   Error
	until time.Time
}

// place is where a PIN goes.
type place struct {
	module   string
	selector Selector
}

// overlaps tells whether both may be the same token. It is: if one is named by
// its label and the other by its serial, nobody knows before they are found.
func (p place) overlaps(other place) bool {
	same := func(a, b string) bool { return a == "" || b == "" || a == b }
	a, b := p.selector, other.selector
	return p.module == other.module && same(a.Label, b.Label) && same(a.Serial, b.Serial) &&
		same(a.Manufacturer, b.Manufacturer) && same(a.Model, b.Model)
}

// remember keeps what an error of a token means for the next try.
func (p place) remember(pin fingerprint, err *Error) {
	refusals.mu.Lock()
	defer refusals.mu.Unlock()
	switch err.Code {
	case CodePIN:
		if refused := (refusedPIN{p, pin}); !slices.Contains(refusals.pins, refused) {
			refusals.pins = append(refusals.pins, refused)
		}
	case CodeFinalTry, CodeLocked:
		refusals.held = slices.DeleteFunc(refusals.held, func(h heldBack) bool { return h.place == p })
		refusals.held = append(refusals.held, heldBack{p, *err, time.Now().Add(limits.heldBack)})
	}
}

// heldBack returns the error for which the token is left alone now.
func (p place) heldBack() error {
	refusals.mu.Lock()
	defer refusals.mu.Unlock()
	refusals.held = slices.DeleteFunc(refusals.held, func(h heldBack) bool { return time.Now().After(h.until) })
	for _, h := range refusals.held {
		if h.overlaps(p) {
			return &h.err
		}
	}
	return nil
}

// refuses returns an error if the PIN was refused before.
func (p place) refuses(pin fingerprint) error {
	refusals.mu.Lock()
	defer refusals.mu.Unlock()
	for _, r := range refusals.pins {
		if r.pin != pin || !r.overlaps(p) {
			continue
		}
		if r.place == p {
			return Errorf(CodePIN, "the token has refused this PIN, which is not tried again; give the right one")
		}
		return Errorf(CodePIN, "a token that may be the same one has refused this PIN, which is not tried again; give the right one, or name every token by both label and serial")
	}
	return nil
}
