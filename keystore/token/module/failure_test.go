//go:build cgo

package module

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"onionbalancer/internal/locked"
	"onionbalancer/internal/locked/lockedtest"
	"onionbalancer/keystore/token"
)

// try opens token "fake" of a fake.
func (f *fake) open() (*Token, error) {
	m := &Module{path: "fake.so", calls: f}
	if err := m.start(); err != nil {
		return nil, err
	}
	return m.Open(token.Selector{Label: "fake"}, secret(fakePIN), false)
}

// loaded is the module that a fake is, started.
func loaded(f *fake) *Module {
	m := &Module{path: "fake.so", calls: f}
	if err := m.start(); err != nil {
		panic(err)
	}
	return m
}

func key1(label string) token.Object { return token.Object{Label: label} }

// wraps is what Wrap returned for one method, to unwrap.
type wraps struct {
	label   string
	method  token.Method
	wrapped []byte
}

func allWraps(t *testing.T) []wraps {
	t.Helper()
	opened, err := newFake().open()
	if err != nil {
		t.Fatal(err)
	}
	var all []wraps
	for _, w := range []wraps{
		{"aes", token.MethodAESGCM, nil}, {"aes", token.MethodAESKeyWrap, nil},
		{"rsa", token.MethodOAEPSHA256, nil}, {"rsa", token.MethodOAEPSHA1, nil}, {"ec", token.MethodECDHP256, nil},
	} {
		if w.wrapped, err = opened.Wrap(key1(w.label), w.method, dataKey); err != nil {
			t.Fatal(err)
		}
		all = append(all, w)
	}
	return all
}

// deeds are what can be asked of a token, by name. Each checks what comes back.
func deeds(t *testing.T) map[string]func(*Token) error {
	deeds := map[string]func(*Token) error{
		"info": func(o *Token) error {
			info, err := o.Info()
			want := token.Info{Selector: token.Selector{Label: "fake", Serial: "1", Manufacturer: "Fakes", Model: "F1"}, Firmware: "1.7", Module: "Fake library 3.0"}
			if err == nil && info != want {
				return fmt.Errorf("info is %+v", info)
			}
			return err
		},
		"sign": func(o *Token) error {
			_, err := o.Sign(key1("ed"), []byte("message"))
			return err
		},
		"list": func(o *Token) error {
			keys, err := o.SigningKeys("e")
			if err == nil && (len(keys) != 1 || !keys[0].Public.Equal(edKey.Public())) {
				return fmt.Errorf("listed %+v", keys)
			}
			return err
		},
		"generate": func(o *Token) error {
			_, err := o.Generate(token.Object{Label: "new", ID: []byte("new")})
			return err
		},
		"destroy": func(o *Token) error { return o.Destroy(key1("ed")) },
	}
	for label, want := range map[string][]token.Method{
		"aes": {token.MethodAESGCM, token.MethodAESKeyWrap},
		"rsa": {token.MethodOAEPSHA256, token.MethodOAEPSHA1},
		"ec":  {token.MethodECDHP256},
	} {
		deeds["look at "+label] = func(o *Token) error {
			found, err := o.WrappingKey(key1(label))
			if err == nil && !slices.Equal(found.Methods, want) {
				return fmt.Errorf("methods are %q", found.Methods)
			}
			return err
		}
	}
	for _, w := range allWraps(t) {
		deeds["wrap "+string(w.method)] = func(o *Token) error {
			_, err := o.Wrap(key1(w.label), w.method, dataKey)
			return err
		}
		deeds["unwrap "+string(w.method)] = func(o *Token) error {
			plain, err := o.Unwrap(key1(w.label), w.method, w.wrapped)
			if err == nil && !bytes.Equal(lockedtest.Bytes(plain), dataKey) {
				return fmt.Errorf("another data key")
			}
			return err
		}
	}
	return deeds
}

// failing fails one call, the n-th of its name or all if n is 0.
func failing(call string, n int, rv pkcs11.Error) func(string, int) error {
	return func(name string, i int) error {
		if name == call && (n == 0 || n == i) {
			return rv
		}
		return nil
	}
}

// passing are return values that a new session or a restarted module cures.
var passing = []pkcs11.Error{
	pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_USER_NOT_LOGGED_IN,
	pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_TOKEN_NOT_PRESENT,
	pkcs11.CKR_TOKEN_NOT_RECOGNIZED, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, pkcs11.CKR_GENERAL_ERROR,
	pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_OPERATION_ACTIVE,
}

// typical are one of each kind that is treated alike: stale, gone and vague.
var typical = []pkcs11.Error{pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_GENERAL_ERROR}

// each calls test for every deed, with the number of times that the deed makes
// each call when nothing fails.
func each(t *testing.T, test func(t *testing.T, deed func(*Token) error, call string, times int)) {
	for name, deed := range deeds(t) {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			opened, err := f.open()
			if err != nil {
				t.Fatal(err)
			}
			f.calls = map[string]int{}
			if err := deed(opened); err != nil {
				t.Fatal(err)
			}
			if f.calls["C_OpenSession"]+f.calls["C_Login"] != 0 {
				t.Error("a new session, and nothing wrong with the old")
			}
			if n := f.transients(); n != 0 {
				t.Errorf("%d session objects are left", n)
			}
			for call, times := range f.calls {
				test(t, deed, call, times)
			}
		})
	}
}

func TestFailOnce(t *testing.T) {
	each(t, func(t *testing.T, deed func(*Token) error, call string, times int) {
		for n := 1; n <= times; n++ {
			for _, rv := range passing {
				if n > 1 && !slices.Contains(typical, rv) {
					continue
				}
				f := newFake()
				opened, err := f.open()
				if err != nil {
					t.Fatal(err)
				}
				before := f.calls[call]
				f.fail = failing(call, before+n, rv)
				if err := deed(opened); err != nil {
					t.Errorf("%s number %d says %s once: %v", call, n, name(rv), err)
				}
				if logins := f.calls["C_Login"]; logins > 2 {
					t.Errorf("%s number %d says %s once: %d logins", call, n, name(rv), logins)
				}
				if n := f.transients(); n != 0 {
					t.Errorf("%s says %s once: %d session objects are left", call, name(rv), n)
				}
			}
		}
	})
}

// TestFailAlways fails one call for good. It must end in an error that says so,
// with few calls and a single login, and be over when the call works again.
func TestFailAlways(t *testing.T) {
	codes := map[pkcs11.Error]token.Code{
		pkcs11.CKR_DEVICE_REMOVED:             token.CodeAbsent,
		pkcs11.CKR_TOKEN_NOT_PRESENT:          token.CodeAbsent,
		pkcs11.CKR_SESSION_HANDLE_INVALID:     token.CodeAbsent,
		pkcs11.CKR_GENERAL_ERROR:              token.CodeFailed,
		pkcs11.CKR_HOST_MEMORY:                token.CodeFailed,
		pkcs11.CKR_MECHANISM_INVALID:          token.CodeUnsupported,
		pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED: token.CodeUnsupported,
		pkcs11.CKR_VENDOR_DEFINED + 7:         token.CodeFailed,
	}
	each(t, func(t *testing.T, deed func(*Token) error, call string, _ int) {
		for rv, want := range codes {
			f := newFake()
			opened, err := f.open()
			if err != nil {
				t.Fatal(err)
			}
			f.fail = failing(call, 0, rv)
			about := fmt.Sprintf("%s always says %s", call, name(rv))
			err = deed(opened)
			switch {
			case tolerated(t.Name(), call, err):
			case err == nil:
				t.Errorf("%s: no error", about)
			case call == "C_GetTokenInfo" && hasCode(err, token.CodeAbsent): // as if there were no token
			case !hasCode(err, want) && !hasCode(err, token.CodeUnsupported):
				t.Errorf("%s: error %v, want code %q", about, err, want)
			case !strings.Contains(err.Error(), call) || !strings.Contains(err.Error(), name(rv)) || !strings.Contains(err.Error(), `token "fake"`):
				t.Errorf("%s: error %v does not say so", about, err)
			}
			if logins := f.calls["C_Login"]; logins > 3 {
				t.Errorf("%s: %d logins", about, logins)
			}
			if f.calls[call] > 40 {
				t.Errorf("%s: called %d times", about, f.calls[call])
			}
			f.fail = nil
			if err := deed(opened); err != nil {
				t.Errorf("%s, and then not any more: %v", about, err)
			}
			if n := f.transients(); n != 0 {
				t.Errorf("%s: %d session objects are left", about, n)
			}
		}
	})
}

// tolerated tells whether a deed may end so although that call fails.
func tolerated(deed, call string, err error) bool {
	if strings.Contains(deed, "look_at") && call == "C_DestroyObject" && hasCode(err, token.CodeAbsent) {
		return true // the next method finds the session dead
	}
	if strings.Contains(deed, "look_at") && err != nil {
		return strings.HasPrefix(err.Error(), "methods are") // without the one that needs the call
	}
	carries := strings.Contains(deed, "wrap") || strings.Contains(deed, "look_at")
	return err == nil && carries && call == "C_DestroyObject" // the session is closed instead
}

// opening are the calls that opening a token makes.
var opening = []string{"C_Initialize", "C_GetSlotList", "C_GetTokenInfo", "C_OpenSession", "C_Login"}

func TestFailToOpen(t *testing.T) {
	for _, call := range opening {
		for _, rv := range append(passing, pkcs11.CKR_HOST_MEMORY) {
			f := newFake()
			f.fail = failing(call, 0, rv)
			_, err := f.open()
			if err == nil {
				t.Errorf("%s always says %s: opened", call, name(rv))
			} else if !strings.Contains(err.Error(), call) || !strings.Contains(err.Error(), name(rv)) {
				t.Errorf("%s always says %s: error %v does not say so", call, name(rv), err)
			}
			if logins := f.calls["C_Login"]; logins > 2 {
				t.Errorf("%s always says %s: %d logins", call, name(rv), logins)
			}
			if len(f.sessions) != 0 {
				t.Errorf("%s always says %s: a session is left open", call, name(rv))
			}

			if call == "C_Initialize" {
				continue // before which nothing is opened
			}
			f = newFake()
			f.fail = failing(call, 1, rv)
			if _, err := f.open(); (err == nil) != (rv != pkcs11.CKR_HOST_MEMORY || call == "C_GetTokenInfo") {
				t.Errorf("%s says %s once: %v", call, name(rv), err)
			}
		}
	}
}

func TestDamagedWhateverTheTokenSays(t *testing.T) {
	for _, w := range allWraps(t) {
		for _, says := range []pkcs11.Error{
			pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED, pkcs11.CKR_ENCRYPTED_DATA_INVALID,
			pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE, pkcs11.CKR_WRAPPED_KEY_INVALID, ckrAEADDecryptFailed,
		} {
			f := newFake()
			f.bad = says
			opened, err := f.open()
			if err != nil {
				t.Fatal(err)
			}
			damage(t, opened, key1(w.label), w.method, w.wrapped)
			if f.starts != 1 {
				t.Errorf("%s: the module was restarted because of bad data", w.method)
			}
		}
	}
}

func TestWrongSizes(t *testing.T) {
	opened, err := newFake().open()
	if err != nil {
		t.Fatal(err)
	}
	_, err = opened.Wrap(key1("aes"), token.MethodAESGCM, dataKey[:31])
	wantCode(t, err, token.CodeMisuse, "32 bytes, not 31")
	_, err = opened.Wrap(key1("aes"), token.MethodECDHP256, dataKey)
	wantCode(t, err, token.CodeUnsupported, `wrapping with key "aes"`, `method "ecdh-p256" is not for AES keys`)
	_, err = opened.Unwrap(key1("ec"), "rot13", dataKey)
	wantCode(t, err, token.CodeUnsupported, "rot13")
	var none *locked.Buffer
	if none, err = opened.Unwrap(key1("none"), token.MethodAESGCM, dataKey); none != nil {
		t.Error("something was unwrapped")
	}
	wantCode(t, err, token.CodeNoKey, "object=aes;id=%61%65%73 (AES)", "object=ed")
}
