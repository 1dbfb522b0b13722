// Package lockedtest shows tests what is in locked memory.
package lockedtest

import (
	"bytes"

	"onionbalancer/internal/locked"
)

// Bytes returns a copy of what b holds.
func Bytes(b *locked.Buffer) (secret []byte) {
	b.Use(func(kept []byte) { secret = bytes.Clone(kept) })
	return secret
}
