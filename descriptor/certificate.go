package descriptor

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// CertType is the purpose of an Ed25519 certificate (cert-spec, section 2.1).
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
// immutable and comparable; the zero value is not a certificate.
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

// Type returns the purpose of c.
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

// SigningCertExpiry returns when a certificate of a descriptor-signing key made
// at now shall expire: CertLifetime later, rounded up to the hour as tor does.
func SigningCertExpiry(now time.Time) time.Time {
	t := now.UTC().Add(CertLifetime)
	if whole := t.Truncate(time.Hour); !whole.Equal(t) {
		return whole.Add(time.Hour)
	}
	return t
}

// PointExpiry returns when the certificates of introduction points in a
// descriptor made at now shall expire: CertLifetime after the hour began, as tor
// does for all points of a descriptor alike.
func PointExpiry(now time.Time) time.Time { return now.UTC().Truncate(time.Hour).Add(CertLifetime) }

// certHours returns an expiry as certificates have it, rounded down to the hour.
func certHours(expires time.Time) (uint32, error) {
	hours := expires.Unix() / 3600
	if hours < 1 || hours > 1<<32-1 {
		return 0, fmt.Errorf("expiry %s does not fit", expires.UTC().Format(time.RFC3339))
	}
	return uint32(hours), nil
}

// NewCertificate makes a certificate for key that names its signer. sign is
// called once, with the bytes to be signed, and returns an Ed25519 signature
// by signingKey. The expiry counts in hours, and is rounded down.
func NewCertificate(t CertType, key, signingKey [32]byte, expires time.Time, sign func(msg []byte) ([]byte, error)) (Certificate, error) {
	hours, err := certHours(expires)
	if err != nil {
		return Certificate{}, fmt.Errorf("making a certificate of type %02X: %w", byte(t), err)
	}
	raw := make([]byte, 0, certLength)
	raw = append(raw, certVersion, byte(t))
	raw = binary.BigEndian.AppendUint32(raw, hours)
	raw = append(raw, certKeyEd25519)
	raw = append(raw, key[:]...)
	raw = append(raw, 1, 0, ed25519.PublicKeySize, certExtSigner, 0)
	raw = append(raw, signingKey[:]...)
	signature, err := sign(raw)
	if err != nil {
		return Certificate{}, fmt.Errorf("making a certificate of type %02X: %w", byte(t), err)
	}
	if len(signature) != ed25519.SignatureSize {
		return Certificate{}, fmt.Errorf("making a certificate of type %02X: a signature of %d bytes", byte(t), len(signature))
	}
	raw = append(raw, signature...)
	return Certificate{raw: string(raw), key: key, signer: signingKey, hasSigner: true}, nil
}

// Certify makes the certificate of a descriptor-signing key, an Ed25519 public
// key, for b's period. It verifies it, since a signature that was computed
// wrongly may give the key away.
func (b *BlindedKey) Certify(signing [32]byte, expires time.Time) (Certificate, error) {
	cert, err := NewCertificate(CertHSDescSigning, signing, b.public, expires,
		func(message []byte) ([]byte, error) { return b.Sign(message), nil })
	if err != nil {
		return Certificate{}, err
	}
	if err := cert.Verify(b.public, cert.Expires()); err != nil {
		return Certificate{}, fmt.Errorf("checking the certificate just made: %w", err)
	}
	return cert, nil
}

// Verify reports whether signer signed c and c is valid at now. A certificate
// that names another signer is refused, and so is one for a key that is not of
// Ed25519, is no canonical curve point, or has low order: with such a key some
// signature is right for any text.
func (c Certificate) Verify(signer [32]byte, now time.Time) error {
	if err := c.verifySignature(signer); err != nil {
		return err
	}
	return c.VerifyTime(now)
}

// VerifyTime reports whether c is valid at now, in an error that wraps ErrExpired if it
// is not.
func (c Certificate) VerifyTime(now time.Time) error {
	if now.After(c.Expires()) {
		return fmt.Errorf("certificate of type %02X: %w at %s", byte(c.Type()), ErrExpired, c.Expires().Format(time.RFC3339))
	}
	return nil
}

func (c Certificate) verifySignature(signer [32]byte) error {
	switch {
	case c.IsZero():
		return errors.New("no certificate")
	case c.KeyType() != certKeyEd25519:
		return fmt.Errorf("certificate of type %02X: for a key of type %d, want %d", byte(c.Type()), c.KeyType(), certKeyEd25519)
	case c.hasSigner && c.signer != signer:
		return errSigner
	}
	if err := checkEd25519(c.key); err != nil {
		return fmt.Errorf("certificate of type %02X: %w", byte(c.Type()), err)
	}
	signed, signature := c.raw[:len(c.raw)-ed25519.SignatureSize], c.raw[len(c.raw)-ed25519.SignatureSize:]
	if !ed25519.Verify(signer[:], []byte(signed), []byte(signature)) {
		return fmt.Errorf("certificate of type %02X: wrong signature", byte(c.Type()))
	}
	return nil
}
