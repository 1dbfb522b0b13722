//go:build cgo

package module

import (
	"fmt"
	"net/url"
	"strings"
	"unsafe"

	"github.com/miekg/pkcs11"

	"onionbalancer/internal/locked"
	"onionbalancer/keystore/token"
)

// Token is a token that was logged in to. It is for any number of goroutines.
type Token struct {
	module *Module
	want   token.Selector
	pin    *locked.Buffer // empty: none, or typed on the token itself

	// Under module.mu:
	current *session        // or nil
	refused bool            // the PIN, which is not tried again
	doubt   bool            // the last login failed for an unknown reason
	old     bool            // that was before Open
	begun   map[string]bool // keys that were to be made, and may be there half-tested
	closed  bool
}

// session is a session with a token, logged in.
type session struct {
	calls   api
	handle  pkcs11.SessionHandle
	slot    slot
	epoch   int // of the module
	login   func(*session) error
	spoilt  bool // something secret may still be in it
	pairs   map[string]*pair
	special map[pkcs11.ObjectHandle]bool // CKA_ALWAYS_AUTHENTICATE
}

// Open finds the one token that matches and logs in with a copy of pin, which
// may be nil. If it is unknown whether the token has refused it (inDoubt), and the token
// counts a wrong PIN, it is not tried: token.CodeFinalTry. Package token
// has the record of refused PINs.
func (m *Module) Open(want token.Selector, pin *locked.Buffer, inDoubt bool) (*Token, error) {
	t := &Token{module: m, want: want, pin: &locked.Buffer{}, begun: map[string]bool{}, old: inDoubt}
	if pin != nil && pin.Len() > 0 {
		t.pin = pin.Clone()
	}
	if err := t.do("opening", func(*session) error { return nil }); err != nil {
		t.pin.Wipe()
		return nil, err
	}
	return t, nil
}

// Close ends the session and wipes the PIN.
func (t *Token) Close() error {
	t.module.mu.Lock()
	defer t.module.mu.Unlock()
	onThread(t.drop)
	t.closed = true
	t.pin.Wipe()
	return nil
}

// Info returns the token's description of itself.
func (t *Token) Info() (info token.Info, err error) {
	err = t.do("asking", func(s *session) error {
		about, err := s.calls.GetInfo()
		if err != nil {
			return failed("C_GetInfo", err)
		}
		firmware := s.slot.token.FirmwareVersion
		info = token.Info{
			Selector: s.slot.selector(),
			Firmware: fmt.Sprintf("%d.%d", firmware.Major, firmware.Minor),
			Module: fmt.Sprintf("%s %d.%d", trim(about.LibraryDescription),
				about.LibraryVersion.Major, about.LibraryVersion.Minor),
		}
		return s.alive()
	})
	return info, err
}

// do calls f with a session, and again with a new one if the first turns
// out to be dead.
func (t *Token) do(doing string, f func(*session) error) error {
	t.module.mu.Lock()
	defer t.module.mu.Unlock()
	var err error
	onThread(func() { err = t.twice(f) })
	if err == nil {
		return nil
	}
	return explain(doing+" "+t.name(), err)
}

// twice calls f with a session, and again if that proves dead.
func (t *Token) twice(f func(*session) error) error {
	if err := t.ready(); err != nil {
		return err
	}
	err := t.run(f)
	if !stale(err) && !gone(err) && !vague(err) {
		return err
	}
	if !stale(err) {
		t.module.stop() // to look for tokens again
	}
	if err := t.ready(); err != nil {
		return err
	}
	return t.run(f)
}

// ready makes sure that there is a session.
func (t *Token) ready() error {
	switch {
	case t.closed || t.module.closed:
		return token.Errorf(token.CodeMisuse, "it was closed")
	case t.refused:
		return errRefused()
	case t.current != nil && t.current.epoch == t.module.epoch && t.module.ready:
		return nil
	}
	var err error
	t.current, err = t.reopen()
	return err
}

// run calls f, and closes the session if it cannot be used any more.
func (t *Token) run(f func(*session) error) error {
	err := f(t.current)
	if t.current.spoilt || stale(err) || gone(err) || vague(err) {
		t.drop()
	}
	return err
}

// reopen finds the token and opens a session, restarting the module if it does
// not see the token or has lost it.
func (t *Token) reopen() (*session, error) {
	epoch := t.module.epoch
	s, err := t.open()
	lost := stale(err) || gone(err) || vague(err) || hasCode(err, token.CodeAbsent)
	if !lost || t.module.epoch != epoch {
		return s, err
	}
	if err := t.module.restart(); err != nil {
		return nil, err
	}
	return t.open()
}

// open opens a session and logs in.
func (t *Token) open() (*session, error) {
	if err := t.module.start(); err != nil {
		return nil, err
	}
	where, err := t.module.find(t.want)
	if err != nil {
		return nil, err
	}
	s := &session{
		calls: t.module.calls, slot: where, epoch: t.module.epoch,
		pairs: map[string]*pair{}, special: map[pkcs11.ObjectHandle]bool{},
		login: func(s *session) error { return t.authenticate(s, pkcs11.CKU_CONTEXT_SPECIFIC) },
	}
	s.handle, err = s.calls.OpenSession(where.number, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil && is(err, pkcs11.CKR_TOKEN_WRITE_PROTECTED) {
		s.handle, err = s.calls.OpenSession(where.number, pkcs11.CKF_SERIAL_SESSION)
	}
	if err != nil {
		return nil, failed("C_OpenSession", err)
	}
	if where.token.Flags&pkcs11.CKF_LOGIN_REQUIRED != 0 {
		err = t.authenticate(s, pkcs11.CKU_USER)
	}
	if err != nil {
		_ = s.calls.CloseSession(s.handle)
		return nil, err
	}
	return s, nil
}

// drop closes the session, if there is one.
func (t *Token) drop() {
	if t.current != nil && t.current.epoch == t.module.epoch && t.module.ready {
		_ = t.current.calls.CloseSession(t.current.handle) // it may be dead
	}
	t.current = nil
}

// alive asks whether the session's token is still there: SoftHSM, for one,
// finds no objects on a token that is gone, and reports no error.
func (s *session) alive() error {
	info, err := s.calls.GetTokenInfo(s.slot.number)
	if err != nil {
		return failed("C_GetTokenInfo", err)
	}
	if !matches(s.slot.selector(), slot{token: info}.selector()) {
		return &failure{"C_GetTokenInfo", pkcs11.CKR_TOKEN_NOT_PRESENT}
	}
	return nil
}

// name names the token for people.
func (t *Token) name() string {
	switch {
	case t.want.Label != "":
		return fmt.Sprintf("token %q", t.want.Label)
	case t.want.Serial != "":
		return fmt.Sprintf("token with serial %q", t.want.Serial)
	}
	return "token"
}

// slot is a slot with a token in it.
type slot struct {
	number uint
	token  pkcs11.TokenInfo
}

// trim takes the padding off a field of fixed length.
func trim(s string) string { return strings.TrimRight(s, " \x00") }

// selector returns what identifies the token.
func (s slot) selector() token.Selector {
	return token.Selector{
		Label:        trim(s.token.Label),
		Serial:       trim(s.token.SerialNumber),
		Manufacturer: trim(s.token.ManufacturerID),
		Model:        trim(s.token.Model),
	}
}

// matches tells whether every field that want gives is that of have.
func matches(want, have token.Selector) bool {
	same := func(want, have string) bool { return want == "" || want == have }
	return same(want.Label, have.Label) && same(want.Serial, have.Serial) &&
		same(want.Manufacturer, have.Manufacturer) && same(want.Model, have.Model)
}

// find finds the one initialised token that matches. m.mu is held.
func (m *Module) find(want token.Selector) (slot, error) {
	numbers, err := m.calls.GetSlotList(true)
	if err != nil {
		return slot{}, failed("C_GetSlotList", err)
	}
	var found, others []slot
	var trouble error
	for _, number := range numbers {
		info, err := m.calls.GetTokenInfo(number)
		if err != nil { // another's token, or ours pulled out just now
			trouble = failed("C_GetTokenInfo", err)
			continue
		}
		s := slot{number, info}
		switch {
		case info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0:
		case matches(want, s.selector()):
			found = append(found, s)
		default:
			others = append(others, s)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return slot{}, token.Errorf(token.CodeAbsent, "the module %s sees no such token%s%s", m.path, list(" but ", others), because(trouble))
	}
	return slot{}, token.Errorf(token.CodeNoKey, "more than one token fits%s: add serial=", list(": ", found))
}

// list describes slots, after a word if there are any.
func list(word string, slots []slot) string {
	if len(slots) == 0 {
		return ""
	}
	var tokens []string
	for _, s := range slots {
		tokens = append(tokens, fmt.Sprintf("%q (serial=%s)", s.selector().Label, url.PathEscape(s.selector().Serial)))
	}
	return word + strings.Join(tokens, ", ")
}

func because(err error) string {
	if err == nil {
		return ""
	}
	return " (" + err.Error() + ")"
}

// errRefused is for a PIN that is not tried again.
func errRefused() error {
	return token.Errorf(token.CodePIN, "the token refused this PIN before, and it is not tried again: put the right PIN where it is read from")
}

// authenticate logs in to the session's token, as CKU_USER or for one use of a
// key as CKU_CONTEXT_SPECIFIC. It asks first how the token's PIN is doing.
func (t *Token) authenticate(s *session, user uint) error {
	info, err := t.module.calls.GetTokenInfo(s.slot.number)
	if err != nil {
		return failed("C_GetTokenInfo", err)
	}
	if err := t.mayTry(info.Flags); err != nil {
		return err
	}
	// The string is the locked memory itself. Package pkcs11 copies it to C
	// memory for the call and frees that without wiping it: the allocator has
	// to overwrite freed memory (glibc.malloc.perturb).
	t.pin.Use(func(pin []byte) {
		err = t.module.calls.Login(s.handle, user, unsafe.String(unsafe.SliceData(pin), len(pin)))
	})
	if err == nil || user == pkcs11.CKU_USER && is(err, pkcs11.CKR_USER_ALREADY_LOGGED_IN) {
		t.doubt, t.old = false, false
		return nil
	}
	switch code, _ := codeOf(rv(err)); {
	case code == token.CodePIN:
		t.refused = true
	case code != token.CodeAbsent && code != token.CodeLocked:
		t.doubt = true // the token may have looked at the PIN, or not
	}
	return failed("C_Login", err)
}

// mayTry refuses to log in where a wrong PIN would do harm.
func (t *Token) mayTry(flags uint) error {
	has := func(flag uint) bool { return flags&flag != 0 }
	switch {
	case t.refused:
		return errRefused()
	case has(pkcs11.CKF_USER_PIN_LOCKED):
		return token.Errorf(token.CodeLocked, "the token's PIN is locked after too many wrong ones: unlock it with the vendor's tool")
	case has(pkcs11.CKF_USER_PIN_FINAL_TRY):
		return token.Errorf(token.CodeFinalTry, "one more wrong PIN would lock the token, so that none is tried: log in once by hand with the right one (pkcs11-tool --login --list-objects), which resets the count")
	case !has(pkcs11.CKF_USER_PIN_INITIALIZED) && !has(pkcs11.CKF_PROTECTED_AUTHENTICATION_PATH):
		return token.Errorf(token.CodeLocked, "no user PIN was set on the token: set one with the vendor's tool (pkcs11-tool --init-pin)")
	case t.pin.Len() == 0 && !has(pkcs11.CKF_PROTECTED_AUTHENTICATION_PATH):
		return token.Errorf(token.CodePIN, "the token wants a PIN, and none is given: add pin-source=")
	case t.old && has(pkcs11.CKF_USER_PIN_COUNT_LOW):
		return token.Errorf(token.CodeFinalTry, "the token counts a wrong PIN, which may have been this one, so that it is not tried: give another; if it is right, run this once with --try-pin (balancer check, key or ceremony), or log in once by hand (pkcs11-tool --login --list-objects), which resets the count")
	case t.doubt && has(pkcs11.CKF_USER_PIN_COUNT_LOW):
		t.refused = true
		return token.Errorf(token.CodePIN, "the last login failed without a reason, and the token counts a wrong PIN since: this one is not tried again")
	}
	return nil
}

func rv(err error) pkcs11.Error {
	rv, _ := rvOf(failed("", err))
	return rv
}

func is(err error, want pkcs11.Error) bool { return rv(err) == want }
