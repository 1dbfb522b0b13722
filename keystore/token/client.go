package token

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"onionbalancer/internal/locked"
	"onionbalancer/keystore/pkcs11uri"
	"onionbalancer/keystore/token/pin"
)

// Token is a token that is used through a helper process. All methods may be
// called concurrently; requests to one token are carried out one at a time, in
// the order in which they come. Each returns when its context ends, and after
// 30 seconds at most: then the helper is killed, and the next request starts a
// new one. So does one that finds the helper dead. Nothing is tried twice.
//
// Errors wrap *Error where there is something to tell by its Code.
type Token struct {
	helper *helper
	name   string

	mu     sync.Mutex
	closed bool
}

// Open returns the token that uri names. It starts no process, reads no PIN, and
// does not know whether the token is there. Tokens opened by the same module,
// selector and PIN source share a helper.
func Open(uri *pkcs11uri.URI) (*Token, error) {
	if uri.ModulePath == "" {
		return nil, Errorf(CodeMisuse, "opening token: the URI has no module-path, the file of the PKCS #11 library")
	}
	source, err := pin.Parse(uri.PINSource)
	if err != nil {
		return nil, fmt.Errorf("opening token: %w", err)
	}
	source.Claim()
	at, err := placeOf(uri)
	if err != nil {
		return nil, fmt.Errorf("opening token: %w", err)
	}
	return &Token{helper: share(at, source), name: at.selector.String()}, nil
}

// SelectorOf returns which token a URI names.
func SelectorOf(uri *pkcs11uri.URI) Selector {
	return Selector{Label: uri.Label, Serial: uri.Serial, Manufacturer: uri.Manufacturer, Model: uri.Model}
}

// ObjectOf returns which key a URI names.
func ObjectOf(uri *pkcs11uri.URI) Object { return Object{Label: uri.Object, ID: uri.ID} }

// String names the token for people, by all that selects it.
func (s Selector) String() string {
	var fields []string
	for _, field := range []struct{ name, value string }{
		{"", s.Label}, {"serial ", s.Serial}, {"model ", s.Model}, {"manufacturer ", s.Manufacturer},
	} {
		if field.value != "" {
			fields = append(fields, fmt.Sprintf("%s%q", field.name, field.value))
		}
	}
	if len(fields) == 0 {
		return "the only token"
	}
	return "token " + strings.Join(fields, ", ")
}

// Close lets go of the token. The helper ends when nobody uses it any more;
// requests under way get two seconds.
func (t *Token) Close() error {
	t.mu.Lock()
	closed := t.closed
	t.closed = true
	t.mu.Unlock()
	if !closed {
		t.helper.release()
	}
	return nil
}

// do carries a request out; doing says what for.
func (t *Token) do(ctx context.Context, doing string, request Request, payload *locked.Buffer) (*Response, *locked.Buffer, error) {
	t.mu.Lock()
	closed := t.closed
	t.mu.Unlock()
	var response *Response
	var secret *locked.Buffer
	err := error(Errorf(CodeMisuse, "the token is closed"))
	if !closed {
		response, secret, err = t.helper.do(ctx, &request, payload)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s with %s: %w", doing, t.name, err)
	}
	return response, secret, nil
}
