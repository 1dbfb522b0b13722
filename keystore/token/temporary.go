package token

// Temporary reports whether what failed may work at the next try though nobody
// did anything: the token is absent, or the helper died. Then it is worth trying
// again soon. A wrong PIN, above all, is not.
func (e *Error) Temporary() bool { return e.Code == CodeAbsent || e.Code == CodeCrashed }
