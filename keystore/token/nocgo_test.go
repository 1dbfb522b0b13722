//go:build !cgo

package token_test

import (
	"testing"

	"onionbalancer/keystore/token"
)

// TestWithoutPKCS11 makes sure that a program that was built without C says so.
func TestWithoutPKCS11(t *testing.T) {
	tok := open(t, "pkcs11:token=any?module-path=/usr/lib/any.so")
	for range 2 {
		wantCode(t, tok.Ping(t.Context()), token.CodeUnsupported, "this balancer was built without PKCS #11 (CGO_ENABLED=0)")
	}
}
