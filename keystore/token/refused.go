package token

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"onionbalancer/keystore/pkcs11uri"
)

// place is where a PIN goes.
type place struct {
	module   string // as the dynamic linker takes it
	file     string // the module's, behind symbolic links, if it is there
	selector Selector
}

func placeOf(uri *pkcs11uri.URI) (place, error) {
	at := place{uri.ModulePath, uri.ModulePath, SelectorOf(uri)}
	// A name without a slash is for the dynamic linker to find.
	if strings.Contains(at.module, "/") {
		path, err := filepath.Abs(at.module)
		if err != nil {
			return place{}, err
		}
		at.module, at.file = path, path
		if real, err := filepath.EvalSymlinks(path); err == nil {
			at.file = real
		}
	}
	return at, nil
}

// overlaps tells whether both may be the same token. It is: if one is named by
// its label and the other by its serial, nobody knows before they are found.
func (p place) overlaps(other place) bool {
	same := func(a, b string) bool { return a == "" || b == "" || a == b }
	a, b := p.selector, other.selector
	return p.file == other.file && same(a.Label, b.Label) && same(a.Serial, b.Serial) &&
		same(a.Manufacturer, b.Manufacturer) && same(a.Model, b.Model)
}

// refusals is what tokens have said of PINs, for as long as this process lives,
// and longer by the file of marks: a helper that is started again, or a token that is opened again, must not try
// what was refused, for after a few tries a token locks itself.
var refusals = struct {
	mu      sync.Mutex
	pins    []attempt
	doubted []attempt // of which nobody knows what came of them
	held    map[place]heldBack
	met     map[place]bool // places that a PIN was read for
	marks   string         // path of the file of marks, empty for none
	asked   bool           // that earlier refusals do not count
}{held: map[place]heldBack{}, met: map[place]bool{}}

// attempt is a PIN, and where it went.
type attempt struct {
	place
	pin fingerprint
}

// heldBack is a token that is not asked for a while, whatever the PIN.
type heldBack struct {
	err   Error
	until time.Time
}

// remember keeps what an error of a token means for the next try.
func (p place) remember(pin fingerprint, from pinFile, err *Error) {
	refusals.mu.Lock()
	defer refusals.mu.Unlock()
	switch err.Code {
	case CodePIN:
		refusals.pins = with(refusals.pins, attempt{p, pin})
		if from != (pinFile{}) {
			p.setMarkLocked(from)
		}
	case CodeFinalTry, CodeLocked:
		refusals.held[p] = heldBack{*err, time.Now().Add(limits.heldBack)}
	}
}

// opened keeps what came of a login. Where it is nothing that tells, the token
// may have counted a wrong PIN.
func (p place) opened(pin fingerprint, err error) {
	refusals.mu.Lock()
	defer refusals.mu.Unlock()
	switch known, ok := errors.AsType[*Error](err); {
	case err == nil:
		refusals.doubted = slices.DeleteFunc(refusals.doubted, func(a attempt) bool { return a == attempt{p, pin} })
		p.setMarkLocked(pinFile{})
	case ok && (known.Code == CodeCrashed || known.Code == CodeFailed):
		refusals.doubted = with(refusals.doubted, attempt{p, pin})
	}
}

func with(list []attempt, a attempt) []attempt {
	if slices.Contains(list, a) {
		return list
	}
	return append(list, a)
}

// doubts tells whether a login with the PIN may have failed unseen.
func (p place) doubts(pin fingerprint) bool {
	refusals.mu.Lock()
	defer refusals.mu.Unlock()
	return slices.ContainsFunc(refusals.doubted, func(a attempt) bool { return a.pin == pin && a.overlaps(p) })
}

// heldBack returns the error for which the token is left alone now.
func (p place) heldBack() error {
	refusals.mu.Lock()
	defer refusals.mu.Unlock()
	if held, ok := refusals.held[p]; ok && time.Now().Before(held.until) {
		return &held.err
	}
	return nil
}

// refuses returns an error if the PIN was refused before.
func (p place) refuses(pin fingerprint) error {
	refusals.mu.Lock()
	defer refusals.mu.Unlock()
	for _, a := range refusals.pins {
		if a.pin != pin || !a.overlaps(p) {
			continue
		}
		if a.place == p {
			return Errorf(CodePIN, "the token has refused this PIN, which is not tried again; give the right one")
		}
		return Errorf(CodePIN, "a token that may be the same one has refused this PIN, which is not tried again; give the right one, or name every token by both label and serial")
	}
	return nil
}
