package keystore

import (
	"errors"
	"fmt"
)

var errSecretText = errors.New("keystore: a secret key has no text form")

// String, Format and the marshallers keep the secret from being shown.
func (f *Fresh) String() string { return "[secret]" }

// Format writes String whatever the verb.
func (f *Fresh) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(f.String())) }

// MarshalText refuses.
func (f *Fresh) MarshalText() ([]byte, error) { return nil, errSecretText }
