package etcd

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
)

const (
	maxAnswer = 8 << 20  // of keys
	maxOther  = 64 << 10 // of anything else, and of an error
)

// errTooLarge says that an answer is larger than maxAnswer, or all answers to a Range than
// maxRange.
var errTooLarge = fmt.Errorf("%w: an answer is too large", ErrUnavailable)

// endpoint is one etcd, as its clients reach it.
type endpoint struct {
	text string // as configured
	name string // in errors: an onion address is shortened
	long string // that onion address, without .onion; empty: it has none
	base string // of URLs
	http *http.Client
	met  bool // Client.mu: version and cluster are known, since it last failed
}

func newEndpoint(text string, config Config, timeout time.Duration) (*endpoint, error) {
	dial := config.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: timeout}).DialContext
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true) // each watch has a connection of its own, and breaks with it alone
	encryption := new(tls.Config)
	if config.TLS != nil {
		encryption = config.TLS.Clone()
	}
	transport := &http.Transport{
		DialContext:            dial,
		TLSClientConfig:        encryption,
		TLSHandshakeTimeout:    timeout,
		MaxIdleConnsPerHost:    8,
		IdleConnTimeout:        90 * time.Second,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxOther,
		Protocols:              protocols,
	}
	e := &endpoint{text: text, name: text, http: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if path, unix := strings.CutPrefix(text, "unix:"); unix {
		if !strings.HasPrefix(path, "/") {
			return nil, errors.New("a unix socket needs an absolute path")
		}
		e.base = "http://localhost"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, "unix", path) }
		return e, nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Port() == "" ||
		u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("want http://host:port, https://host:port or unix:/path, and nothing else in it") // it may hold a password
	}
	e.base, e.name = u.Scheme+"://"+u.Host, u.Host
	if onion, is := strings.CutSuffix(strings.ToLower(u.Hostname()), ".onion"); is {
		if config.Dial == nil {
			return nil, errors.New("an onion address cannot be dialed directly")
		}
		e.name, e.long = onion[:min(8, len(onion))]+"….onion:"+u.Port(), onion
	}
	return e, nil
}

// post makes a request and returns the text of its answer.
func (e *endpoint) post(ctx context.Context, path, token string, body []byte) ([]byte, *fault) {
	answer, f := e.open(ctx, path, token, body)
	if f != nil {
		return nil, f
	}
	defer answer.Close()
	limit := maxOther
	if strings.HasPrefix(path, "kv/") {
		limit = maxAnswer
	}
	text, err := io.ReadAll(io.LimitReader(answer, int64(limit)+1))
	switch {
	case err != nil:
		return nil, e.lost(ctx, err, true)
	case len(text) > limit:
		return nil, &fault{at: e, kind: errTooLarge, sent: true, answered: limit == maxAnswer}
	}
	return text, nil
}

// open makes a request and returns its answer, which is not an error.
func (e *endpoint) open(ctx context.Context, path, token string, body []byte) (io.ReadCloser, *fault) {
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteHeaders: func() { sent.Store(true) },
	})
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, e.base+"/v3/"+path, bytes.NewReader(body))
	if err != nil {
		return nil, &fault{at: e, kind: ErrUnavailable, why: err}
	}
	request.Header.Set("Content-Type", "application/json")
	if path != statusPath {
		// Then a member that knows no leader says so at once, and ends its watches.
		request.Header.Set("Grpc-Metadata-hasleader", "true")
	}
	if token != "" {
		request.Header.Set("Authorization", token)
	}
	response, err := e.http.Do(request)
	if err != nil {
		return nil, e.lost(ctx, err, sent.Load())
	}
	if response.StatusCode == http.StatusOK {
		return response.Body, nil
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(response.Body, maxOther))
	var said serverSaid
	var stream struct{ Error *serverSaid }
	if json.Unmarshal(text, &stream) == nil && stream.Error != nil { // else the error is a string
		said = *stream.Error
	} else {
		json.Unmarshal(text, &said)
	}
	if said.Message != "" {
		return nil, said.fault(e, token)
	}
	f := &fault{at: e, kind: ErrUnavailable, sent: true, why: fmt.Errorf("HTTP status %d", response.StatusCode)}
	switch {
	case bytes.HasPrefix(text, []byte("CommonName of client")):
		f.kind, f.sent, f.answered = ErrDenied, false, true
		f.why = errors.New("its gateway takes no client certificate with a CommonName while it has users; make one without")
	case response.StatusCode == http.StatusNotFound:
		f.sent, f.why = false, errors.New("it has no JSON gateway (HTTP status 404)")
	}
	return nil, f
}

// lost is what became of a request that was not answered.
func (e *endpoint) lost(ctx context.Context, err error, sent bool) *fault {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // without the URL
	}
	if ctx.Err() != nil {
		err = errors.New("it did not answer in time")
	}
	f := &fault{at: e, kind: ErrUnavailable, sent: sent, why: err}
	if text := strings.ToLower(err.Error()); len(e.long) > 8 && strings.Contains(text, e.long) { // who dials, or a certificate, names it
		f.why = errors.New(strings.ReplaceAll(text, e.long, e.long[:8]+"…"))
	}
	// An alert: with TLS 1.3 a server refuses a certificate once the client has written.
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" {
		f.kind, f.sent = ErrDenied, false
	}
	return f
}

// fault is what an error of the server's means, which answers to a request with this token.
func (s *serverSaid) fault(e *endpoint, token string) *fault {
	f := &fault{at: e, answered: true}
	says := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(s.Message, w) {
				return true
			}
		}
		return false
	}
	switch code := cmp.Or(s.Code, s.GRPCCode); {
	case says("database space exceeded"):
		f.kind, f.sent = ErrNoSpace, true
	case says("invalid auth token", "user name is empty", "revision of auth store is old", "revision in the provided token"):
		f.kind, f.token = ErrDenied, true
	case code == 7 || code == 16 || says("permission denied", "authentication failed", "authentication is not enabled", "user name not found"):
		f.kind = ErrDenied
	case says("has been compacted"):
		f.kind = ErrCompacted
	case says("requested lease not found"):
		f.kind = ErrLeaseLost
	case says("no leader", "too many requests", "not capable"): // said before anything is done
		f.kind, f.answered = ErrUnavailable, false
	case code == 3 || code == 5 || code == 6 || code == 9 || code == 11 || code == 12: // the request is wrong
	default:
		f.kind, f.answered, f.sent = ErrUnavailable, false, true
	}
	if f.kind == ErrDenied && token == "" {
		f.token = true // with certificates, etcd takes who has none for whom its own certificate names
	}
	if token == "" || !strings.Contains(s.Message, token) {
		f.why = errors.New(legible(s.Message))
	}
	return f
}

// legible is what of a server's words may stand in a log.
func legible(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
	return fmt.Sprintf("%.200s", text)
}
