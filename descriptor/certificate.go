package descriptor

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// CertType says what an Ed25519 certificate is for (cert-spec, section 2.1).
type CertType byte

// The types of certificate that onion services and relays use.
const (
	CertSigningKey    CertType = 0x04 // a relay's signing key, by its identity key
	CertHSDescSigning CertType = 0x08 // a descriptor-signing key, by the blinded key
	CertIntroAuth     CertType = 0x09 // an introduction point's auth-key, by the descriptor-signing key
	CertIntroEnc      CertType = 0x0B // the Ed25519 form of an enc-key, by the descriptor-signing key
)

// CertLifetime is how long tor's certificates in descriptors live. It is
// longer than a descriptor does, for clients whose clocks are wrong.
const CertLifetime = 54 * time.Hour

const (
	certVersion      = 1
	certKeyEd25519   = 1
	certHeader       = 40 // bytes before the extensions
	certExtSigner    = 4  // extension type: the key that signed
	certExtAffects   = 1  // extension flag: who does not know it must refuse
	certSignedLength = certHeader + 4 + ed25519.PublicKeySize
	certLength       = certSignedLength + ed25519.SignatureSize // of the only shape written
)

var errSigner = errors.New("the certificate names another signer")

// ErrExpired is wrapped by errors about a certificate whose time is over.
var ErrExpired = errors.New("expired")

// Certificate is an Ed25519 certificate as of cert-spec, section 2.1. It is
// immutable and comparable; the zero value is no certificate.
type Certificate struct {
	raw       string
	key       [32]byte
	signer    [32]byte
	hasSigner bool
}

// CertExtension is one extension of a certificate. Data aliases nothing.
type CertExtension struct {
	Type, Flags byte
	Data        []byte
}

// ParseCertificate reads the binary form of a certificate, the whole of raw.
// It verifies nothing.
func ParseCertificate(raw []byte) (Certificate, error) {
	c, err := parseCertificate(raw)
	if err != nil {
		return Certificate{}, fmt.Errorf("reading certificate: %w", err)
	}
	return c, nil
}

func parseCertificate(raw []byte) (Certificate, error) {
	if len(raw) < certHeader+ed25519.SignatureSize {
		return Certificate{}, fmt.Errorf("%d bytes, want at least %d", len(raw), certHeader+ed25519.SignatureSize)
	}
	if raw[0] != certVersion {
		return Certificate{}, fmt.Errorf("version %d, want %d", raw[0], certVersion)
	}
	switch raw[1] {
	case 0, 1, 2, 3, 7:
		return Certificate{}, fmt.Errorf("type %02X, which is no Ed25519 certificate", raw[1])
	}
	c := Certificate{key: [32]byte(raw[7:39])}
	rest := raw[certHeader : len(raw)-ed25519.SignatureSize]
	for n := int(raw[certHeader-1]); n > 0; n-- {
		ext, tail, err := cutExtension(rest)
		if err != nil {
			return Certificate{}, err
		}
		rest = tail
		switch {
		case ext.Type == certExtSigner && c.hasSigner:
			return Certificate{}, errors.New("two signing keys")
		case ext.Type == certExtSigner && len(ext.Data) != ed25519.PublicKeySize:
			return Certificate{}, fmt.Errorf("a signing key of %d bytes", len(ext.Data))
		case ext.Type == certExtSigner:
			c.signer, c.hasSigner = [32]byte(ext.Data), true
		case ext.Flags&certExtAffects != 0:
			return Certificate{}, fmt.Errorf("unknown extension %02X that affects validity", ext.Type)
		}
	}
	if len(rest) != 0 {
		return Certificate{}, fmt.Errorf("%d bytes after the last extension", len(rest))
	}
	c.raw = string(raw)
	return c, nil
}

// cutExtension splits the first extension off; its Data aliases b.
func cutExtension(b []byte) (ext CertExtension, rest []byte, err error) {
	if len(b) < 4 {
		return ext, nil, errors.New("an extension is cut short")
	}
	n := int(binary.BigEndian.Uint16(b))
	if len(b)-4 < n {
		return ext, nil, fmt.Errorf("an extension of %d bytes, of which %d are there", n, len(b)-4)
	}
	return CertExtension{Type: b[2], Flags: b[3], Data: b[4 : 4+n]}, b[4+n:], nil
}

// IsZero reports whether c is the zero value.
func (c Certificate) IsZero() bool { return c.raw == "" }

// Type returns what c is for.
func (c Certificate) Type() CertType { return CertType(c.at(1)) }

// KeyType returns the type of the certified key; 1 is Ed25519.
func (c Certificate) KeyType() byte { return c.at(6) }

// Key returns the certified key.
func (c Certificate) Key() [32]byte { return c.key }

// SigningKey returns the key that c says it is signed with, if it says so.
func (c Certificate) SigningKey() ([32]byte, bool) { return c.signer, c.hasSigner }

// Expires returns the last moment at which c is valid, a whole hour.
func (c Certificate) Expires() time.Time {
	if c.IsZero() {
		return time.Time{}
	}
	return time.Unix(int64(binary.BigEndian.Uint32([]byte(c.raw[2:6])))*3600, 0).UTC()
}

// Signature returns a copy of the signature, 64 bytes.
func (c Certificate) Signature() []byte {
	return []byte(c.raw[max(0, len(c.raw)-ed25519.SignatureSize):])
}

// Bytes returns a copy of the binary form.
func (c Certificate) Bytes() []byte { return []byte(c.raw) }

// Extensions returns copies of the extensions, in order.
func (c Certificate) Extensions() []CertExtension {
	if c.IsZero() {
		return nil
	}
	var exts []CertExtension
	rest := []byte(c.raw[certHeader : len(c.raw)-ed25519.SignatureSize])
	for len(rest) > 0 {
		ext, tail, err := cutExtension(rest)
		if err != nil {
			break // unreachable: parseCertificate walked the same bytes
		}
		exts, rest = append(exts, ext), tail
	}
	return exts
}

func (c Certificate) at(i int) byte {
	if c.IsZero() {
		return 0
	}
	return c.raw[i]
}
