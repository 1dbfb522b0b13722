package helper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"onionbalancer/internal/locked"
	"onionbalancer/keystore/token"
	"onionbalancer/keystore/token/internal/wire"
)

// Module is a PKCS #11 library that was loaded.
type Module interface {
	// Open finds the token and logs in, at most once with the PIN, which is nil
	// for a token that needs none. It keeps a copy of pin if it has to. inDoubt
	// says that it is unknown whether the token has refused it: then it does not
	// log in to one that counts a wrong PIN.
	Open(sel token.Selector, pin *locked.Buffer, inDoubt bool) (HSM, error)

	Close()
}

// HSM is a token in use. It is called by one goroutine. Errors
// are *token.Error, or wrap one.
type HSM interface {
	Info() (token.Info, error)
	WrappingKey(token.Object) (token.WrappingKey, error)
	Wrap(o token.Object, m token.Method, plain []byte) ([]byte, error)
	Unwrap(o token.Object, m token.Method, wrapped []byte) (*locked.Buffer, error)
	Generate(token.Object) (token.SigningKey, error)
	SigningKeys(labelPrefix string) ([]token.SigningKey, error)
	Sign(o token.Object, message []byte) ([]byte, error)
	Destroy(token.Object) error
	Close() error
}

// serve answers the requests that come from conn until it ends, which is no
// error, or ctx does. load loads a module; it is called at most once. It
// closes all that it opened, conn as well.
func serve(ctx context.Context, conn net.Conn, load func(path string) (Module, error)) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	s := &server{load: load}
	defer s.close()
	for {
		var request token.Request
		data, payload, err := wire.Read(conn, &request)
		request.Data = data
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		response, secret := s.answer(request, payload)
		wipe(payload)
		err = wire.Write(conn, response, response.Data, secret)
		wipe(secret)
		if err != nil {
			return err
		}
	}
}

func wipe(b *locked.Buffer) {
	if b != nil {
		b.Wipe()
	}
}

type server struct {
	load   func(path string) (Module, error)
	module Module
	hsm    HSM // nil until open succeeds
}

func (s *server) close() {
	defer func() { _ = recover() }() // the process ends anyway
	if s.hsm != nil {
		_ = s.hsm.Close()
	}
	if s.module != nil {
		s.module.Close()
	}
}

// answer carries a request out.
func (s *server) answer(request token.Request, payload *locked.Buffer) (response token.Response, secret *locked.Buffer) {
	handle, ok := handlers[request.Op]
	var err error
	switch {
	case !ok:
		err = token.Errorf(token.CodeMisuse, "unknown request %.40q", request.Op)
	case s.hsm == nil && request.Op != token.OpOpen && request.Op != token.OpPing:
		err = token.Errorf(token.CodeMisuse, "%s before open", request.Op)
	default:
		err = recovered(request.Op, func() (err error) {
			secret, err = handle(s, &request, payload, &response)
			return err
		})
	}
	if err != nil {
		wipe(secret)
		response, secret = token.Response{Error: asError(err)}, nil
	}
	response.Number = request.Number
	return response, secret
}

// recovered returns the error of f. A panic of the module's is an error like any
// other; what it says may hold a secret, so only its type is told.
func recovered(op token.Op, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			printCallers(os.Stderr)
			err = token.Errorf(token.CodeFailed, "carrying out %s: the code for the token panicked (%T)", op, r)
		}
	}()
	return f()
}

// printCallers tells where a panic was, by names and lines alone: the arguments
// that Go's own trace shows may be parts of a secret.
func printCallers(w io.Writer) {
	callers := make([]uintptr, 32)
	frames := runtime.CallersFrames(callers[:runtime.Callers(3, callers)])
	for more := true; more; {
		var frame runtime.Frame
		frame, more = frames.Next()
		fmt.Fprintf(w, "panic in %s, %s:%d\n", frame.Function, filepath.Base(frame.File), frame.Line)
	}
}

// asError keeps the code that err wraps, and the text as far as it fits.
func asError(err error) *token.Error {
	code := token.CodeFailed
	var known *token.Error
	if errors.As(err, &known) {
		code = known.Code
	}
	const cut = " …"
	text := strings.ToValidUTF8(err.Error(), "?") // as JSON would make it, but no longer
	if len(text) > token.MaxText {
		text = strings.ToValidUTF8(text[:token.MaxText-len(cut)], "") + cut
	}
	return &token.Error{Code: code, Text: text}
}

func (s *server) open(request *token.Request, pin *locked.Buffer, response *token.Response) (*locked.Buffer, error) {
	switch {
	case s.hsm != nil || s.module != nil:
		return nil, token.Errorf(token.CodeMisuse, "opened already")
	case request.Version != token.ProtocolVersion:
		return nil, token.Errorf(token.CodeMisuse, "version %d of the protocol, want %d", request.Version, token.ProtocolVersion)
	}
	module, err := s.load(request.Module)
	if err != nil {
		return nil, err
	}
	s.module = module
	hsm, err := module.Open(request.Token, pin, request.InDoubt)
	if err != nil {
		return nil, err
	}
	if hsm == nil {
		return nil, fmt.Errorf("the module opened nothing")
	}
	s.hsm = hsm
	if err := locked.Trouble(); err != nil {
		fmt.Fprintln(os.Stderr, err) // for the log
	}
	response.Info, err = hsm.Info()
	return nil, err
}
