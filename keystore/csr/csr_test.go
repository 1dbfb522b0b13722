package csr

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"onionbalancer/descriptor"
)

var caNonce = []byte("a CA's random value, 32 bytes!!!")

// newIdentity returns an identity key; the same seed gives the same one.
func newIdentity(t testing.TB, seed byte) *descriptor.IdentityKey {
	t.Helper()
	identity, err := descriptor.IdentityKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	if err != nil {
		t.Fatal(err)
	}
	return identity
}

// newRequest returns a request for all names that there can be.
func newRequest(t testing.TB, address descriptor.Address) Request {
	t.Helper()
	names, err := Names(address, true, []string{"www", "*.shop." + address.String()})
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(address, names, caNonce, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// wantError fails unless err says all of parts.
func wantError(t *testing.T, name string, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", name)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%s: error %q does not say %q", name, err, part)
		}
	}
}

// TestRequest makes requests for many keys and nonces, and has them read by
// Verify, by the standard library, and by a reader of this test's own.
func TestRequest(t *testing.T) {
	seen := make(map[string]bool)
	for n := range 40 {
		identity := newIdentity(t, byte(n))
		r := newRequest(t, identity.Address())
		r.CANonce = bytes.Repeat([]byte{byte(n), 1}, minNonce/2+3*n)
		der, err := r.Sign(identity.Sign)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Verify(der, identity.Address(), r.CANonce)
		if err != nil {
			t.Fatalf("CA nonce of %d bytes: %v", len(r.CANonce), err)
		}
		independent(t, der, got)
		independent(t, der, r)
		parsed, err := x509.ParseCertificateRequest(der)
		if err != nil {
			t.Fatal(err)
		}
		if err := parsed.CheckSignature(); err != nil {
			t.Error(err)
		}
		if !slices.Equal(parsed.DNSNames, r.Names) || !parsed.Extensions[0].Critical || len(parsed.RawSubject) != 2 {
			t.Errorf("the standard library reads names %q, extensions %v", parsed.DNSNames, parsed.Extensions)
		}
		if seen[string(r.ApplicantNonce)] || len(r.ApplicantNonce) < 8 {
			t.Errorf("an applicant's nonce %x", r.ApplicantNonce)
		}
		seen[string(r.ApplicantNonce)] = true
	}
}

// TestEncoding compares what is signed with bytes set by hand from RFC 2986,
// RFC 8410 and the Baseline Requirements.
func TestEncoding(t *testing.T) {
	address := newIdentity(t, 1).Address()
	r, err := New(address, []string{address.String()}, []byte("12345678"), bytes.NewReader(make([]byte, ownNonce)))
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.message()
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{
		"3081c3",          // CertificationRequestInfo
		"020100",          // version v1
		"3000",            // an empty subject
		"302a",            // subjectPKInfo
		"3005 06032b6570", // id-Ed25519, no parameters
		"0321 00", "KEY",  //
		"a0818f",                     // [0] attributes, shortest first as all begin alike
		"3012 0604 67810c29",         // cabf-caSigningNonce
		"310a 0408 3132333435363738", //
		"301a 0604 67810c2a",         // cabf-applicantSigningNonce
		"3112 0410 00000000000000000000000000000000",
		"305d 0609 2a864886f70d01090e", // extensionRequest
		"3150 304e 304c",
		"0603 551d11 0101ff", // subjectAltName, critical
		"0442 3040 823e", "NAME",
	}, "")
	want = strings.NewReplacer(" ", "", "KEY", hex.EncodeToString(address[:]), "NAME", hex.EncodeToString([]byte(address.String()))).Replace(want)
	if hex.EncodeToString(got) != want {
		t.Errorf("got\n%x, want\n%s", got, want)
	}
}

// TestSignRefuses: nothing comes out that Verify would refuse.
func TestSignRefuses(t *testing.T) {
	identity := newIdentity(t, 1)
	address := identity.Address()
	broken := errors.New("the token is gone")
	for name, sign := range map[string]func([]byte) ([]byte, error){
		"failing":     func([]byte) ([]byte, error) { return nil, broken },
		"silent":      func([]byte) ([]byte, error) { return nil, nil },
		"short":       func([]byte) ([]byte, error) { return make([]byte, 63), nil },
		"garbage":     func([]byte) ([]byte, error) { return make([]byte, 64), nil },
		"another key": newIdentity(t, 2).Sign,
	} {
		der, err := newRequest(t, address).Sign(sign)
		if err == nil || der != nil {
			t.Errorf("%s signer: %x, %v", name, der, err)
		}
		if name == "failing" && !errors.Is(err, broken) {
			t.Errorf("the signer's error is lost: %v", err)
		}
	}
	for name, spoil := range map[string]func(*Request){
		"no address":            func(r *Request) { r.Address = descriptor.Address{} },
		"no names":              func(r *Request) { r.Names = nil },
		"too many names":        func(r *Request) { r.Names = make([]string, maxNames+1) },
		"the same name":         func(r *Request) { r.Names = append(r.Names, r.Names[0]) },
		"another's name":        func(r *Request) { r.Names[1] = newIdentity(t, 2).Address().String() },
		"no CA nonce":           func(r *Request) { r.CANonce = nil },
		"short CA nonce":        func(r *Request) { r.CANonce = r.CANonce[:7] },
		"long CA nonce":         func(r *Request) { r.CANonce = make([]byte, maxNonce+1) },
		"short applicant nonce": func(r *Request) { r.ApplicantNonce = r.ApplicantNonce[:7] },
	} {
		r := newRequest(t, address)
		spoil(&r)
		_, err := r.Sign(func([]byte) ([]byte, error) {
			t.Errorf("%s: the key was used", name)
			return nil, broken
		})
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	_, err := New(address, []string{address.String()}, caNonce, iotest.ErrReader(io.ErrUnexpectedEOF))
	wantError(t, "no randomness", err, "making a certificate request", "unexpected EOF")
}

// TestSignable: of all that an identity key signs, or a blinded one, only the
// content of a request passes for one, and only that of the key's own address.
func TestSignable(t *testing.T) {
	identity := newIdentity(t, 1)
	address := identity.Address()
	message, err := newRequest(t, address).message()
	if err != nil {
		t.Fatal(err)
	}
	if err := Signable(address, message); err != nil {
		t.Error(err)
	}
	var certificate []byte
	_, err = descriptor.NewCertificate(descriptor.CertHSDescSigning, [32]byte{}, address, time.Now().Add(time.Hour), func(m []byte) ([]byte, error) {
		certificate = bytes.Clone(m)
		return identity.Sign(m)
	})
	if err != nil || certificate[0] != 1 {
		t.Fatalf("a certificate %x, %v", certificate, err)
	}
	for name, m := range map[string][]byte{
		"nothing":         nil,
		"a certificate":   certificate,
		"a CAA record":    []byte(`onion-caa|1697210719|caa 128 issue "ca.example"`),
		"a document":      []byte(`{"version":1}`),
		"a text":          []byte("balancer ceremony"),
		"an empty tag":    {0x30, 0},
		"more at the end": append(bytes.Clone(message), 0),
		"cut short":       message[:len(message)-1],
	} {
		wantError(t, name, Signable(address, m), "not the content of a certificate request")
	}
	wantError(t, "another address", Signable(newIdentity(t, 2).Address(), message), address.Short())
}

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
