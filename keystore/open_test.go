package keystore

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func pemText(t *testing.T, kind string, der []byte) []byte {
	t.Helper()
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func pkcs8(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestNotAKey: each thing that an operator may take for the key is refused with
// a hint, and no error repeats a secret.
func TestNotAKey(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := loadVectors[keyVectors](t, "keys.json").PEM[0]
	tor := loadVectors[keyVectors](t, "keys.json").TorKeyFiles[0]
	encrypted := "-----BEGIN PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n" + strings.SplitAfterN(good.PEM, "\n", 2)[1]
	for _, test := range []struct {
		name    string
		content []byte
		want    string
	}{
		{"empty", nil, "empty"},
		{"text", []byte("secret"), "understood are"},
		{"hostname", []byte(tor.Hostname + "\n"), "hs_ed25519_secret_key"},
		{"tor's public key", tor.Public, "public half"},
		{"tor's key cut short", tor.Secret[:95], "95 bytes"},
		{"tor's key with a line end", append(tor.Secret[:96:96], '\n'), "97 bytes"},
		{"tor's header alone", tor.Secret[:32], "32 bytes"},
		{"half of tor's header", tor.Secret[:16], "header"},
		{"a relay's family of files", append(torHeader("== ed25519v1-cert: type4 =="), tor.Secret[32:]...), "type4"},
		{"a header that is binary", append([]byte(torFamily), tor.Secret[20:]...), "header"},
		{"version 2", pemText(t, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey)), "version 2"},
		{"RSA in PKCS #8", pemText(t, "PRIVATE KEY", pkcs8(t, rsaKey)), "want Ed25519"},
		{"P-256 in PKCS #8", pemText(t, "PRIVATE KEY", pkcs8(t, ecKey)), "want Ed25519"},
		{"encrypted", pemText(t, "ENCRYPTED PRIVATE KEY", []byte("x")), "openssl pkey"},
		{"encrypted, old form", []byte(encrypted), "openssl pkey"},
		{"OpenSSH", pemText(t, "OPENSSH PRIVATE KEY", []byte("x")), "OpenSSH"},
		{"certificate", pemText(t, "CERTIFICATE", []byte("x")), "certificate"},
		{"another block", pemText(t, "X25519 PRIVATE KEY", []byte("x")), "X25519"},
		{"two keys", []byte(good.PEM + good.PEM), "more than one"},
		{"damaged base64", []byte(strings.Replace(good.PEM, "MC4C", "MC4*", 1)), "is not base64 only"},
		{"damaged DER", pemText(t, "PRIVATE KEY", good.Seed), "no whole private key"},
		{"large", make([]byte, maxKeyFile+1), "too many"},
	} {
		path := filepath.Join(writeDir(t, map[string][]byte{"key": append([]byte{}, test.content...)}), "key")
		_, err := Open(path)
		wantError(t, test.name, err, test.want, "opening key", path)
		for _, secret := range []string{string(good.Seed), hex.EncodeToString(good.Seed), string(tor.Expanded[:8]), good.PEM[30:60]} {
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("%s: the error shows the secret: %v", test.name, err)
			}
		}
	}
}

func TestNotAFile(t *testing.T) {
	dir := writeDir(t, nil)
	_, err := Open(filepath.Join(dir, "absent"))
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there gives %v", err)
	}
	_, err = Open(dir)
	wantError(t, "a directory without a key", err, dir, "there is no hs_ed25519_secret_key")

	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Open(pipe)
	wantError(t, "a pipe, which has no writer", err, "not a regular file")
}

// TestNeighbours: what stands beside the key has to agree with it.
func TestNeighbours(t *testing.T) {
	vectors := loadVectors[keyVectors](t, "keys.json")
	tor, other := vectors.TorKeyFiles[0], vectors.TorKeyFiles[1]
	for _, test := range []struct {
		name  string
		files map[string][]byte
		want  []string
	}{
		{"another's host name", map[string][]byte{torHostnameFile: []byte(other.Hostname)}, []string{"hostname", other.Hostname[:6], tor.Hostname[:6], "mixed up"}},
		{"a mistyped host name", map[string][]byte{torHostnameFile: []byte("a" + tor.Hostname[1:])}, []string{"hostname", "move"}},
		{"another's public key", map[string][]byte{torPublicFile: other.Public}, []string{torPublicFile, "mixed up"}},
		{"a public key cut short", map[string][]byte{torPublicFile: tor.Public[:63]}, []string{torPublicFile, "not a public key"}},
		{"a public key that is a secret one", map[string][]byte{torPublicFile: tor.Secret}, []string{torPublicFile, "not a public key"}},
		{"both another's", map[string][]byte{torPublicFile: other.Public, torHostnameFile: []byte(other.Hostname)}, []string{torPublicFile, torHostnameFile}},
	} {
		test.files[torSecretFile] = tor.Secret
		dir := writeDir(t, test.files)
		_, err := Open(dir)
		wantError(t, test.name, err, test.want...)
	}

	// A key under another name has no neighbours, but its name may speak.
	for name, fine := range map[string]bool{
		"front.key": true, tor.Hostname: true, tor.Hostname[:56] + ".key": true, other.Hostname[:56] + ".key": false,
	} {
		dir := writeDir(t, map[string][]byte{name: tor.Secret, torHostnameFile: []byte(other.Hostname)})
		if _, err := Open(filepath.Join(dir, name)); (err == nil) != fine {
			t.Errorf("%s: %v", name, err)
		}
	}
}
