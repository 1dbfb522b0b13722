//go:build cgo

package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
	"onionbalancer/keystore/csr"
	"onionbalancer/keystore/pkcs11uri"
	"onionbalancer/keystore/sealed"
	"onionbalancer/keystore/token"
	"onionbalancer/keystore/token/tokentest"
)

// TestKeyCSRToken makes requests with keys that a token seals, and with one that
// is on the token. openssl verifies them.
func TestKeyCSRToken(t *testing.T) {
	hsm := tokentest.New(t)
	seed := make([]byte, 32)
	_, _ = rand.Read(seed)
	identity, err := descriptor.IdentityKeyFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	for id, kind := range map[string]tokentest.Kind{"01": tokentest.AES, "02": tokentest.RSA, "03": tokentest.P256} {
		hsm.Make(t, kind, "wrap-"+id, id)
		path := filepath.Join(t.TempDir(), "front.sealed")
		sealKey(t, hsm.URI("wrap-"+id), path, identity)
		checkCSR(t, hsm.URI("wrap-"+id)+"&x-sealed="+url.QueryEscape(path), identity.Address())
	}
	hsm.Make(t, tokentest.Ed25519, "identity", "04")
	hsm.Make(t, tokentest.Ed25519, "identity of another", "05")
	made := checkCSR(t, hsm.URI("identity"), publicOf(t, hsm, "04"))
	if other := publicOf(t, hsm, "05"); made.Address == other.String() {
		t.Error("the request is for the other key of the token")
	}
	// What fails says why, and writes no file.
	out := filepath.Join(t.TempDir(), "no.csr")
	for uri, want := range map[string]string{
		hsm.URI("wrap-02"):    "0 Ed25519 keys of this name",
		hsm.URI("nobody"):     "0 Ed25519 keys of this name",
		hsm.URI(""):           "add object=LABEL",
		"pkcs11:object=front": "no module-path",
	} {
		said, err := exec.Command("balancer", "key", "csr", "--nonce", "bI6/MRqV4gw=", "--out", out, uri).CombinedOutput()
		if err == nil || !bytes.Contains(said, []byte(want)) || bytes.Contains(said, []byte(hsm.PIN)) {
			t.Errorf("%s: %v, want %q in\n%s", uri, err, want, said)
		}
		if _, err := os.Stat(out); err == nil {
			t.Fatalf("%s: a file was written", uri)
		}
	}
}

// checkCSR makes a request with the key that ref names, and has it checked as
// an ACME server would, and by openssl.
func checkCSR(t *testing.T, ref string, address descriptor.Address) (made csrMade) {
	t.Helper()
	out, err := exec.Command("balancer", "key", "csr", "--nonce", "bI6/MRqV4gw=", "--wildcard", "--json", ref).Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", ref, err, stderrOf(err))
	}
	if err := json.Unmarshal(out, &made); err != nil {
		t.Fatal(err)
	}
	der, err := base64.RawURLEncoding.DecodeString(made.CSR)
	if err != nil {
		t.Fatal(err)
	}
	nonce, err := csr.ACMENonce("bI6/MRqV4gw=")
	if err != nil {
		t.Fatal(err)
	}
	if r, err := csr.Verify(der, address, nonce); err != nil || len(r.Names) != 2 || made.Address != address.String() {
		t.Errorf("%s: %v, %+v", ref, err, made)
	}
	openssl := exec.Command("openssl", "req", "-verify", "-noout", "-text")
	openssl.Stdin = strings.NewReader(made.PEM)
	if said, err := openssl.CombinedOutput(); err != nil || !bytes.Contains(said, []byte("verify OK")) {
		t.Errorf("openssl: %v\n%s", err, said)
	}
	checkCAA(t, address, `0 issue "ca.example"`, "--caa", "0 issue ca.example", ref)
	return made
}

// publicOf asks OpenSC for the public key of an Ed25519 pair, and not us.
func publicOf(t *testing.T, hsm *tokentest.Token, id string) descriptor.Address {
	t.Helper()
	file := filepath.Join(t.TempDir(), "public.pem")
	hsm.Tool(t, "--read-object", "--type", "pubkey", "--id", id, "--output-file", file)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("pkcs11-tool wrote no PEM: %q", text)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	public, ok := key.(ed25519.PublicKey)
	if err != nil || !ok {
		t.Fatalf("pkcs11-tool wrote a %T, %v", key, err)
	}
	return descriptor.Address(public)
}

// sealKey writes identity to path, sealed by the key that ref names.
func sealKey(t *testing.T, ref, path string, identity *descriptor.IdentityKey) {
	t.Helper()
	uri, err := pkcs11uri.Parse(ref)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := token.Open(uri)
	if err != nil {
		t.Fatal(err)
	}
	defer tok.Close()
	with, err := tok.WrappingKey(t.Context(), token.ObjectOf(uri))
	if err != nil {
		t.Fatal(err)
	}
	file, err := sealed.Seal(identity, token.SelectorOf(uri), with, time.Now(), func(m token.Method, dataKey *locked.Buffer) ([]byte, error) {
		return tok.Wrap(t.Context(), token.ObjectOf(uri), m, dataKey)
	}, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := file.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}
