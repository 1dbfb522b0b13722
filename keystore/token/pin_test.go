package token_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"onionbalancer/keystore/token"
)

// TestWrongPIN makes sure that a wrong PIN reaches the token exactly once in the
// life of this process, whatever is restarted and opened again.
func TestWrongPIN(t *testing.T) {
	m := newFake(t)
	m.write("pin", "wrong-1234")
	tok := open(t, m.uri())
	_, err := tok.Info(t.Context())
	wantCode(t, err, token.CodePIN, "the PIN is wrong")
	for range 3 {
		_, err := tok.SigningKeys(t.Context(), "")
		wantCode(t, err, token.CodePIN, "not tried again")
	}
	tok.Close()
	again := open(t, m.uri())
	wantCode(t, again.Ping(t.Context()), token.CodePIN, "not tried again")
	// The same token by other names, and the same PIN from elsewhere.
	m.write("pin2", "wrong-1234\n")
	for _, uri := range []string{
		strings.ReplaceAll(m.uri(), "/pin", "/pin2"),
		strings.ReplaceAll(m.uri(), "token=fake", "serial=12"),
		strings.ReplaceAll(m.uri(), "token=fake", "token=fake;model=a"),
		strings.ReplaceAll(m.uri(), "module-path="+m.dir, "module-path="+linkTo(t, m.dir)),
	} {
		wantCode(t, open(t, uri).Ping(t.Context()), token.CodePIN, "not tried again")
	}
	if n := m.count("open"); n != 1 {
		t.Errorf("the token saw the wrong PIN %d times", n)
	}
	// That of a token that is surely another one is tried.
	wantCode(t, open(t, strings.ReplaceAll(m.uri(), "token=fake", "token=other")).Ping(t.Context()), token.CodePIN, "the PIN is wrong")
	if n := m.count("open"); n != 2 {
		t.Errorf("%d tries after that of another token", n)
	}
	// Another PIN is tried, without a restart.
	m.write("pin", "right-1234")
	if err := again.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	// A PIN that was changed on the token is found out when it is used again,
	// and is not tried a second time either.
	m.write("error-sign", string(token.CodePIN))
	_, err = again.Sign(t.Context(), token.Object{Label: "o"}, nil)
	wantCode(t, err, token.CodePIN, "the fake token says pin")
	wantCode(t, again.Ping(t.Context()), token.CodePIN, "not tried again")
	if n := m.count("open"); n != 3 {
		t.Errorf("%d tries in all", n)
	}
}

// linkTo makes another name for a file.
func linkTo(t *testing.T, path string) string {
	t.Helper()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	return link
}

// TestWrongPINFromDescriptor tells how to enter another where none can be read.
func TestWrongPINFromDescriptor(t *testing.T) {
	m := newFake(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.WriteString("wrong-1234\n"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	inherited, err := unix.FcntlInt(r.Fd(), unix.F_DUPFD, 100) // as if from a parent
	if err != nil {
		t.Fatal(err)
	}
	tok := open(t, strings.ReplaceAll(m.uri(), m.dir+"/pin", fmt.Sprintf("fd:%d", inherited)))
	wantCode(t, tok.Ping(t.Context()), token.CodePIN, "the PIN is wrong")
	wantCode(t, tok.Ping(t.Context()), token.CodePIN, "restart this program to enter another")
}

// TestLoginInDoubt makes sure that a helper is told when an earlier one did not
// say what came of its login with the same PIN.
func TestLoginInDoubt(t *testing.T) {
	defer token.Quick(time.Second)()
	for _, fault := range []string{"crash", "hang", "error"} {
		m := newFake(t)
		tok := open(t, m.uri())
		doubts := 1 // the first time, as another process may have tried it
		check := func(want int, err error) {
			t.Helper()
			if err != nil {
				t.Errorf("%s: %v", fault, err)
			}
			if doubts += want; m.count("doubt") != doubts {
				t.Errorf("%s: in doubt %d times, want %d", fault, m.count("doubt"), doubts)
			}
		}
		m.write(fault+"-open", string(token.CodeFailed))
		if err := tok.Ping(t.Context()); err == nil {
			t.Errorf("%s is no error", fault)
		}
		tok.Close()
		tok = open(t, strings.ReplaceAll(m.uri(), "token=fake", "serial=12"))
		check(1, tok.Ping(t.Context()))
		tok.Close()
		tok = open(t, m.uri())
		check(1, tok.Ping(t.Context()))
		tok.Close()
		tok = open(t, m.uri())
		check(0, tok.Ping(t.Context())) // for the login before went well
	}
}

// TestWrongPINOverProcesses makes sure that a PIN in a file reaches the token once,
// whatever is started again, until the file is written again.
func TestWrongPINOverProcesses(t *testing.T) {
	m, state := newFake(t), t.TempDir()
	m.write("pin", "wrong-1234")
	// try is another process, and how many tries there were then.
	try := func(uri string, code token.Code, text string, tries int) {
		t.Helper()
		defer token.NewProcess(state)()
		tok := open(t, uri)
		err := tok.Ping(t.Context())
		tok.Close()
		if code != "" {
			wantCode(t, err, code, text)
		} else if err != nil {
			t.Error(err)
		}
		if n := m.count("open"); n != tries {
			t.Errorf("%d tries, want %d", n, tries)
		}
	}
	try(m.uri(), token.CodePIN, "the PIN is wrong", 1)
	for _, uri := range []string{m.uri(), strings.ReplaceAll(m.uri(), "token=fake", "serial=12"), m.uri()} {
		try(uri, token.CodePIN, "refused the PIN in this file", 1)
	}
	marks, err := os.ReadFile(filepath.Join(state, "refused-pins.json"))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(state, "refused-pins.json")); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	known := regexp.MustCompile(`^\[\{"module":"[^"]+","token":\{"label":"fake"\},"file":"[^"]+/pin","stamp":\{"device":\d+,"inode":\d+,"size":10,"changed":\d+\},"refused":"[-0-9T:]+Z"\}\]$`)
	if !known.Match(marks) {
		t.Errorf("more is kept than the file: %s", marks)
	}
	// Another token, and another PIN.
	try(strings.ReplaceAll(m.uri(), "token=fake", "token=other"), token.CodePIN, "the PIN is wrong", 2)
	m.write("pin", "wrong-5678")
	try(m.uri(), token.CodePIN, "the PIN is wrong", 3)
	try(m.uri(), token.CodePIN, "refused the PIN in this file", 3)
	// It is the right one since.
	m.write("right", "wrong-5678")
	try(m.uri(), token.CodePIN, "balancer check --try-pin", 3)
	func() {
		defer token.NewProcess(state)()
		token.TryPIN()
		tok := open(t, m.uri())
		if err := tok.Ping(t.Context()); err != nil {
			t.Error(err)
		}
		tok.Close()
	}()
	try(m.uri(), "", "", 5)
	// What is left of the token that is surely another one.
	try(strings.ReplaceAll(m.uri(), "token=fake", "token=other"), "", "", 6)
	if err := os.WriteFile(filepath.Join(state, "refused-pins.json"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	try(m.uri(), "", "", 7)
}

// TestFirstPINInDoubt: what another process tried may have been counted, unless
// it is known which PIN that was, or a person has this one tried.
func TestFirstPINInDoubt(t *testing.T) {
	m, state := newFake(t), t.TempDir()
	m.write("pin", "right-1234\n")
	doubts := 0
	process := func(uri string, want int, before func()) {
		t.Helper()
		defer token.NewProcess(state)()
		before()
		tok := open(t, uri)
		err := tok.Ping(t.Context())
		if doubts += want; err != nil || m.count("doubt") != doubts {
			t.Errorf("in doubt %d times, want %d; %v", m.count("doubt"), doubts, err)
		}
		tok.Close()
		tok = open(t, uri)
		if err := tok.Ping(t.Context()); err != nil || m.count("doubt") != doubts {
			t.Errorf("after a login in doubt again, %v", err)
		}
		tok.Close()
	}
	process(m.uri(), 1, func() {})
	process(m.uri(), 1, func() {})
	process(m.uri(), 0, token.TryPIN)
	if err := os.Remove(filepath.Join(m.dir, "right")); err != nil {
		t.Fatal(err)
	}
	process(strings.Split(m.uri(), "&")[0], 0, func() {}) // at the token's own PIN pad
	m.write("right", "right-1234")
	m.write("pin", "wrong-1234\n")
	process(m.uri(), 0, func() {
		wantCode(t, open(t, m.uri()).Ping(t.Context()), token.CodePIN, "the PIN is wrong")
		doubts++ // of that one
		m.write("pin", "right-1234\n")
		token.NewProcess(state)
	})
}

// TestHeldBack makes sure that a token on its last try, or locked, is left alone
// for a while, and then looked at again.
func TestHeldBack(t *testing.T) {
	defer token.Quick(5 * time.Second)()
	for _, code := range []token.Code{token.CodeFinalTry, token.CodeLocked} {
		t.Run(string(code), func(t *testing.T) {
			m := newFake(t)
			m.write("error-open", string(code))
			tok := open(t, m.uri())
			for range 3 {
				wantCode(t, tok.Ping(t.Context()), code, "the fake token says "+string(code))
				m.write("pin", "right-1234\n") // even if it was written again
			}
			if n := m.count("open"); n != 1 {
				t.Errorf("the token was asked %d times", n)
			}
			// One that may be another is not kept from work.
			if err := open(t, strings.ReplaceAll(m.uri(), "token=fake", "serial=12")).Ping(t.Context()); err != nil {
				t.Error(err)
			}
			time.Sleep(450 * time.Millisecond)
			if err := tok.Ping(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestPINSources tries what goes wrong before a helper is started.
func TestPINSources(t *testing.T) {
	m := newFake(t)
	if err := os.Chmod(filepath.Join(m.dir, "pin"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := open(t, m.uri()).Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("error %v", err)
	}
	if err := open(t, strings.ReplaceAll(m.uri(), "/pin", "/none")).Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("error %v", err)
	}
	if m.count("load") != 0 {
		t.Error("a helper was started without a PIN")
	}
	// No PIN at all is for tokens that need none.
	none := open(t, strings.Split(m.uri(), "&")[0])
	wantCode(t, none.Ping(t.Context()), token.CodePIN, "")
	if err := os.Remove(filepath.Join(m.dir, "right")); err != nil {
		t.Fatal(err)
	}
	wantCode(t, none.Ping(t.Context()), token.CodePIN, "not tried again")
	if err := open(t, strings.Replace(strings.Split(m.uri(), "&")[0], "fake", "free", 1)).Ping(t.Context()); err != nil {
		t.Error(err)
	}
}
