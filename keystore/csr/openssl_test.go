package csr

import (
	"bytes"
	"encoding/hex"
	"os/exec"
	"strings"
	"testing"
)

// TestOpenSSL has openssl read and verify a request. This test needs openssl,
// and fails without it.
func TestOpenSSL(t *testing.T) {
	identity := newIdentity(t, 1)
	r := newRequest(t, identity.Address())
	der, err := r.Sign(identity.Sign)
	if err != nil {
		t.Fatal(err)
	}
	text := openssl(t, der, true, "req", "-inform", "DER", "-verify", "-noout", "-text")
	for _, want := range []string{
		"verify OK", "Version: 1 (0x0)", "Subject: \n", "Public Key Algorithm: ED25519", "2.23.140.41", "2.23.140.42",
		"Subject Alternative Name: critical", "DNS:" + strings.Join(r.Names, ", DNS:"), "Signature Algorithm: ED25519",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("openssl does not say %q:\n%s", want, text)
		}
	}
	dump := openssl(t, der, true, "asn1parse", "-inform", "DER")
	for _, nonce := range [][]byte{r.CANonce, r.ApplicantNonce} {
		if !strings.Contains(dump, "[HEX DUMP]:"+strings.ToUpper(hex.EncodeToString(nonce))) &&
			!strings.Contains(dump, "OCTET STRING      :"+string(nonce)) {
			t.Errorf("openssl shows no OCTET STRING %x (%q):\n%s", nonce, nonce, dump)
		}
	}
	// And it would say so if the signature were wrong.
	der[len(der)-1] ^= 1
	openssl(t, der, false, "req", "-inform", "DER", "-verify", "-noout")
}

// openssl gives der to a command, and returns all it says.
func openssl(t *testing.T, der []byte, good bool, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "openssl", args...)
	cmd.Stdin = bytes.NewReader(der)
	out, err := cmd.CombinedOutput()
	failed := err != nil || strings.Contains(string(out), "verify failure")
	if failed == good {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}
