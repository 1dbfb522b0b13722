package control

import (
	"errors"
	"fmt"
	"strings"

	"onionbalancer/internal/printable"
)

// ErrNotConnected is wrapped by the errors of calls that found no connection
// to tor, or lost it before their answer came. Nobody knows then whether tor
// carried the command out.
var ErrNotConnected = errors.New("not connected to tor's control port")

// ErrTooLarge is wrapped when tor sent more than the client is willing to hold.
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
// that stands before its control port and says so in words that tor never uses.
func refusal(code int, text string) error {
	reply := &ReplyError{Code: code, Text: text}
	if code != 510 || !strings.Contains(strings.ToLower(text), "filter") {
		return reply
	}
	return advise(fmt.Errorf("a filter before the control port (onion-grater, for instance) does not let the command pass: %w", reply),
		"use tor's own control port, or have the filter pass AUTHCHALLENGE, SETEVENTS, SIGNAL, GETINFO, GETCONF, HSFETCH and HSPOST")
}

// Advice is an error together with what an operator can do about it. Its text
// has both.
type Advice struct {
	Err  error
	Mend string // one line
}

func (e *Advice) Error() string { return e.Err.Error() + ": " + e.Mend }
func (e *Advice) Unwrap() error { return e.Err }

func advise(err error, mend string, args ...any) error {
	return &Advice{Err: err, Mend: fmt.Sprintf(mend, args...)}
}

// Split takes the advice, if err has any, off the rest of its text.
func Split(err error) (text, mend string) {
	var advice *Advice
	if !errors.As(err, &advice) {
		return err.Error(), ""
	}
	return strings.TrimSuffix(err.Error(), ": "+advice.Mend), advice.Mend
}

// HSDescError is the failure of a fetch or a post that tor carried out: the
// HSDir was asked, and it or the way to it said no.
type HSDescError struct {
	Post    bool   // a post, else a fetch
	Address string // 56 characters
	HSDir   string // fingerprint, 40 upper-case hex digits
	reason  string
}

// Reason is tor's word for what happened: "NOT_FOUND", "BAD_DESC",
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

// short is as much of an onion address as belongs in a log.
func short(address string) string {
	if len(address) <= 6 {
		return address
	}
	return address[:6] + "…"
}

// notConnected wraps ErrNotConnected with what the last attempt met.
func notConnected(cause error) error {
	if cause == nil {
		return ErrNotConnected
	}
	return fmt.Errorf("%w: %w", ErrNotConnected, cause)
}

// notReady wraps the end of a wait, and what the last attempt met.
func notReady(err, cause error) error {
	if cause == nil {
		return fmt.Errorf("waiting for tor's control port: %w", err)
	}
	return fmt.Errorf("waiting for tor's control port: %w; last attempt: %w", err, cause)
}
