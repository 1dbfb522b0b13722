package keystore

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
)

const (
	pemBegin   = "-----BEGIN"
	pemEnd     = "-----END"
	pemDashes  = "-----"
	pemPrivate = "PRIVATE KEY"         // PKCS #8, not encrypted
	pemOpenSSH = "OPENSSH PRIVATE KEY" // and Arti
)

// foreign explains PEM blocks that are no identity key of a version 3 service.
var foreign = map[string]string{
	"RSA PRIVATE KEY":       "this is an RSA key, of a version 2 onion service, which tor no longer supports; make a new key with \"balancer key new\"",
	"ENCRYPTED PRIVATE KEY": "the key is encrypted; decrypt it with: openssl pkey -in FILE -out NEWFILE",
	"PUBLIC KEY":            "this is the public half of a key; the secret half is needed",
	"CERTIFICATE":           "this is a certificate, not a key",
	"PGP MESSAGE":           "the file is encrypted by PGP; decrypt it with: gpg -o NEWFILE -d FILE",
	"AGE ENCRYPTED FILE":    "the file is encrypted by age; decrypt it with: age -d -o NEWFILE FILE",
}

// parsePEM reads an Ed25519 key in PKCS #8, or Arti's in the form of OpenSSH.
// Text around the one PEM block does not matter, nor how its lines are broken,
// since people paste them into forms and variables. It is called within
// locked.Do.
func parsePEM(raw []byte, file string) (*descriptor.IdentityKey, Form, error) {
	_, after, _ := bytes.Cut(raw, []byte(pemBegin))
	label, after, _ := bytes.Cut(after, []byte(pemDashes))
	kind := strings.Join(strings.Fields(string(label)), " ")
	if why, known := foreign[kind]; known {
		return nil, "", errors.New(strings.ReplaceAll(why, " FILE", " "+file))
	}
	if kind != pemPrivate && kind != pemOpenSSH {
		return nil, "", fmt.Errorf("a PEM block of type %q, want %q", kind, pemPrivate)
	}
	body, rest, found := bytes.Cut(after, []byte(pemEnd))
	if !found {
		return nil, "", fmt.Errorf("the file ends before its last line, -----END %s-----: a part of the key is missing; copy it again", kind)
	}
	if bytes.ContainsRune(body, ':') { // a header
		return nil, "", errors.New(strings.ReplaceAll(foreign["ENCRYPTED PRIVATE KEY"], " FILE", " "+file))
	}
	if bytes.Contains(rest, []byte(pemBegin)) {
		return nil, "", errors.New("more than one PEM block, so it is not clear which key is meant")
	}
	packed := bytes.Join(bytes.Fields(body), nil)
	defer clear(packed)
	der := make([]byte, base64.StdEncoding.DecodedLen(len(packed)))
	defer clear(der)
	n, err := base64.StdEncoding.Decode(der, packed)
	if err != nil {
		return nil, "", errors.New("what stands between BEGIN and END is not base64 alone, or not all of it: copy the key again")
	}
	if kind == pemOpenSSH {
		key, err := parseOpenSSH(der[:n], file)
		return key, FormArti, err
	}
	key, err := parseDER(der[:n])
	return key, FormPEM, err
}

// isDER tells whether raw is one sequence of ASN.1, as short as a key.
func isDER(raw []byte) bool { return len(raw) > 2 && raw[0] == 0x30 && int(raw[1]) == len(raw)-2 }

// pkcs8Header stands before the seed in an Ed25519 key in PKCS #8 (RFC 8410,
// section 7).
var pkcs8Header = []byte{0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20}

// parseDER reads an Ed25519 key in PKCS #8.
func parseDER(der []byte) (*descriptor.IdentityKey, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		// The cause may quote the key.
		return nil, errors.New("the PEM block holds no whole private key in PKCS #8: copy the key again")
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s, want Ed25519: not the key of a version 3 onion service", algorithm(parsed))
	}
	defer clear(private)
	return descriptor.IdentityKeyFromSeed(private[:ed25519.SeedSize])
}

// algorithm names the kind of a private key.
func algorithm(key any) string {
	switch key.(type) {
	case *rsa.PrivateKey:
		return "an RSA key"
	case *ecdsa.PrivateKey:
		return "an ECDSA key"
	case *ecdh.PrivateKey:
		return "an x25519 key"
	}
	return "another kind of key"
}

// encodePEM writes a seed as parsePEM reads it. The caller wipes the result.
func encodePEM(seed []byte) (text *locked.Buffer, err error) {
	locked.Do(func() {
		private := ed25519.NewKeyFromSeed(seed)
		defer clear(private)
		var der []byte
		if der, err = x509.MarshalPKCS8PrivateKey(private); err != nil {
			return
		}
		defer clear(der)
		text = locked.Copy(pem.EncodeToMemory(&pem.Block{Type: pemPrivate, Bytes: der}))
	})
	if err != nil {
		return nil, fmt.Errorf("encoding key: %w", err)
	}
	return text, nil
}
