package csr

import (
	"bytes"
	"testing"
)

// FuzzVerify: only requests that Sign made pass, whatever is done to them, and
// what parses is encoded to the same bytes again.
func FuzzVerify(f *testing.F) {
	identity := newIdentity(f, 1)
	address := identity.Address()
	r := newRequest(f, address)
	r.ApplicantNonce = []byte("always the same!")
	plain := r
	plain.Names = r.Names[:1]
	var signed [][]byte
	for _, r := range []Request{r, plain} {
		der, err := r.Sign(identity.Sign)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
		signed = append(signed, der)
	}
	f.Add([]byte("\x30\x80\x00\x00"))
	f.Fuzz(func(t *testing.T, der []byte) {
		if message, signature, err := split(der); err == nil {
			if r, err := parseMessage(message); err == nil {
				again, err := r.Sign(func([]byte) ([]byte, error) { return signature, nil })
				if err == nil && !bytes.Equal(again, der) {
					t.Errorf("%x is encoded as %x", der, again)
				}
				if err := Signable(r.Address, message); err != nil {
					t.Errorf("%x parses, and cannot be signed: %v", message, err)
				}
			}
		}
		if _, err := Verify(der, address, caNonce); err == nil && !bytes.Equal(der, signed[0]) && !bytes.Equal(der, signed[1]) {
			t.Errorf("nobody signed %x", der)
		}
	})
}
