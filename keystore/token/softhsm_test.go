//go:build cgo

package token_test

import (
	"crypto/rand"
	"os"
	"testing"

	"onionbalancer/keystore/token"
	"onionbalancer/keystore/token/tokentest"
)

// TestSoftHSM goes all the way: this process, the helper, SoftHSM.
func TestSoftHSM(t *testing.T) {
	hsm := tokentest.New(t)
	hsm.Make(t, tokentest.AES, "aes", "01")
	hsm.Make(t, tokentest.RSA, "rsa", "02")
	hsm.Make(t, tokentest.P256, "ec", "03")
	tok := open(t, hsm.URI(""))
	info, err := tok.Info(t.Context())
	if err != nil || info.Label != hsm.Label {
		t.Fatalf("%+v, %v", info, err)
	}
	if err := tok.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	key := newIdentity(t)
	for _, label := range []string{"aes", "rsa", "ec"} {
		o := token.Object{Label: label}
		checkIdentity(t, tok, o, sealBy(t, tok, o, key), key)
	}
	checkSigning(t, tok)
}

// TestWrongPINOfSoftHSM lets a real token count the tries.
func TestWrongPINOfSoftHSM(t *testing.T) {
	hsm := tokentest.New(t)
	if err := os.WriteFile(hsm.PINFile, []byte("wrong-"+rand.Text()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tok := open(t, hsm.URI(""))
	for range 3 {
		wantCode(t, tok.Ping(t.Context()), token.CodePIN, "")
	}
	if !hsm.Warned(t) {
		t.Error("the token saw no wrong PIN")
	}
	if err := os.WriteFile(hsm.PINFile, []byte(hsm.PIN+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := tok.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}
