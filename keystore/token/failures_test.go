package token_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"onionbalancer/internal/locked"
	"onionbalancer/keystore/token"
)

// calls are all requests, by the call of the module in which each goes wrong.
func calls(t *testing.T, tok *token.Token) map[string]func(context.Context) error {
	t.Helper()
	o := token.Object{Label: "object", ID: []byte{1}}
	raw := sealBy(t, tok, o, newIdentity(t))
	public := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey)
	if _, err := tok.Generate(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	return map[string]func(context.Context) error{
		"info":         func(ctx context.Context) error { _, err := tok.Info(ctx); return err },
		"wrapping-key": func(ctx context.Context) error { _, err := tok.WrappingKey(ctx, o); return err },
		"wrap": func(ctx context.Context) error {
			_, err := tok.Wrap(ctx, o, token.MethodAESGCM, locked.New(32))
			return err
		},
		"unwrap": func(ctx context.Context) error { _, err := tok.Unseal(ctx, o, raw); return err },
		"unwrap ": func(ctx context.Context) error {
			_, _, err := tok.Certify(ctx, o, raw, period, public, hours)
			return err
		},
		"unwrap  ": func(ctx context.Context) error { _, err := tok.SignIdentity(ctx, o, raw, []byte("m")); return err },
		"generate": func(ctx context.Context) error {
			_, err := tok.Generate(ctx, token.Object{Label: "another"})
			return err
		},
		"keys": func(ctx context.Context) error { _, err := tok.SigningKeys(ctx, "o"); return err },
		"sign": func(ctx context.Context) error { _, err := tok.Sign(ctx, o, []byte("m")); return err },
		"destroy": func(ctx context.Context) error {
			if err := tok.Destroy(ctx, o); err != nil {
				return err
			}
			_, err := tok.Generate(ctx, o)
			return err
		},
	}
}

func trim(name string) string {
	for name[len(name)-1] == ' ' {
		name = name[:len(name)-1]
	}
	return name
}

// TestFaults has the module fail in the middle of every request.
func TestFaults(t *testing.T) {
	defer token.Limit(10*time.Second, 10*time.Second)() // nothing hangs here, and the machine may be slow
	for _, test := range []struct {
		fault, text string
		code        token.Code
		want        string
		dies        bool // the helper
	}{
		{"crash", "", token.CodeCrashed, "signal: killed", true},
		{"fault", "", token.CodeCrashed, "exit status 2", true},
		{"exit", "", token.CodeCrashed, "exit status 3", true},
		{"garbage", "", token.CodeCrashed, "something else", true},
		{"panic", "", token.CodeFailed, "panicked (string)", false},
		{"error", string(token.CodeAbsent), token.CodeAbsent, "the fake token says absent", true},
		{"error", string(token.CodeNoKey), token.CodeNoKey, "the fake token says no key", false},
	} {
		t.Run(test.fault+test.text, func(t *testing.T) {
			m := newFake(t)
			tok := open(t, m.uri())
			for name, call := range calls(t, tok) {
				before := token.HelperPID(tok)
				m.write(test.fault+"-"+trim(name), test.text)
				wantCode(t, call(t.Context()), test.code, test.want)
				if test.dies {
					gone(t, before)
				}
				if err := call(t.Context()); err != nil {
					t.Errorf("%s, again: %v", name, err)
				}
				if died := token.HelperPID(tok) != before; died != test.dies {
					t.Errorf("%s: the helper died: %v", name, died)
				}
			}
		})
	}
}

func TestHang(t *testing.T) {
	m := newFake(t)
	tok := open(t, m.uri())
	for name, call := range calls(t, tok) {
		if err := tok.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		pid := token.HelperPID(tok)
		m.write("hang-"+trim(name), "")
		restore := token.Quick(150 * time.Millisecond)
		start := time.Now()
		wantCode(t, call(t.Context()), token.CodeCrashed, "no answer in time")
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s took %s", name, took)
		}
		restore()
		gone(t, pid)
	}
}

// TestContext makes sure that requests end with their context.
func TestContext(t *testing.T) {
	m := newFake(t)
	tok := open(t, m.uri())
	for name, want := range map[string]error{"canceled": context.Canceled, "deadline": context.DeadlineExceeded} {
		t.Run(name, func(t *testing.T) {
			if err := tok.Ping(t.Context()); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if name == "canceled" {
				ctx, cancel = context.WithCancel(t.Context())
				time.AfterFunc(100*time.Millisecond, cancel)
			}
			m.write("hang-keys", "")
			_, err := tok.SigningKeys(ctx, "")
			wantCode(t, err, token.CodeCrashed, "killed")
			if !errors.Is(err, want) {
				t.Errorf("error %v does not wrap %v", err, want)
			}
		})
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tok.Ping(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// TestIdleDeath kills the helper between requests.
func TestIdleDeath(t *testing.T) {
	m := newFake(t)
	tok := open(t, m.uri())
	for range 2 {
		if err := tok.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		pid := token.HelperPID(tok)
		process, err := os.FindProcess(pid)
		if err != nil {
			t.Fatal(err)
		}
		if err := process.Kill(); err != nil {
			t.Fatal(err)
		}
		gone(t, pid)
		for token.HelperPID(tok) != 0 { // we hear of it a moment later
			time.Sleep(time.Millisecond)
		}
	}
	if err := tok.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestStartsInVain makes sure that a module that crashes at every start is not
// loaded all the time, and that it is when it is due.
func TestStartsInVain(t *testing.T) {
	defer token.Quick(5 * time.Second)()
	m := newFake(t)
	m.write("crash-load", "always")
	tok := open(t, m.uri())
	put := 0
	start := time.Now()
	for time.Since(start) < 500*time.Millisecond {
		err := tok.Ping(t.Context())
		wantCode(t, err, token.CodeCrashed, "")
		if strings.Contains(err.Error(), "times in a row, and is started again in 1s") {
			put++
		}
		time.Sleep(5 * time.Millisecond)
	}
	// At once, then after 100, 200 and 400 ms.
	if n := m.count("load"); n < 2 || n > 5 || put < 10 {
		t.Errorf("%d starts in %s, %d put off", n, time.Since(start), put)
	}
	if err := os.Remove(filepath.Join(m.dir, "crash-load")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	if err := tok.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestAbsent makes sure that a token that is not there is not looked for by every
// service that waits for it, and is found soon when it is.
func TestAbsent(t *testing.T) {
	defer token.Quick(5 * time.Second)()
	m := newFake(t)
	m.write("error-load", "always"+string(token.CodeAbsent))
	tok := open(t, m.uri())
	for range 20 {
		wantCode(t, tok.Ping(t.Context()), token.CodeAbsent, "the fake token says absent")
	}
	if n := m.count("load"); n != 2 {
		t.Errorf("looked for %d times, want twice at once", n)
	}
	if err := os.Remove(filepath.Join(m.dir, "error-load")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(150 * time.Millisecond)
	if err := tok.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestStuck makes sure that helpers that cannot be killed do not pile up.
func TestStuck(t *testing.T) {
	m := newFake(t)
	tok := open(t, m.uri())
	free := token.Stick(tok)
	for range 3 {
		wantCode(t, tok.Ping(t.Context()), token.CodeCrashed, "could not be killed")
	}
	if m.count("load") != 0 {
		t.Error("another was started")
	}
	free()
	if err := tok.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestGarbage gives the client what a helper would never send.
func TestGarbage(t *testing.T) {
	defer token.Quick(5 * time.Second)()
	frame := func(header, secret string) string {
		b := binary.BigEndian.AppendUint32(nil, uint32(len(header)))
		b = binary.BigEndian.AppendUint32(b, 0)
		return string(binary.BigEndian.AppendUint32(b, uint32(len(secret)))) + header + secret
	}
	for name, answer := range map[string]string{
		"text":            "HTTP/1.1 400 Bad Request\r\n\r\n",
		"nothing":         "",
		"huge":            strings.Repeat("\xff", 12),
		"no JSON":         frame("hello", ""),
		"unknown field":   frame(`{"number":1,"pin":""}`, ""),
		"another number":  frame(`{"number":2}`, ""),
		"endless error":   frame(`{"number":1,"error":{"code":"pin","text":"`+strings.Repeat("a", token.MaxText+1)+`"}}`, ""),
		"unasked secret":  frame(`{"number":1}`, "secret"),
		"secret of error": frame(`{"number":1,"error":{"code":"pin","text":""}}`, "secret"),
		"secret missing":  frame(`{"number":1}`, "secret")[:26],
		"certificates":    frame(`{"number":1,"certified":[{"size":1}]}`, strings.Repeat("x", token.RevisionSize)),
	} {
		t.Run(name, func(t *testing.T) {
			m := newFake(t)
			m.write("answer", answer)
			t.Setenv(envGarbage, filepath.Join(m.dir, "answer"))
			tok := open(t, m.uri())
			if name == "nothing" || name == "secret missing" {
				defer token.Quick(300 * time.Millisecond)()
			}
			wantCode(t, tok.Ping(t.Context()), token.CodeCrashed, "killed")
		})
	}
}

// TestLongMessage is refused before it takes a helper down.
func TestLongMessage(t *testing.T) {
	m := newFake(t)
	tok := open(t, m.uri())
	o := token.Object{Label: "o"}
	if _, err := tok.Generate(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if _, err := tok.Sign(t.Context(), o, make([]byte, token.MaxMessage)); err != nil {
		t.Error(err)
	}
	_, err := tok.Sign(t.Context(), o, make([]byte, token.MaxMessage+1))
	wantCode(t, err, token.CodeMisuse, fmt.Sprint(token.MaxMessage+1))
	if m.count("load") != 1 {
		t.Error("the helper did not survive")
	}
}

// TestLastWords makes sure that what a helper says gets into the log, and no PIN
// and no registers with it.
func TestLastWords(t *testing.T) {
	var log bytes.Buffer
	token.LogTo(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	defer token.LogTo(nil)
	m := newFake(t)
	tok := open(t, m.uri())
	for _, fault := range []string{"say", "panic", "exit", "fault"} {
		m.write(fault+"-keys", "")
		if _, err := tok.SigningKeys(t.Context(), ""); (err == nil) != (fault == "say") {
			t.Errorf("%s: error %v", fault, err)
		}
	}
	tok.Close()
	for _, want := range []string{`level=DEBUG msg="a helper for a token says" token="token \"fake\"" text="a driver says hello"`, "wrote the PIN; the line is left out", "SIGSEGV", "panic in onionbalancer/keystore/token_test.misbehave, fake_test.go"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%q is not in the log:\n%s", want, &log)
		}
	}
	for _, secret := range []string{"1234", "rax", "goroutine 1"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("%q is in the log:\n%s", secret, &log)
		}
	}
}

// TestHostileHelper: whatever a module has its helper say moves no cursor, and
// begins no line of its own.
func TestHostileHelper(t *testing.T) {
	m := newFake(t)
	tok := open(t, m.uri())
	m.write("error-sign", "\x1b[2J\x1b]0;owned\a\nok all is well")
	_, err := tok.Sign(t.Context(), token.Object{Label: "o"}, nil)
	if err == nil || !strings.Contains(err.Error(), `\x1b[2J\x1b]0;owned\a\nok all is well`) || strings.ContainsAny(err.Error(), "\x1b\a\n") {
		t.Errorf("%q", err)
	}
}
