package token_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"onionbalancer/keystore/token"
)

// TestConcurrent has many use a slow token by several Tokens, some of whom have
// no patience.
func TestConcurrent(t *testing.T) {
	m := newFake(t)
	tokens := []*token.Token{open(t, m.uri()), open(t, m.uri()), open(t, m.uri())}
	if token.Helpers() != 1 {
		t.Errorf("%d helpers for one token", token.Helpers())
	}
	o := token.Object{Label: "o"}
	if _, err := tokens[0].Generate(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	m.write("slow", "")
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			if _, err := tokens[i%3].Sign(t.Context(), o, []byte{byte(i)}); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
			defer cancel()
			time.Sleep(time.Millisecond)
			if _, err := tokens[i%3].SigningKeys(ctx, "none"); err != nil && !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := m.count("sign"); n != 24 {
		t.Errorf("%d signatures", n)
	}
}

// TestShared makes sure that the helper lives as long as its last user.
func TestShared(t *testing.T) {
	m := newFake(t)
	a, b := open(t, m.uri()), open(t, m.uri())
	other := open(t, strings.Replace(m.uri(), "token=fake", "token=other", 1))
	for _, tok := range []*token.Token{a, b, other} {
		if err := tok.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	pid := token.HelperPID(a)
	if token.HelperPID(b) != pid || token.HelperPID(other) == pid {
		t.Error("the wrong ones share a helper")
	}
	a.Close()
	a.Close()
	if err := b.Ping(t.Context()); err != nil || token.HelperPID(b) != pid {
		t.Errorf("after one of two users let go: %v", err)
	}
	b.Close()
	gone(t, pid)
	if err := other.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestCloseWhileBusy makes sure that Close does not wait for a token that hangs.
func TestCloseWhileBusy(t *testing.T) {
	defer token.Quick(20 * time.Second)()
	m := newFake(t)
	tok := open(t, m.uri())
	if err := tok.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	pid := token.HelperPID(tok)
	m.write("hang-keys", "")
	errs := make(chan error, 3)
	for range cap(errs) {
		go func() { _, err := tok.SigningKeys(t.Context(), "none"); errs <- err }()
	}
	for m.count("keys") == 0 {
		time.Sleep(5 * time.Millisecond)
	}
	start := time.Now()
	tok.Close()
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("Close took %s", took)
	}
	gone(t, pid)
	for range cap(errs) {
		if err := <-errs; err == nil {
			t.Error("a request succeeded")
		}
	}
}

// TestCleanExit makes sure that a helper gets to close the module, unless it
// takes too long about it.
func TestCleanExit(t *testing.T) {
	defer token.Quick(20 * time.Second)()
	for _, hangs := range []bool{false, true} {
		m := newFake(t)
		if hangs {
			m.write("hang-close", "")
		}
		tok := open(t, m.uri())
		if err := tok.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		pid := token.HelperPID(tok)
		tok.Close()
		gone(t, pid)
		if m.count("close") != 1 || (m.count("closed") == 1) == hangs {
			t.Errorf("hangs %v: closed %d times", hangs, m.count("closed"))
		}
		if _, err := os.Stat(filepath.Join(m.dir, "hang-close")); err == nil {
			t.Error("it did not hang")
		}
	}
}

// TestTooLate makes sure that a request that nobody waits for any more does no
// harm to the helper.
func TestTooLate(t *testing.T) {
	m := newFake(t)
	tok := open(t, m.uri())
	if err := tok.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	pid := token.HelperPID(tok)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		if err := tok.Ping(ended); !errors.Is(err, context.Canceled) {
			t.Fatalf("error %v", err)
		}
	}
	if token.HelperPID(tok) != pid {
		t.Error("the helper was killed")
	}
}

// TestNoTimeLeft makes sure that those who waited for a token that hangs do not
// start helpers which they would have to kill at once.
func TestNoTimeLeft(t *testing.T) {
	m := newFake(t)
	tok := open(t, m.uri())
	if err := tok.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer token.Quick(time.Second)()
	m.write("hang-keys", "")
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := tok.SigningKeys(t.Context(), "none")
		wantCode(t, err, token.CodeCrashed, "no answer in time")
	})
	for m.count("keys") == 0 {
		time.Sleep(5 * time.Millisecond)
	}
	for range 4 {
		time.Sleep(60 * time.Millisecond)
		wg.Go(func() { wantCode(t, tok.Ping(t.Context()), token.CodeCrashed, "too little time") })
	}
	wg.Wait()
	if n := m.count("load"); n != 1 {
		t.Errorf("the module was loaded %d times", n)
	}
	if err := tok.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}
