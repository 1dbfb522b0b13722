package sim

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"time"

	"onionbalancer/descriptor"
)

// wrapper is the outer wrapper of a descriptor, all that an HSDir sees of it
// (rend-spec-v3, section 2.4).
type wrapper struct {
	lifetime time.Duration
	revision uint64
	blinded  descriptor.BlindedPublicKey
}

const (
	defaultMaxSize  = 50000 // HSV3MaxDescriptorSize; this length itself is refused
	signaturePrefix = "Tor onion service descriptor sig v3"
)

// errWrapper is wrapped by every refusal of readWrapper.
var errWrapper = errors.New("not a descriptor")

// readWrapper reads and verifies what a directory reads and verifies: the
// lines in their order, the certificate by the blinded key, valid at now, and
// the signature over the whole.
func readWrapper(body []byte, now time.Time, maxSize int) (wrapper, error) {
	var w wrapper
	refuse := func(what string) (wrapper, error) { return wrapper{}, fmt.Errorf("%w: %s", errWrapper, what) }
	if len(body) >= maxSize {
		return refuse("too large")
	}
	rest, ok := bytes.CutPrefix(body, []byte("hs-descriptor 3\n"))
	if !ok {
		return refuse("its first line")
	}
	lifetime, rest, err := numberLine(rest, "descriptor-lifetime ")
	if err != nil || lifetime > 720 {
		return refuse("its lifetime")
	}
	w.lifetime = time.Duration(lifetime) * time.Minute
	block, rest := objectLine(rest, "descriptor-signing-key-cert\n", "ED25519 CERT")
	if block == nil {
		return refuse("its certificate")
	}
	cert, err := descriptor.ParseCertificate(block)
	if err != nil || cert.Type() != descriptor.CertHSDescSigning {
		return refuse("its certificate")
	}
	signer, ok := cert.SigningKey()
	if !ok || cert.Verify(signer, now) != nil {
		return refuse("its certificate's signature or expiry")
	}
	w.blinded = signer
	if w.revision, rest, err = numberLine(rest, "revision-counter "); err != nil {
		return refuse("its revision counter")
	}
	if block, rest = objectLine(rest, "superencrypted\n", "MESSAGE"); block == nil {
		return refuse("its encrypted part")
	}
	line, ok := bytes.CutPrefix(bytes.TrimSuffix(rest, []byte("\n")), []byte("signature "))
	signature, err := unpadded.DecodeString(string(line))
	if !ok || err != nil {
		return refuse("its signature line")
	}
	key := cert.Key()
	signed := append([]byte(signaturePrefix), body[:len(body)-len(rest)]...)
	if !ed25519.Verify(key[:], signed, signature) {
		return refuse("its signature")
	}
	return w, nil
}

// numberLine reads a line of keyword and number.
func numberLine(text []byte, keyword string) (uint64, []byte, error) {
	rest, ok := bytes.CutPrefix(text, []byte(keyword))
	line, rest, found := bytes.Cut(rest, []byte("\n"))
	if !ok || !found {
		return 0, nil, errWrapper
	}
	number, err := strconv.ParseUint(string(line), 10, 64)
	return number, rest, err
}

// objectLine reads a keyword line and the object after it; nil if it is not
// there.
func objectLine(text []byte, keyword, label string) (object, rest []byte) {
	text, ok := bytes.CutPrefix(text, []byte(keyword))
	if !ok || !bytes.HasPrefix(text, []byte("-----BEGIN "+label+"-----\n")) {
		return nil, nil
	}
	block, rest := pem.Decode(text)
	if block == nil {
		return nil, nil
	}
	return block.Bytes, rest
}

// signWrapper writes an outer wrapper around any bytes.
func signWrapper(cert descriptor.Certificate, signer ed25519.PrivateKey, revision uint64, superencrypted []byte) []byte {
	var b bytes.Buffer
	b.WriteString("hs-descriptor 3\ndescriptor-lifetime 180\ndescriptor-signing-key-cert\n")
	writeObject(&b, "ED25519 CERT", cert.Bytes())
	fmt.Fprintf(&b, "revision-counter %d\nsuperencrypted\n", revision)
	writeObject(&b, "MESSAGE", superencrypted)
	signature := ed25519.Sign(signer, append([]byte(signaturePrefix), b.Bytes()...))
	fmt.Fprintf(&b, "signature %s\n", unpadded.EncodeToString(signature))
	return b.Bytes()
}

func writeObject(b *bytes.Buffer, label string, data []byte) {
	text := base64.StdEncoding.EncodeToString(data)
	fmt.Fprintf(b, "-----BEGIN %s-----\n", label)
	for ; len(text) > 64; text = text[64:] {
		b.WriteString(text[:64] + "\n")
	}
	fmt.Fprintf(b, "%s\n-----END %s-----\n", text, label)
}
