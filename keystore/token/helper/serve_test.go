package helper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
	"onionbalancer/keystore/token"
	"onionbalancer/keystore/token/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// nothing is a token that can do nothing, and says how it was called.
type nothing struct {
	calls []string
	info  error
}

var errNothing = token.Errorf(token.CodeNoKey, "there is nothing")

func (n *nothing) note(call string) error {
	n.calls = append(n.calls, call)
	return errNothing
}

func (n *nothing) Open(sel token.Selector, pin *locked.Buffer, inDoubt bool) (HSM, error) {
	call := "open " + sel.Label
	if pin != nil {
		call += " with PIN of " + string('0'+byte(pin.Len()))
	}
	if inDoubt {
		call += " in doubt"
	}
	_ = n.note(call)
	if sel.Label == "nil" {
		return nil, nil
	}
	if sel.Label == "absent" {
		return nil, errors.New("plain error")
	}
	return n.hsm(), nil
}

func (n *nothing) hsm() HSM { return nothingHSM{n} }
func (n *nothing) Close()   { _ = n.note("close module") }

type nothingHSM struct{ *nothing }

func (n nothingHSM) Info() (token.Info, error) { _ = n.note("info"); return token.Info{}, n.info }
func (n nothingHSM) WrappingKey(token.Object) (token.WrappingKey, error) {
	return token.WrappingKey{}, n.note("wrapping-key")
}
func (n nothingHSM) Wrap(token.Object, token.Method, []byte) ([]byte, error) {
	return nil, n.note("wrap")
}
func (n nothingHSM) Unwrap(token.Object, token.Method, []byte) (*locked.Buffer, error) {
	return nil, n.note("unwrap")
}
func (n nothingHSM) Generate(token.Object) (token.SigningKey, error) {
	return token.SigningKey{}, n.note("generate")
}
func (n nothingHSM) SigningKeys(string) ([]token.SigningKey, error) { return nil, n.note("keys") }
func (n nothingHSM) Sign(_ token.Object, message []byte) ([]byte, error) {
	return nil, n.note(fmt.Sprint("sign ", len(message)))
}
func (n nothingHSM) Destroy(token.Object) error { panic(errors.New("seven")) }
func (n nothingHSM) Close() error               { return n.note("close token") }

// serving starts Serve and returns the other end of its connection.
func serving(t *testing.T, n *nothing) (net.Conn, <-chan error) {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- serve(t.Context(), theirs, func(path string) (Module, error) {
			_ = n.note("load " + path)
			if path == "missing" {
				return nil, token.Errorf(token.CodeAbsent, "no module")
			}
			return n, nil
		})
	}()
	t.Cleanup(func() { ours.Close() })
	return ours, done
}

func ask(t *testing.T, conn net.Conn, request token.Request, payload *locked.Buffer) token.Response {
	t.Helper()
	if err := wire.Write(conn, request, request.Data, payload); err != nil {
		t.Fatal(err)
	}
	var response token.Response
	if _, _, err := wire.Read(conn, &response); err != nil {
		t.Fatal(err)
	}
	if response.Number != request.Number {
		t.Errorf("the answer to %d has number %d", request.Number, response.Number)
	}
	return response
}

func TestServe(t *testing.T) {
	n := new(nothing)
	conn, done := serving(t, n)
	for i, step := range []struct {
		request token.Request
		payload *locked.Buffer
		code    token.Code // of the error, if any
		text    string
		calls   string
	}{
		{token.Request{Op: token.OpPing}, nil, "", "", ""},
		{token.Request{Op: token.OpInfo}, nil, token.CodeMisuse, "info before open", ""},
		{token.Request{Op: "nonsense"}, nil, token.CodeMisuse, "unknown request", ""},
		{token.Request{Op: token.OpOpen, Version: 99}, nil, token.CodeMisuse, "version 99", ""},
		{token.Request{Op: token.OpOpen, Version: token.ProtocolVersion - 1}, nil, token.CodeMisuse, "version 2 of the protocol, want 3", ""},
		{token.Request{Op: token.OpOpen, Version: token.ProtocolVersion, Module: "missing"}, nil, token.CodeAbsent, "no module", "load missing"},
		{token.Request{Op: token.OpOpen, Version: token.ProtocolVersion, Module: "m", Token: token.Selector{Label: "t"}, InDoubt: true}, locked.New(4), "", "", "load m,open t with PIN of 4 in doubt,info"},
		{token.Request{Op: token.OpOpen, Version: token.ProtocolVersion, Module: "m"}, nil, token.CodeMisuse, "opened already", ""},
		{token.Request{Op: token.OpInfo}, nil, "", "", "info"},
		{token.Request{Op: token.OpWrappingKey}, nil, token.CodeNoKey, "there is nothing", "wrapping-key"},
		{token.Request{Op: token.OpWrap}, nil, token.CodeMisuse, "without a data key", ""},
		{token.Request{Op: token.OpWrap}, locked.New(32), token.CodeNoKey, "there is nothing", "wrap"},
		{token.Request{Op: token.OpUnseal, Sealed: []byte("x")}, nil, token.CodeDamaged, "not JSON", ""},
		{token.Request{Op: token.OpSignIdentity, Data: []byte("m")}, nil, token.CodeDamaged, "not JSON", ""},
		{token.Request{Op: token.OpCertify}, nil, token.CodeMisuse, "by 0 files", ""},
		{token.Request{Op: token.OpCertify, Certify: make([]token.Order, token.MaxBatch+1)}, nil, token.CodeMisuse, "want 1 to 64", ""},
		{token.Request{Op: token.OpCertify, Certify: []token.Order{{Size: 2}}, Data: []byte("x")}, nil, token.CodeMisuse, "of 2 bytes, of which there are 1", ""},
		{token.Request{Op: token.OpCertify, Certify: []token.Order{{Size: -1}}}, nil, token.CodeMisuse, "of -1 bytes", ""},
		{token.Request{Op: token.OpCertify, Certify: []token.Order{{}}, Data: []byte("x")}, nil, token.CodeMisuse, "1 bytes more than the files", ""},
		{token.Request{Op: token.OpCertify, Certify: []token.Order{{}}}, nil, token.CodeMisuse, "signing key of 32 bytes", ""},
		{token.Request{Op: token.OpCertify, Certify: []token.Order{{Signing: make([]byte, 32)}}}, nil, token.CodeMisuse, "and a period", ""},
		{token.Request{Op: token.OpCertify, Certify: []token.Order{{Size: 1, Signing: make([]byte, 32), Period: descriptor.Period{Number: 1, Length: time.Hour}}}, Data: []byte("x")}, nil, token.CodeDamaged, "not JSON", ""},
		{token.Request{Op: token.OpGenerate}, nil, token.CodeNoKey, "there is nothing", "generate"},
		{token.Request{Op: token.OpKeys}, nil, token.CodeNoKey, "there is nothing", "keys"},
		{token.Request{Op: token.OpSign}, nil, token.CodeNoKey, "there is nothing", "sign 0"},
		{token.Request{Op: token.OpSign, Data: make([]byte, token.MaxMessage)}, nil, token.CodeNoKey, "there is nothing", "sign 131072"},
		{token.Request{Op: token.OpDestroy}, nil, token.CodeFailed, "panicked (*errors.errorString)", ""},
		{token.Request{Op: token.OpPing}, nil, "", "", ""},
	} {
		n.calls = nil
		step.request.Number = uint64(i) + 1
		response := ask(t, conn, step.request, step.payload)
		got := token.Error{}
		if response.Error != nil {
			got = *response.Error
		} else if len(response.Certified) > 0 {
			got = *response.Certified[0].Error
		}
		if got.Code != step.code || !strings.Contains(got.Text, step.text) || strings.Contains(got.Text, "seven") {
			t.Errorf("step %d, %s: error %q of code %q, want %q of %q", i, step.request.Op, got.Text, got.Code, step.text, step.code)
		}
		if calls := strings.Join(n.calls, ","); calls != step.calls {
			t.Errorf("step %d, %s: called %s, want %s", i, step.request.Op, calls, step.calls)
		}
	}
	n.calls = nil
	conn.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if calls := strings.Join(n.calls, ","); calls != "close token,close module" {
		t.Errorf("at the end: %s", calls)
	}
}

func TestServeOpenFails(t *testing.T) {
	for label, want := range map[string]string{"nil": "opened nothing", "absent": "plain error"} {
		n := new(nothing)
		conn, done := serving(t, n)
		response := ask(t, conn, token.Request{Op: token.OpOpen, Version: token.ProtocolVersion, Token: token.Selector{Label: label}}, nil)
		if response.Error == nil || response.Error.Code != token.CodeFailed || !strings.Contains(response.Error.Text, want) {
			t.Errorf("%s: %+v", label, response.Error)
		}
		conn.Close()
		if err := <-done; err != nil || n.calls[len(n.calls)-1] != "close module" {
			t.Errorf("%s: %v, %v", label, err, n.calls)
		}
	}
}

func TestServeGarbage(t *testing.T) {
	conn, done := serving(t, new(nothing))
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\n\r\n"[:12]); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil || !strings.Contains(err.Error(), "not of this protocol") {
		t.Errorf("error %v", err)
	}
}

func TestServeEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ours, theirs := net.Pipe()
	defer ours.Close()
	time.AfterFunc(10*time.Millisecond, cancel)
	if err := serve(ctx, theirs, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestErrorsAreBounded(t *testing.T) {
	err := asError(errors.New("\xff" + strings.Repeat("ä", token.MaxText)))
	if len(err.Text) > token.MaxText || len(err.Text) < token.MaxText-2 || !utf8.ValidString(err.Text) || err.Code != token.CodeFailed {
		t.Errorf("%d bytes", len(err.Text))
	}
}

// stream is a connection that says what it was given.
type stream struct {
	net.Conn
	io.Reader
}

func (s stream) Read(b []byte) (int, error)  { return s.Reader.Read(b) }
func (s stream) Write(b []byte) (int, error) { return len(b), nil }
func (s stream) Close() error                { return nil }

// FuzzServe makes sure that no request takes the helper down but by ending it.
func FuzzServe(f *testing.F) {
	var b strings.Builder
	for _, request := range []token.Request{
		{Op: token.OpOpen, Version: token.ProtocolVersion}, {Op: token.OpUnseal, Sealed: []byte("{}")}, {Op: token.OpCertify, Certify: []token.Order{{Size: 4}, {}}}, {Op: token.OpDestroy}, {Op: token.OpKeys},
	} {
		if err := wire.Write(&b, request, []byte("data"), nil); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(b.String())
	f.Add("\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x01{}x")
	f.Fuzz(func(t *testing.T, requests string) {
		n := new(nothing)
		_ = serve(t.Context(), stream{Reader: strings.NewReader(requests)}, func(string) (Module, error) { return n, nil })
	})
}
