package keystore

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"onionbalancer/descriptor"
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

// addHeader is the command that makes tor's file of what decode writes.
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

// notText tells whether bytes are no text in ASCII.
func notText(raw []byte) bool {
	return bytes.ContainsFunc(raw, func(r rune) bool { return r > '~' || r < ' ' && r != '\n' && r != '\r' && r != '\t' })
}
