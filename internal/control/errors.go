package control

import (
	"errors"
	"fmt"
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

func (e *ReplyError) Error() string { return fmt.Sprintf("tor answered %d %s", e.Code, e.Text) }

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
	reason := e.reason
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
func notConnected(cause string) error {
	if cause == "" {
		return ErrNotConnected
	}
	return fmt.Errorf("%w: %s", ErrNotConnected, cause)
}

func notReadyError(err error, state State) error {
	if state.LastError == "" {
		return fmt.Errorf("waiting for tor's control port: %w", err)
	}
	return fmt.Errorf("waiting for tor's control port: %w; last attempt: %s", err, state.LastError)
}
