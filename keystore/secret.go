package keystore

import (
	"errors"
	"fmt"
)

// hidden holds a secret where printing does not reach it: fmt follows the fields
// and pointers of a struct, calling no methods on those that are not exported,
// but cannot look into a closure.
type hidden[T any] func() T

func hide[T any](secret T) hidden[T] { return func() T { return secret } }

var errSecretText = errors.New("keystore: a secret key has no text form")

// String, Format and the marshallers keep the secret from being shown.
func (f *Fresh) String() string { return "[secret]" }

// Format writes String whatever the verb.
func (f *Fresh) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(f.String())) }

// MarshalText refuses.
func (f *Fresh) MarshalText() ([]byte, error) { return nil, errSecretText }
