//go:build !cgo

package helper

import "onionbalancer/keystore/token"

func load(string) (Module, error) {
	return nil, token.Errorf(token.CodeUnsupported, "this balancer was built without PKCS #11 (CGO_ENABLED=0)")
}
