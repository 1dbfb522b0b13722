//go:build cgo

package module

import (
	"fmt"
	"testing"

	"onionbalancer/keystore/token"
	"onionbalancer/keystore/token/tokentest"
)

// BenchmarkSign signs as much as a descriptor has, on SoftHSM.
func BenchmarkSign(b *testing.B) {
	_, opened := open(b)
	o := token.Object{Label: "signing", ID: []byte{1}}
	if _, err := opened.Generate(o); err != nil {
		b.Fatal(err)
	}
	descriptor := make([]byte, 15_000)
	for b.Loop() {
		if _, err := opened.Sign(o, descriptor); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkUnwrap unwraps a data key, on SoftHSM.
func BenchmarkUnwrap(b *testing.B) {
	k, opened := open(b)
	for i, c := range []struct {
		kind   tokentest.Kind
		method token.Method
	}{
		{tokentest.AES, token.MethodAESGCM}, {tokentest.AES, token.MethodAESKeyWrap},
		{tokentest.RSA, token.MethodOAEPSHA1}, {tokentest.P256, token.MethodECDHP256},
	} {
		o := token.Object{Label: string(c.method)}
		k.Make(b, c.kind, o.Label, fmt.Sprintf("%02d", i))
		wrapped, err := opened.Wrap(o, c.method, dataKey)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(string(c.method), func(b *testing.B) {
			for b.Loop() {
				plain, err := opened.Unwrap(o, c.method, wrapped)
				if err != nil {
					b.Fatal(err)
				}
				plain.Wipe()
			}
		})
	}
}
