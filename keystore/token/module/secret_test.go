//go:build cgo

package module

import (
	"testing"

	"onionbalancer/internal/locked"
	"onionbalancer/keystore/token"
	"onionbalancer/keystore/token/tokentest"
)

// TestInsideDo does everything inside of locked.Do, as anyone who unseals a key
// does: C code must not be called there.
func TestInsideDo(t *testing.T) {
	k := tokentest.New(t)
	k.Make(t, tokentest.P256, "ec", "01")
	pin, o := secret(k.PIN), token.Object{Label: "ec"}
	var err error
	locked.Do(func() {
		var m *Module
		if m, err = Load(k.Module); err != nil {
			return
		}
		defer m.Close()
		var opened *Token
		if opened, err = m.Open(token.Selector{}, pin, false); err != nil {
			return
		}
		defer opened.Close()
		var wrapped []byte
		if wrapped, err = opened.Wrap(o, token.MethodECDHP256, dataKey); err != nil {
			return
		}
		for range 100 {
			var plain *locked.Buffer
			if plain, err = opened.Unwrap(o, token.MethodECDHP256, wrapped); err != nil {
				return
			}
			plain.Wipe()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}
