package main

// usageError marks an error as the caller's misuse of the command line, which
// ends the program with status 2 rather than 1.
type usageError struct{ error }

// Unwrap returns the complaint itself.
func (e usageError) Unwrap() error { return e.error }
