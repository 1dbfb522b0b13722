package descriptor

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

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

// NewCertificate makes a certificate for key that names its signer. sign is
// called once, with the bytes to be signed, and returns an Ed25519 signature
// by signingKey. The expiry counts in hours, and is rounded down.
func NewCertificate(t CertType, key, signingKey [32]byte, expires time.Time, sign func(msg []byte) ([]byte, error)) (Certificate, error) {
	hours := expires.Unix() / 3600
	if hours < 1 || hours > 1<<32-1 {
		return Certificate{}, fmt.Errorf("making a certificate of type %02X: expiry %s does not fit", byte(t), expires.UTC().Format(time.RFC3339))
	}
	raw := make([]byte, 0, certLength)
	raw = append(raw, certVersion, byte(t))
	raw = binary.BigEndian.AppendUint32(raw, uint32(hours))
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
	return c.verifyTime(now)
}

func (c Certificate) verifyTime(now time.Time) error {
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
