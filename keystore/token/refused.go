package token

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"

	"onionbalancer/internal/locked"
	"onionbalancer/internal/openfile"
	"onionbalancer/keystore/pkcs11uri"
	"onionbalancer/keystore/token/pin"
)

// pinTarget is where a PIN goes.
type pinTarget struct {
	module   string // as the dynamic linker takes it
	file     string // the module's, behind symbolic links, if it is there
	selector Selector
}

func pinTargetOf(uri *pkcs11uri.URI) (pinTarget, error) {
	at := pinTarget{uri.ModulePath, uri.ModulePath, SelectorOf(uri)}
	// A name without a slash is for the dynamic linker to find.
	if strings.Contains(at.module, "/") {
		path, err := filepath.Abs(at.module)
		if err != nil {
			return pinTarget{}, err
		}
		at.module, at.file = path, path
		if real, err := filepath.EvalSymlinks(path); err == nil {
			at.file = real
		}
	}
	return at, nil
}

// overlaps reports whether both may be the same token. If one is named by
// its label and the other by its serial, that is unknown before they are found.
func (p pinTarget) overlaps(other pinTarget) bool {
	same := func(a, b string) bool { return a == "" || b == "" || a == b }
	a, b := p.selector, other.selector
	return p.file == other.file && same(a.Label, b.Label) && same(a.Serial, b.Serial) &&
		same(a.Manufacturer, b.Manufacturer) && same(a.Model, b.Model)
}

// refusals records tokens' refusals of PINs, for the life of this process,
// and longer by the file of marks: a restarted helper, or a token that is opened again,
// must not retry a refused PIN, since a token locks itself after a few tries.
var refusals = struct {
	mu      sync.Mutex
	pins    []attempt
	doubted []attempt // whose result is unknown
	held    map[pinTarget]heldBack
	met     map[pinTarget]bool // places that a PIN was read for
	marks   string             // path of the file of marks, empty for none
	asked   bool               // that earlier refusals do not count
}{held: map[pinTarget]heldBack{}, met: map[pinTarget]bool{}}

// attempt is a PIN, and where it was tried.
type attempt struct {
	pinTarget
	pin fingerprint
}

// heldBack is a token that is not called for a while, with any PIN.
type heldBack struct {
	err   Error
	until time.Time
}

// remember records what an error of a token means for the next try.
func (p pinTarget) remember(pin fingerprint, from pinFile, err *Error) {
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

// opened records the result of a login. If the result is unknown, the token
// may have counted a wrong PIN.
func (p pinTarget) opened(pin fingerprint, err error) {
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

// doubts reports whether a login with the PIN may have failed unnoticed.
func (p pinTarget) doubts(pin fingerprint) bool {
	refusals.mu.Lock()
	defer refusals.mu.Unlock()
	return slices.ContainsFunc(refusals.doubted, func(a attempt) bool { return a.pin == pin && a.overlaps(p) })
}

// heldBack returns the error for which the token is not called now.
func (p pinTarget) heldBack() error {
	refusals.mu.Lock()
	defer refusals.mu.Unlock()
	if held, ok := refusals.held[p]; ok && time.Now().Before(held.until) {
		return &held.err
	}
	return nil
}

// refuses returns an error if the PIN was refused before.
func (p pinTarget) refuses(pin fingerprint) error {
	refusals.mu.Lock()
	defer refusals.mu.Unlock()
	for _, a := range refusals.pins {
		if a.pin != pin || !a.overlaps(p) {
			continue
		}
		if a.pinTarget == p {
			return Errorf(CodePIN, "the token has refused this PIN, which is not tried again; give the right one")
		}
		return Errorf(CodePIN, "a token that may be the same one has refused this PIN, which is not tried again; give the right one, or name every token by both label and serial")
	}
	return nil
}

// mark records, across processes, that a token refused the PIN in a file. It
// identifies the file version, and stores nothing of the content: a PIN has so few
// digits that any hash of it can be tried out in no time, however slow and salted,
// and a refused PIN is seldom worthless. It is the right one but
// for a slip, or that of another token. So a file that was written again counts
// as another PIN, and is tried.
type mark struct {
	Module  string         `json:"module"`
	Token   Selector       `json:"token"`
	File    string         `json:"file"`
	Stamp   openfile.Stamp `json:"stamp"`
	Refused time.Time      `json:"refused"`
}

func (m mark) overlaps(p pinTarget) bool {
	return pinTarget{file: m.Module, selector: m.Token}.overlaps(p)
}

// marksFile is the file of marks in a state directory.
const marksFile = "refused-pins.json"

// RememberIn has refused PINs remembered in dir, for processes to come. A PIN
// that is in no file cannot be: there the token's own count of wrong PINs, if it
// tells that it counts one, keeps later processes from trying.
func RememberIn(dir string) {
	refusals.mu.Lock()
	defer refusals.mu.Unlock()
	refusals.marks = filepath.Join(dir, marksFile)
}

// TryPIN has PINs tried in this process that an earlier one may have seen
// refused, since an operator says so.
func TryPIN() {
	refusals.mu.Lock()
	defer refusals.mu.Unlock()
	refusals.asked = true
}

// pinFile is the file of a PIN as it was before it was read; the zero value is a
// PIN from elsewhere.
type pinFile struct {
	path  string
	stamp openfile.Stamp
}

func fileOf(source pin.Source) pinFile {
	path, ok := source.File()
	if !ok {
		return pinFile{}
	}
	info, err := os.Stat(path)
	if err != nil {
		return pinFile{} // reading it says why
	}
	return pinFile{path, openfile.StampOf(info)}
}

// marked returns an error if an earlier process saw the PIN of the file refused.
func (p pinTarget) marked(from pinFile) error {
	refusals.mu.Lock()
	defer refusals.mu.Unlock()
	for _, m := range readMarks() {
		if m.overlaps(p) && (pinFile{m.File, m.Stamp}) == from && !refusals.asked {
			return Errorf(CodePIN, "the token refused the PIN in this file at %s UTC, and the file is the same since: write the right one into it, or, if the token was given this one meanwhile, run: balancer check --try-pin",
				m.Refused.UTC().Format(time.DateTime))
		}
	}
	return nil
}

// meet takes note of the first PIN that this process has for a token. If the
// token counts a wrong one, it may have been this, tried by another process;
// unless it is known which one that was, or a person wants it to be tried.
func (p pinTarget) meet(pin fingerprint, wanted bool) {
	refusals.mu.Lock()
	defer refusals.mu.Unlock()
	if refusals.met[p] {
		return
	}
	refusals.met[p] = true
	known := slices.ContainsFunc(readMarks(), func(m mark) bool { return m.overlaps(p) })
	if !known && !wanted && !refusals.asked {
		refusals.doubted = with(refusals.doubted, attempt{p, pin})
	}
}

// setMarkLocked replaces the record of a token by the refusal of a
// file's PIN; by nothing if from is zero.
func (p pinTarget) setMarkLocked(from pinFile) {
	before := readMarks()
	marks := slices.DeleteFunc(slices.Clone(before), func(m mark) bool { return m.overlaps(p) })
	if from != (pinFile{}) {
		marks = append(marks, mark{p.file, p.selector, from.path, from.stamp, time.Now().UTC().Truncate(time.Second)})
	}
	if refusals.marks == "" || len(before)+len(marks) == 0 {
		return
	}
	raw, err := json.Marshal(marks)
	if err == nil {
		err = renameio.WriteFile(refusals.marks, raw, 0o600)
	}
	if err != nil {
		logging().Warn("a refused PIN is recorded by this process only", "error", err)
	}
}

// readMarks returns the records of earlier processes. Unreadable ones are ignored:
// at worst a PIN is tried once more.
func readMarks() (marks []mark) {
	if refusals.marks == "" {
		return nil
	}
	raw, err := os.ReadFile(refusals.marks)
	if err == nil {
		err = json.Unmarshal(raw, &marks)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		logging().Warn("the record of refused PINs cannot be read", "error", fmt.Errorf("reading %s: %w", refusals.marks, err))
		return nil
	}
	return marks
}

// fingerprint identifies a PIN by a hash under a key that only this process has.
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
	pin.Do(func(pin []byte) { f.sum = hashOf(pin) })
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
