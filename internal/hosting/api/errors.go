package api

import (
	"errors"
	"fmt"
	"net/http"

	"onionbalancer/internal/hosting"
)

// Error is the answer to a request that failed.
type Error struct {
	Status    int    `json:"-"` // of HTTP
	Text      string `json:"error"`
	Code      string `json:"code"` // for programs; each stands for one Status
	RequestID string `json:"request_id"`
}

func (e *Error) Error() string { return e.Text }

// The codes that a client may want to tell from others.
const (
	CodeUnknown = "unknown_customer"
	CodeNoShard = "unknown_shard"
	CodeNoSpare = "no_spare"
)

// meanings are what the errors of package hosting are to clients.
var meanings = []struct {
	err    error
	status int
	code   string
}{
	{hosting.ErrUnknown, http.StatusNotFound, CodeUnknown},
	{hosting.ErrNoShard, http.StatusNotFound, CodeNoShard},
	{hosting.ErrNoSpare, http.StatusConflict, CodeNoSpare},
	{hosting.ErrTaken, http.StatusConflict, "name_taken"},
	{hosting.ErrConflict, http.StatusConflict, "request_id_used"},
	{hosting.ErrRemoved, http.StatusConflict, "customer_removed"},
	{hosting.ErrApart, http.StatusConflict, "cannot_move"},
	{hosting.ErrName, http.StatusUnprocessableEntity, "invalid_name"},
}

// refuse returns an Error.
func refuse(status int, code, format string, args ...any) error {
	return &Error{Status: status, Code: code, Text: fmt.Sprintf(format, args...)}
}

// errorOf returns what is answered for err: what is not known to be the client's fault may
// pass, and is to be tried again.
func errorOf(err error) Error {
	if own := (*Error)(nil); errors.As(err, &own) {
		return *own
	}
	for _, m := range meanings {
		if errors.Is(err, m.err) {
			return Error{Status: m.status, Code: m.code, Text: err.Error()}
		}
	}
	return Error{Status: http.StatusServiceUnavailable, Code: "unavailable", Text: err.Error()}
}
