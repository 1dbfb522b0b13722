//go:build cgo

package module

import (
	"slices"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"onionbalancer/internal/locked/lockedtest"
	"onionbalancer/keystore/token"
)

func TestWrongPIN(t *testing.T) {
	for _, says := range []pkcs11.Error{pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE} {
		f := newFake()
		m := loaded(f)
		f.fail = failing("C_Login", 0, says)
		wrong := secret("wrong-4711")
		_, err := m.Open(token.Selector{Label: "fake"}, wrong, false)
		wantCode(t, err, token.CodePIN, `opening token "fake"`, name(says), "not tried again")
		if f.calls["C_Login"] != 1 {
			t.Errorf("%s: %d logins with a wrong PIN", name(says), f.calls["C_Login"])
		}

		f.fail = nil
		opened, err := m.Open(token.Selector{Label: "fake"}, secret(fakePIN), false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := opened.Sign(key1("ed"), nil); err != nil {
			t.Error(err)
		}
		if want := []string{"wrong-4711", fakePIN}; !slices.Equal(f.tokens[1].asked, want) {
			t.Errorf("tried %q, want %q", f.tokens[1].asked, want)
		}
	}
}

// TestPINChangedMeanwhile: the PIN was right once, and is wrong when the session
// has to be opened again.
func TestPINChangedMeanwhile(t *testing.T) {
	f := newFake()
	opened, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	f.hangUp()
	f.fail = failing("C_Login", 0, pkcs11.CKR_PIN_INCORRECT)
	for range 5 {
		_, err := opened.Sign(key1("ed"), nil)
		wantCode(t, err, token.CodePIN)
	}
	if f.calls["C_Login"] != 2 {
		t.Errorf("%d logins, want the first and one more", f.calls["C_Login"])
	}
}

func TestLoginByTokenFlags(t *testing.T) {
	for _, c := range []struct {
		name     string
		set, off uint
		pin      string
		code     token.Code // "" for success
		says     string
		logins   int
	}{
		{"as usual", 0, 0, fakePIN, "", "", 1},
		{"count low", pkcs11.CKF_USER_PIN_COUNT_LOW, 0, fakePIN, "", "", 1},
		{"final try", pkcs11.CKF_USER_PIN_FINAL_TRY | pkcs11.CKF_USER_PIN_COUNT_LOW, 0, fakePIN, token.CodeFinalTry, "one more wrong PIN", 0},
		{"locked", pkcs11.CKF_USER_PIN_LOCKED | pkcs11.CKF_USER_PIN_FINAL_TRY, 0, fakePIN, token.CodeLocked, "locked", 0},
		{"no PIN set", 0, pkcs11.CKF_USER_PIN_INITIALIZED, fakePIN, token.CodeLocked, "no user PIN", 0},
		{"no PIN given", 0, 0, "", token.CodePIN, "pin-source=", 0},
		{"PIN pad", pkcs11.CKF_PROTECTED_AUTHENTICATION_PATH, 0, "", "", "", 1},
		{"no login", 0, pkcs11.CKF_LOGIN_REQUIRED | pkcs11.CKF_USER_PIN_INITIALIZED, "", "", "", 0},
		{"read only", pkcs11.CKF_WRITE_PROTECTED, 0, fakePIN, "", "", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake()
			info := &f.tokens[1].info
			info.Flags = info.Flags&^c.off | c.set
			m := loaded(f)
			opened, err := m.Open(token.Selector{Label: "fake"}, secret(c.pin), false)
			if c.code != "" {
				wantCode(t, err, c.code, c.says)
			} else if err != nil {
				t.Error(err)
			} else if _, err := opened.Sign(key1("ed"), nil); err != nil {
				t.Error(err)
			}
			if f.calls["C_Login"] != c.logins {
				t.Errorf("%d logins, want %d", f.calls["C_Login"], c.logins)
			}
			if c.code != "" && len(f.sessions) != 0 {
				t.Error("a session is left open")
			}
		})
	}
}

func TestLoginErrors(t *testing.T) {
	for says, want := range map[pkcs11.Error]token.Code{
		pkcs11.CKR_PIN_LOCKED:               token.CodeLocked,
		pkcs11.CKR_PIN_EXPIRED:              token.CodeLocked,
		pkcs11.CKR_USER_PIN_NOT_INITIALIZED: token.CodeLocked,
		pkcs11.CKR_FUNCTION_CANCELED:        token.CodeFailed,
	} {
		f := newFake()
		f.fail = failing("C_Login", 0, says)
		_, err := f.open()
		wantCode(t, err, want, "C_Login says "+name(says))
		if f.calls["C_Login"] != 1 {
			t.Errorf("%s: %d logins", name(says), f.calls["C_Login"])
		}
	}
	f := newFake()
	f.fail = failing("C_Login", 0, pkcs11.CKR_USER_ALREADY_LOGGED_IN)
	if _, err := f.open(); err != nil {
		t.Errorf("already logged in: %v", err)
	}
}

// TestLoginInDoubt: a token that counts wrong PINs but does not say which
// login was one is not asked again.
func TestLoginInDoubt(t *testing.T) {
	f := newFake()
	opened, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	f.hangUp()
	f.fail = func(call string, _ int) error {
		if call != "C_Login" {
			return nil
		}
		f.tokens[1].info.Flags |= pkcs11.CKF_USER_PIN_COUNT_LOW
		return pkcs11.Error(pkcs11.CKR_FUNCTION_FAILED)
	}
	for range 3 {
		_, err := opened.Sign(key1("ed"), nil)
		wantCode(t, err, token.CodePIN)
	}
	if f.calls["C_Login"] != 2 {
		t.Errorf("%d logins, want the first and one more", f.calls["C_Login"])
	}
}

// TestOpenInDoubt: what a process before this one tried may have been counted.
func TestOpenInDoubt(t *testing.T) {
	f := newFake()
	m := loaded(f)
	info := &f.tokens[1].info
	info.Flags |= pkcs11.CKF_USER_PIN_COUNT_LOW
	for range 2 {
		_, err := m.Open(token.Selector{Label: "fake"}, secret(fakePIN), true)
		wantCode(t, err, token.CodeFinalTry, "counts a wrong PIN", "--try-pin", "log in once by hand")
	}
	if f.calls["C_Login"] != 0 {
		t.Errorf("%d logins", f.calls["C_Login"])
	}
	info.Flags &^= pkcs11.CKF_USER_PIN_COUNT_LOW
	opened, err := m.Open(token.Selector{Label: "fake"}, secret(fakePIN), true)
	if err != nil {
		t.Fatal(err)
	}
	// From the first login on, there is no doubt.
	info.Flags |= pkcs11.CKF_USER_PIN_COUNT_LOW
	f.hangUp()
	if _, err := opened.Sign(key1("ed"), nil); err != nil {
		t.Error(err)
	}
}

func TestAlwaysAuthenticate(t *testing.T) {
	f := newFake()
	for _, o := range f.tokens[1].objects {
		if o.key != nil {
			o.attributes[pkcs11.CKA_ALWAYS_AUTHENTICATE] = []byte{1}
		}
	}
	opened, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	before := f.calls["C_Login"]
	for range 3 {
		if _, err := opened.Sign(key1("ed"), nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.calls["C_Login"] - before; got != 3 {
		t.Errorf("%d logins for 3 signatures", got)
	}
	for _, label := range []string{"aes", "rsa", "ec"} {
		if _, err := opened.WrappingKey(key1(label)); err != nil {
			t.Error(err)
		}
	}

	// The PIN is changed: it is tried once more, and then the key is left alone.
	f.fail = failing("C_Login", 0, pkcs11.CKR_PIN_INCORRECT)
	before = f.calls["C_Login"]
	for range 3 {
		_, err := opened.Sign(key1("ed"), nil)
		wantCode(t, err, token.CodePIN)
	}
	if got := f.calls["C_Login"] - before; got != 1 {
		t.Errorf("%d logins with a PIN that became wrong", got)
	}
}

func TestClose(t *testing.T) {
	f := newFake()
	opened, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	if err := opened.Close(); err != nil {
		t.Fatal(err)
	}
	if len(f.sessions) != 0 {
		t.Error("a session is left open")
	}
	if strings.Trim(string(lockedtest.Bytes(opened.pin)), "\x00") != "" {
		t.Error("the PIN is not wiped")
	}
	_, err = opened.Sign(key1("ed"), nil)
	wantCode(t, err, token.CodeMisuse, "closed")
	opened.module.Close()
	if f.calls["C_Finalize"] != 1 {
		t.Error("the module was not finalised")
	}
}
