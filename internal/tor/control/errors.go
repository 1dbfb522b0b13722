package control

import (
	"errors"
	"fmt"
	"strings"

	"onionbalancer/internal/printable"
)

// ErrNotConnected is wrapped by the errors of calls that found no connection
// to tor, or lost it before the answer. It is unknown then whether tor
// carried the command out.
var ErrNotConnected = errors.New("not connected to tor's control port")

// ErrTooLarge is wrapped when tor sent more than the client accepts.
var ErrTooLarge = errors.New("more bytes than allowed")

// ReplyError is tor's refusal of a command (control-spec, section 4).
type ReplyError struct {
	Code int    // such as 551
	Text string // tor's last line, without the code
}

func (e *ReplyError) Error() string {
	return fmt.Sprintf("tor answered %d %s", e.Code, printable.Text(e.Text))
}

// refusal is the error of a command that was refused, by tor or by a filter
// before its control port, whose texts differ from all of tor's.
func refusal(code int, text string) error {
	reply := &ReplyError{Code: code, Text: text}
	if code != 510 || !strings.Contains(strings.ToLower(text), "filter") {
		return reply
	}
	return advise(fmt.Errorf("a filter before the control port (onion-grater, for instance) does not let the command pass: %w", reply),
		"use tor's own control port, or have the filter pass AUTHCHALLENGE, SETEVENTS, SIGNAL, GETINFO, GETCONF, HSFETCH and HSPOST, and ONION_CLIENT_AUTH_ADD, _VIEW and _REMOVE for client keys")
}

// Advice is an error together with how an operator can fix it. Its text
// has both.
type Advice struct {
	Err error
	Fix string // one line
}

func (e *Advice) Error() string { return e.Err.Error() + ": " + e.Fix }
func (e *Advice) Unwrap() error { return e.Err }

func advise(err error, fix string, args ...any) error {
	return &Advice{Err: err, Fix: fmt.Sprintf(fix, args...)}
}

// Split separates the advice, if err has any, from the rest of its text.
func Split(err error) (text, fix string) {
	var advice *Advice
	if !errors.As(err, &advice) {
		return err.Error(), ""
	}
	return strings.TrimSuffix(err.Error(), ": "+advice.Fix), advice.Fix
}

// HSDescError is the failure of a fetch or a post that tor carried out: the
// HSDir refused, or could not be reached.
type HSDescError struct {
	Post    bool   // a post, else a fetch
	Address string // 56 characters
	HSDir   string // fingerprint, 40 upper-case hex digits
	reason  string
}

// Reason is tor's REASON: "NOT_FOUND", "BAD_DESC",
// "QUERY_REJECTED" or "UNEXPECTED" for a fetch, "UPLOAD_REJECTED" or
// "UNEXPECTED" for a post; "" when tor gave none.
func (e *HSDescError) Reason() string { return e.reason }

func (e *HSDescError) Error() string {
	act := "fetching the descriptor of"
	if e.Post {
		act = "posting the descriptor of"
	}
	reason := printable.Text(e.reason)
	if reason == "" {
		reason = "no reason given"
	}
	return fmt.Sprintf("%s %s at HSDir %s: %s", act, short(e.Address), e.HSDir, reason)
}

// short is the part of an onion address that may be logged.
func short(address string) string {
	if len(address) <= 6 {
		return address
	}
	return address[:6] + "…"
}

// notConnected wraps ErrNotConnected with the error of the last attempt.
func notConnected(cause error) error {
	if cause == nil {
		return ErrNotConnected
	}
	return fmt.Errorf("%w: %w", ErrNotConnected, cause)
}

// notReady wraps the end of a wait, and the error of the last attempt.
func notReady(err, cause error) error {
	if cause == nil {
		return fmt.Errorf("waiting for tor's control port: %w", err)
	}
	return fmt.Errorf("waiting for tor's control port: %w; last attempt: %w", err, cause)
}
