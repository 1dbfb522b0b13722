//go:build cgo

package module

import (
	"fmt"

	"github.com/miekg/pkcs11"

	"onionbalancer/internal/locked"
	"onionbalancer/keystore/token"
)

// Token is a token that was logged in to. It is for any number of goroutines.
type Token struct {
	module *Module
	want   token.Selector
	pin    *locked.Buffer // empty: none, or typed on the token itself
	mark   mark           // of the PIN for what is wanted

	// Under module.mu:
	current *session        // or nil
	doubt   bool            // the last login failed, who knows why
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
// may be nil. The token is not touched when it has refused this PIN before. If
// nobody knows whether it has (inDoubt), and it counts a wrong PIN, this one is
// not tried: token.CodeFinalTry.
func (m *Module) Open(want token.Selector, pin *locked.Buffer, inDoubt bool) (*Token, error) {
	t := &Token{module: m, want: want, pin: &locked.Buffer{}, begun: map[string]bool{}, old: inDoubt}
	if pin != nil && pin.Len() > 0 {
		t.pin = locked.New(pin.Len())
		copy(t.pin.Bytes(), pin.Bytes())
	}
	t.mark = m.refused.mark(want, t.pin)
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

// Info tells what the token is.
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

// do calls f with a session, and once more with a new one if the first turns
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

// twice calls f with a session, and once more if that proves dead.
func (t *Token) twice(f func(*session) error) error {
	if err := t.ready(); err != nil {
		return err
	}
	err := t.run(f)
	if !stale(err) && !gone(err) && !vague(err) {
		return err
	}
	if !stale(err) {
		t.module.stop() // to look for tokens anew
	}
	if err := t.ready(); err != nil {
		return err
	}
	return t.run(f)
}

// ready makes sure that there is a session.
func (t *Token) ready() error {
	switch {
	case t.closed || t.module.users == 0:
		return token.Errorf(token.CodeMisuse, "it was closed")
	case t.module.refused.has(t.mark):
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
