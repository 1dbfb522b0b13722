//go:build cgo

package module

import (
	"strings"
	"sync"
	"testing"

	"github.com/miekg/pkcs11"
	"golang.org/x/sys/unix"

	"onionbalancer/keystore/token"
)

// TestOneThread looks at the threads on which a module is called.
func TestOneThread(t *testing.T) {
	f := newFake()
	opened, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	f.fail = func(string, int) error {
		seen[unix.Gettid()] = true
		return nil
	}
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if _, err := opened.Sign(key1("ed"), nil); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if err := opened.Close(); err != nil {
		t.Error(err)
	}
	opened.module.Close()
	if len(seen) != 1 || f.calls["C_Sign"] != 50 || f.calls["C_Finalize"] != 1 {
		t.Errorf("%d threads, calls %v", len(seen), f.calls)
	}
}

// TestPanic: what panics does so where it was called from, and does no harm to
// what is called next.
func TestPanic(t *testing.T) {
	f := newFake()
	opened, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	f.fail = func(call string, n int) error {
		if call == "C_Sign" && n == 1 {
			panic("the module")
		}
		return nil
	}
	func() {
		defer func() {
			if recover() != "the module" {
				t.Error("no panic")
			}
		}()
		_, _ = opened.Sign(token.Object{Label: "ed"}, nil)
	}()
	f.hangUp()
	if _, err := opened.Sign(key1("ed"), nil); err != nil {
		t.Error(err)
	}
}

func TestFindToken(t *testing.T) {
	twin := newFakeToken("fake", "3")
	blank := newFakeToken("", "")
	blank.info.Flags = 0
	for _, c := range []struct {
		want token.Selector
		code token.Code
		says string
	}{
		{token.Selector{Label: "other"}, "", ""},
		{token.Selector{Serial: "3"}, "", ""},
		{token.Selector{Label: "fake", Serial: "1", Manufacturer: "Fakes", Model: "F1"}, "", ""},
		{token.Selector{Label: "fake"}, token.CodeNoKey, `more than one token fits: "fake" (serial=1), "fake" (serial=3): add serial=`},
		{token.Selector{}, token.CodeNoKey, `"other" (serial=2)`},
		{token.Selector{Label: "Fake"}, token.CodeAbsent, `fake.so sees no such token but "other" (serial=2), "fake" (serial=1)`},
		{token.Selector{Label: "fake", Model: "F2"}, token.CodeAbsent, "no such token"},
		{token.Selector{Serial: "1", Manufacturer: "Fake"}, token.CodeAbsent, "no such token"},
	} {
		f := newFake()
		f.tokens = append(f.tokens, twin, blank)
		m := loaded(f)
		_, err := m.Open(c.want, secret(fakePIN), false)
		switch {
		case c.code != "":
			wantCode(t, err, c.code, c.says)
		case err != nil:
			t.Errorf("%+v: %v", c.want, err)
		}
	}
}

// TestHostileToken: what is written on a token moves no cursor.
func TestHostileToken(t *testing.T) {
	f := newFake()
	f.tokens = append(f.tokens, newFakeToken("a\x1b[2J\n", "b\x1b]0;c\a"))
	m := loaded(f)
	for _, want := range []token.Selector{{Label: "none\x1b[2J"}, {Serial: "none\x1b[2J"}} {
		_, err := m.Open(want, secret(fakePIN), false)
		wantCode(t, err, token.CodeAbsent, `"a\x1b[2J\n" (serial=b%1B%5D0%3Bc%07)`)
		if strings.ContainsAny(err.Error(), "\x1b\n\a") {
			t.Errorf("%q", err)
		}
	}
}

// TestTokenComesAndGoes: no slot number and no handle is used after the token
// was away.
func TestTokenComesAndGoes(t *testing.T) {
	for name, deed := range deeds(t) {
		f := newFake()
		opened, err := f.open()
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			f.tokens[1].away = true
			for range 2 {
				_, err = opened.Sign(key1("ed"), nil)
				wantCode(t, err, token.CodeAbsent, `signing with key "ed" on token "fake"`, "sees no such token")
			}
			f.tokens[1].away = false
			f.tokens = append([]*fakeToken{newFakeToken("new", "9"), f.tokens[1]}, f.tokens...) // in other slots
			f.tokens = f.tokens[:2]
		}
		if err := deed(opened); err != nil {
			t.Errorf("%s after the token was put back: %v", name, err)
		}
	}
}

// TestTokenSwapped: another token in the same slot is not taken for ours, even
// if the module keeps the session.
func TestTokenSwapped(t *testing.T) {
	f := newFake()
	opened, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	f.tokens[1].info.SerialNumber = "4"
	f.tokens[1].info.Label = "stranger"
	clear(f.tokens[1].objects)
	_, err = opened.Sign(key1("ed"), nil)
	wantCode(t, err, token.CodeAbsent, "no such token")
	keys, err := opened.SigningKeys("")
	if err == nil {
		t.Errorf("listed %+v of a strange token", keys)
	}
}

// TestBlindModule: a module that keeps sessions to a token that is gone, and
// finds nothing there, must not pass for a token without keys.
func TestBlindModule(t *testing.T) {
	f := newFake()
	opened, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	starts := f.starts
	kept := f.tokens[1].objects
	f.tokens[1].objects = map[pkcs11.ObjectHandle]*fakeObject{}
	f.fail = func(call string, _ int) error {
		if call == "C_GetTokenInfo" && f.starts == starts {
			return pkcs11.Error(pkcs11.CKR_GENERAL_ERROR)
		}
		if f.starts > starts {
			f.tokens[1].objects = kept
		}
		return nil
	}
	keys, err := opened.SigningKeys("")
	if err != nil || len(keys) != 1 {
		t.Errorf("listed %+v, %v", keys, err)
	}
}

func TestStart(t *testing.T) {
	for _, says := range []pkcs11.Error{pkcs11.CKR_CANT_LOCK, pkcs11.CKR_NEED_TO_CREATE_THREADS} {
		f := newFake()
		f.fail = failing("C_Initialize", 1, says)
		if _, err := f.open(); err != nil {
			t.Errorf("a module that cannot lock: %v", err)
		}
	}
	f := newFake()
	if err := f.Initialize(); err != nil { // by another part of the program
		t.Fatal(err)
	}
	if _, err := f.open(); err != nil {
		t.Errorf("a module that is initialised already: %v", err)
	}
}

// TestTogether uses one token from many goroutines, while it comes and goes.
func TestTogether(t *testing.T) {
	f := newFake()
	opened, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range 50 {
				if i == 0 && n%10 == 0 {
					opened.module.mu.Lock()
					f.hangUp()
					opened.module.mu.Unlock()
				}
				if _, err := opened.Sign(key1("ed"), []byte{byte(n)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if len(f.sessions) != 1 {
		t.Errorf("%d sessions are open", len(f.sessions))
	}
}
