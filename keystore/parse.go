package keystore

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"golang.org/x/crypto/cryptobyte"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
	"onionbalancer/internal/shell"
)

// parse tells the form of a key file by what is in it, and reads it. What is
// surely a key in another form is named, with the line that converts the file at
// path. It is called within locked.Do.
func parse(raw []byte, path string) (*descriptor.IdentityKey, Form, error) {
	file := shell.Quote(path)
	switch {
	case len(raw) == 0:
		return nil, "", errors.New("the file is empty")
	case bytes.HasPrefix(raw, []byte(torPublicTag)):
		return nil, "", fmt.Errorf("this is the public half of a key; the secret half is in %s", torSecretFile)
	case bytes.HasPrefix(raw, []byte(torFamily)):
		key, err := parseTor(raw, file)
		return key, FormTor, err
	case len(raw) == descriptor.ExpandedKeySize && notText(raw):
		return parseBare(raw, file)
	case len(raw) == ed25519.SeedSize && notText(raw):
		return nil, "", ambiguous(raw, "cat "+file)
	case bytes.HasPrefix(raw, []byte("\xff\xfe")) || bytes.HasPrefix(raw, []byte("\xfe\xff")):
		return nil, "", fmt.Errorf("this is text in UTF-16: run: (umask 077; iconv -f UTF-16 -t UTF-8 %s > NEWFILE)", file)
	case isDER(raw):
		return nil, "", fmt.Errorf("this is a key in DER, without PEM around it: run: openssl pkey -inform DER -in %s -out NEW.pem", file)
	}
	text := tidy(raw)
	switch {
	case bytes.Contains(text, []byte(pemBegin)):
		return parsePEM(text, file)
	case isHostname(text):
		return nil, "", fmt.Errorf("this is an onion address, not a key; the key is in %s beside it", torSecretFile)
	}
	if what := recognise(text); what != "" {
		return nil, "", errors.New(strings.ReplaceAll(what, " FILE", " "+file))
	}
	decoded, decode := decodeText(text, file)
	if decoded == nil {
		return nil, "", errors.New("no form of key that is known; " + understood)
	}
	defer clear(decoded)
	return parseDecoded(decoded, file, decode)
}

// tidy takes away what editors and shells put around text: the mark of UTF-8,
// blanks, quotes, and the escapes for line ends that stand in variables.
func tidy(raw []byte) []byte {
	text := bytes.TrimPrefix(raw, []byte("\ufeff"))
	if bytes.Contains(text, []byte(pemBegin)) {
		text = bytes.ReplaceAll(bytes.ReplaceAll(text, []byte(`\r`), []byte(" ")), []byte(`\n`), []byte("\n"))
	}
	return bytes.Trim(text, "\"' \t\r\n")
}

// leastDecoded is of how many bytes base64 or hexadecimal is taken for a key, or
// a part of one. What is shorter may be a password.
const leastDecoded = 30

// decodeText returns the bytes that text spells: in hexadecimal, or in base64 of
// either alphabet, padded or not, broken into lines or not; or as the control
// port of tor gives a key, in the midst of an answer. It returns nil if text
// spells none, and what decodes the file in a shell. It is strict about bits
// that stand for nothing, so that a key has no second spelling.
func decodeText(text []byte, file string) (decoded []byte, decode string) {
	if _, key, found := bytes.Cut(text, []byte(controlPrefix)); found {
		text, _, _ = bytes.Cut(key, []byte("\n250"))
	}
	packed := bytes.Join(bytes.Fields(text), nil)
	defer clear(packed)
	if len(packed)%2 == 0 && len(packed) >= 2*leastDecoded && len(bytes.Trim(packed, "0123456789abcdefABCDEF")) == 0 {
		decoded = make([]byte, len(packed)/2)
		_, _ = hex.Decode(decoded, packed) // digits alone
		return decoded, "tr -dc 0-9A-Fa-f < " + file + " | xxd -r -p"
	}
	packed = bytes.TrimRight(packed, "=")
	for i, c := range packed {
		packed[i] = base64Standard(c)
	}
	decoded = make([]byte, base64.RawStdEncoding.DecodedLen(len(packed)))
	n, err := base64.RawStdEncoding.Strict().Decode(decoded, packed)
	if err != nil || n < leastDecoded {
		clear(decoded)
		return nil, ""
	}
	return decoded[:n], "{ tr _- /+ < " + file + " | tr -dc A-Za-z0-9/+; echo =; } | base64 -d"
}

// controlPrefix stands before a key in what ADD_ONION answers and takes
// (control-spec, section 3.27).
const controlPrefix = "ED25519-V3:"

// base64Standard returns the character of the standard alphabet for one of the
// alphabet for URLs.
func base64Standard(c byte) byte {
	switch c {
	case '-':
		return '+'
	case '_':
		return '/'
	}
	return c
}

// parseDecoded reads what a text spelled: an expanded key, or a whole file in
// another form. decode decodes the file in a shell.
func parseDecoded(raw []byte, file, decode string) (*descriptor.IdentityKey, Form, error) {
	switch {
	case bytes.HasPrefix(raw, []byte(torFamily)):
		key, err := parseTor(raw, file)
		return key, FormText, err
	case bytes.Contains(raw, []byte(pemBegin)):
		return parsePEM(tidy(raw), file)
	case isDER(raw):
		key, err := parseDER(raw)
		return key, FormPEM, err
	case len(raw) == descriptor.ExpandedKeySize:
		if key, err := parsePair(raw); key != nil || err != nil {
			return key, FormSeed, err
		}
		key, err := descriptor.NewIdentityKey(raw)
		return key, FormText, err
	case len(raw) == ed25519.SeedSize:
		return nil, "", ambiguous(raw, decode)
	}
	return nil, "", fmt.Errorf("no form of key that is known: as base64 or hexadecimal it is %d bytes, and an expanded secret key has %d; is a part missing, or was something added? Else %s",
		len(raw), descriptor.ExpandedKeySize, understood)
}

// parseBare reads 64 bytes without anything around them. Only a seed and its
// public key prove what they are: any 64 bytes are somebody's expanded key.
func parseBare(raw []byte, file string) (*descriptor.IdentityKey, Form, error) {
	if key, err := parsePair(raw); key != nil || err != nil {
		return key, FormSeed, err
	}
	key, err := descriptor.NewIdentityKey(raw)
	if err != nil {
		return nil, "", err
	}
	defer key.Wipe()
	return nil, "", fmt.Errorf("64 bytes without tor's header; if they are the expanded key of %s, run: %s", key.Address().Short(), addHeader("cat "+file))
}

// parsePair reads a seed and the public key that it gives, as NaCl and Go write
// a key; nil if raw is none.
func parsePair(raw []byte) (*descriptor.IdentityKey, error) {
	key, err := descriptor.IdentityKeyFromSeed(raw[:ed25519.SeedSize])
	if err != nil {
		return nil, err
	}
	if key.Address() != descriptor.Address(raw[ed25519.SeedSize:]) {
		key.Wipe()
		return nil, nil
	}
	return key, nil
}

// ambiguous is the error of 32 bytes, which can mean two keys. decode writes
// them to a pipe.
func ambiguous(raw []byte, decode string) error {
	seed, err := descriptor.IdentityKeyFromSeed(raw)
	if err != nil {
		return err
	}
	defer seed.Wipe()
	asSeed := fmt.Sprintf("as a seed (RFC 8032) they are the key of %s: run: { printf '%s'; %s; } | openssl pkey -inform DER -out NEW.pem",
		seed.Address().Short(), octal(pkcs8Header), decode)
	expanded := make([]byte, descriptor.ExpandedKeySize)
	defer clear(expanded)
	copy(expanded, raw)
	expanded[len(expanded)-1] = 1 // does not change the address
	scalar, err := descriptor.NewIdentityKey(expanded)
	if err != nil {
		return errors.New("32 bytes; " + asSeed)
	}
	defer scalar.Wipe()
	return fmt.Errorf("32 bytes can be either of two keys; %s; as the first half of an expanded key, without the second, they are that of %s: run: %s",
		asSeed, scalar.Address().Short(), addHeader(decode+"; head -c 32 /dev/urandom"))
}

// addHeader is the command that makes tor's file of the output of decode.
func addHeader(decode string) string {
	return fmt.Sprintf(`(umask 077; { printf '%s\0\0\0'; %s; } > %s)`, torSecretTag, decode, torSecretFile)
}

// octal writes bytes as printf in a shell reads them.
func octal(raw []byte) string {
	var b strings.Builder
	for _, c := range raw {
		fmt.Fprintf(&b, `\%03o`, c)
	}
	return b.String()
}

// notText reports whether bytes are not ASCII text.
func notText(raw []byte) bool {
	return bytes.ContainsFunc(raw, func(r rune) bool { return r > '~' || r < ' ' && r != '\n' && r != '\r' && r != '\t' })
}

// strangers are files that people take for a key, told by a piece of their text.
var strangers = []struct {
	text *regexp.Regexp
	what string
}{
	{regexp.MustCompile(`(?m)^\s*\[\[?[A-Za-z_.]+\]\]?\s*(#.*)?$|^\s*(state_dir|key|signing|strategy|address|control)\s*=`),
		"this is TOML, balancer's configuration for one, and no key; the key is in the file that a line key = \"PATH\" in it names"},
	{regexp.MustCompile(`(?m)^kind:\s*Secret\b`), "this is a manifest of Kubernetes, and no key; mount the secret, and name the file in the volume"},
	{regexp.MustCompile(`(?m)^\s*-?\s*(services|instances|key|address):(\s|$)`),
		"this is YAML, OnionBalance's configuration for one, and no key; the key is in the file that a line key: PATH in it names"},
	{regexp.MustCompile(`(?m)^MasterOnionAddress\s`), "this is a backend's ob_config, and no key"},
	{regexp.MustCompile(`(?mi)^\s*(HiddenService[A-Za-z]+|SocksPort|ControlPort|ControlSocket|DataDirectory)\s`),
		"this is a torrc, and no key; the key is hs_ed25519_secret_key in the directory that HiddenServiceDir names"},
	{regexp.MustCompile(`(?i)^(([a-z2-7]{56}:)?descriptor:x25519:)?[a-z2-7]{52}$`),
		"this is a key of client authorization, and not of a service; in the configuration it belongs to client_key of an instance"},
	{regexp.MustCompile(`^(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ AAAA`), "this is a public key of OpenSSH, and not of an onion service"},
	{regexp.MustCompile(`^PuTTY-User-Key-File-`), "this is a key of PuTTY, and not of an onion service"},
	{regexp.MustCompile(`^age-encryption\.org/`), "the file is encrypted by age; decrypt it with: age -d -o NEWFILE FILE"},
	{regexp.MustCompile(`^RSA1024:`), foreign["RSA PRIVATE KEY"]},
	{regexp.MustCompile(`BEGIN [A-Z ]*PRIVATE KEY`), "the dashes around BEGIN and END are not the five plain ones that they were: write -----BEGIN PRIVATE KEY----- and -----END PRIVATE KEY-----"},
	{regexp.MustCompile(`(?i)^\s*<(!doctype|html|\?xml)`), "this is a web page, and no key"},
	{regexp.MustCompile(`^[{\[]`), "this is JSON, and no key"},
}

// recognise says what a text is that is known to be no key; empty if it may be
// one. FILE in it stands for the path.
func recognise(text []byte) string {
	for _, s := range strangers {
		if s.text.Match(text) {
			return s.what
		}
	}
	return ""
}

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
		return nil, "", errors.New("the text between BEGIN and END is not base64 only, or incomplete: copy the key again")
	}
	if kind == pemOpenSSH {
		key, err := parseOpenSSH(der[:n], file)
		return key, FormArti, err
	}
	key, err := parseDER(der[:n])
	return key, FormPEM, err
}

// isDER reports whether raw is one sequence of ASN.1, as short as a key.
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
func encodePEM(seed *locked.Buffer) (text *locked.Buffer, err error) {
	seed.Do(func(seed []byte) {
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

// Arti keeps the keys of a service in files of OpenSSH's form.
const (
	artiSecretFile    = "ks_hs_id.ed25519_expanded_private"
	artiBlindedPrefix = "ks_hs_blind_id"
	artiExpanded      = "ed25519-expanded@spec.torproject.org"
)

const (
	opensshMagic = "openssh-key-v1\x00"
	opensshBlock = 8 // bytes, to which an unencrypted key is padded
)

var errOpenSSH = errors.New("the key in the form of OpenSSH is not whole: copy it again")

// parseOpenSSH reads the one key of OpenSSH's form (its PROTOCOL.key), which has
// to be an expanded Ed25519 key of Arti's (tor's ssh-protocols.md) that is not
// encrypted. Everything that the form says twice has to agree, and the public
// key with the secret one.
func parseOpenSSH(raw []byte, file string) (*descriptor.IdentityKey, error) {
	rest, found := bytes.CutPrefix(raw, []byte(opensshMagic))
	s := cryptobyte.String(rest)
	var cipher, kdf, options, public, private cryptobyte.String
	var count uint32
	if !found || !readSSH(&s, &cipher) || !readSSH(&s, &kdf) || !readSSH(&s, &options) || !s.ReadUint32(&count) ||
		count != 1 || !readSSH(&s, &public) || !readSSH(&s, &private) || !s.Empty() {
		return nil, errOpenSSH
	}
	kind, address, err := opensshPublic(public)
	switch {
	case err != nil:
		return nil, err
	case kind != artiExpanded:
		return nil, fmt.Errorf("this is a key of OpenSSH of type %q, not of an onion service; Arti's are of type %q", kind, artiExpanded)
	case string(cipher) != "none":
		return nil, fmt.Errorf("the key is encrypted (%q); Arti keeps it without a passphrase: take the file from Arti's keystore", string(cipher))
	case string(kdf) != "none" || len(options) > 0 || len(private)%opensshBlock != 0:
		return nil, errOpenSSH
	}
	return opensshPrivate(private, address)
}

// opensshPublic reads a public key: its type, and for Arti's type the key.
func opensshPublic(s cryptobyte.String) (kind string, address descriptor.Address, err error) {
	var name, key cryptobyte.String
	if !readSSH(&s, &name) {
		return "", address, errOpenSSH
	}
	if string(name) != artiExpanded {
		return string(name), address, nil
	}
	if !readSSH(&s, &key) || !s.Empty() || len(key) != len(address) {
		return "", address, errOpenSSH
	}
	return artiExpanded, descriptor.Address(key), nil
}

// opensshPrivate reads the secret section of an unencrypted key: twice the same
// number, type, public key, secret key, comment, and the padding 1, 2, 3 ….
func opensshPrivate(s cryptobyte.String, address descriptor.Address) (*descriptor.IdentityKey, error) {
	var one, two uint32
	var kind, public, secret, comment cryptobyte.String
	if !s.ReadUint32(&one) || !s.ReadUint32(&two) || one != two || !readSSH(&s, &kind) || string(kind) != artiExpanded ||
		!readSSH(&s, &public) || !bytes.Equal(public, address[:]) || !readSSH(&s, &secret) || !readSSH(&s, &comment) || len(s) >= opensshBlock {
		return nil, errOpenSSH
	}
	for i, c := range s {
		if int(c) != i+1 {
			return nil, errOpenSSH
		}
	}
	key, err := descriptor.NewIdentityKey(secret)
	if err != nil {
		return nil, err
	}
	if key.Address() != address {
		key.Wipe()
		return nil, fmt.Errorf("the file says that it is the key of %s, and the secret in it is that of %s", address.Short(), key.Address().Short())
	}
	return key, nil
}

// readSSH reads a string of SSH (RFC 4251, section 5): 32 bits of length, and
// so many bytes.
func readSSH(s, out *cryptobyte.String) bool {
	var n uint32
	return s.ReadUint32(&n) && uint64(n) <= uint64(len(*s)) && s.ReadBytes((*[]byte)(out), int(n))
}
