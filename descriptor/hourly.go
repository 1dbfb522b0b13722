package descriptor

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
)

// MaxHours bounds HourlyCertificates: a descriptor is published for two periods, and
// a period lasts 14 days at most.
const MaxHours = 30 * 24

// Expiries are the expiries of certificates for consecutive hours: First, a whole
// hour, and every hour after it. Count is 1 to MaxHours.
type Expiries struct {
	First time.Time `json:"first"`
	Count int       `json:"count"`
}

// SigningCertExpiries returns SigningCertExpiry of every hour of from to until; of
// from alone, if until is not after it; at most MaxHours.
func SigningCertExpiries(from, until time.Time) Expiries {
	first := SigningCertExpiry(from)
	hours := int(SigningCertExpiry(until).Sub(first) / time.Hour)
	return Expiries{First: first, Count: min(max(hours, 0)+1, MaxHours)}
}

// Last returns the last expiry.
func (e Expiries) Last() time.Time { return e.First.Add(time.Duration(e.Count-1) * time.Hour) }

// HourlyCertificates are the certificates of a descriptor-signing key for descriptors
// that are made in consecutive hours. tor makes a new certificate, over the same key,
// for every descriptor, and so an HSDir sees its expiry go on with the hours.
// These are made at once, so that the identity secret is not needed for it. They differ
// in expiry and signature alone. The value is immutable and comparable; the zero value
// has none.
type HourlyCertificates struct {
	first Certificate
	later string // the signatures of those after the first, 64 bytes each
}

// Hourly returns c as the only one, for descriptors of every hour.
func Hourly(c Certificate) HourlyCertificates { return HourlyCertificates{first: c} }

// CertifyHours makes the certificates of a descriptor-signing key, an Ed25519 public
// key, for b's period. Whoever publishes one verifies it first, as NewHourlyEncoder
// does, since a signature that was computed wrongly may give the key away.
func (b *BlindedKey) CertifyHours(signing [32]byte, expiries Expiries) (h HourlyCertificates, err error) {
	if expiries.Count < 1 || expiries.Count > MaxHours {
		return h, fmt.Errorf("making hourly certificates: %d of them, want 1 to %d", expiries.Count, MaxHours)
	}
	if _, err := certHours(expiries.Last()); err != nil {
		return h, fmt.Errorf("making hourly certificates: %w", err)
	}
	h.first, err = NewCertificate(CertHSDescSigning, signing, b.public, expiries.First,
		func(message []byte) ([]byte, error) { return b.Sign(message), nil })
	if err != nil {
		return h, err
	}
	later := make([]byte, 0, (expiries.Count-1)*ed25519.SignatureSize)
	for n := 1; n < expiries.Count; n++ {
		later = append(later, b.Sign(h.appendSigned(nil, n))...)
	}
	h.later = string(later)
	return h, nil
}

// ParseHourly reads what Bytes returned, the whole of raw. A single certificate, of
// the shape that NewCertificate makes, is one. It verifies nothing.
func ParseHourly(raw []byte) (HourlyCertificates, error) {
	h, err := parseHourly(raw)
	if err != nil {
		return HourlyCertificates{}, fmt.Errorf("reading hourly certificates: %w", err)
	}
	return h, nil
}

func parseHourly(raw []byte) (h HourlyCertificates, err error) {
	later := len(raw) - certLength
	if later < 0 || later%ed25519.SignatureSize != 0 || later/ed25519.SignatureSize >= MaxHours {
		return h, fmt.Errorf("%d bytes, want %d and up to %d times %d more", len(raw), certLength, MaxHours-1, ed25519.SignatureSize)
	}
	if h.first, err = parseCertificate(raw[:certLength]); err != nil {
		return h, err
	}
	if !h.first.hasSigner {
		return h, errors.New("the certificate does not name its signer")
	}
	h.later = string(raw[certLength:])
	if last := uint64(binary.BigEndian.Uint32(raw[2:])) + uint64(h.Count()-1); last > 1<<32-1 {
		return h, fmt.Errorf("the last expires %d hours after 1970, which does not fit", last)
	}
	return h, nil
}

// Bytes returns a copy of the binary form: the first certificate, then the signatures
// of the others.
func (h HourlyCertificates) Bytes() []byte { return append(h.first.Bytes(), h.later...) }

// IsZero reports whether h is the zero value.
func (h HourlyCertificates) IsZero() bool { return h.first.IsZero() }

// First returns the first certificate. All others are for the same key by the same
// signer.
func (h HourlyCertificates) First() Certificate { return h.first }

// Count returns how many certificates there are.
func (h HourlyCertificates) Count() int {
	if h.IsZero() {
		return 0
	}
	return 1 + len(h.later)/ed25519.SignatureSize
}

// Expires returns when the last certificate expires.
func (h HourlyCertificates) Expires() time.Time {
	return Expiries{h.first.Expires(), h.Count()}.Last()
}

// At returns the certificate for a descriptor made at the given time: the one whose
// expiry is its SigningCertExpiry or, if there is none, the nearest.
func (h HourlyCertificates) At(made time.Time) Certificate {
	if h.IsZero() {
		return Certificate{}
	}
	c := h.first
	c.raw = string(h.appendAt(nil, made))
	return c
}

// from returns the certificates from number n on, counted from 0, in memory of their own.
func (h HourlyCertificates) from(n int) HourlyCertificates {
	first := h.first
	first.raw = string(append(h.appendSigned(nil, n), h.signature(n)...))
	return HourlyCertificates{first: first, later: strings.Clone(h.later[n*ed25519.SignatureSize:])}
}

// ExpiresAt returns when the certificate of At expires.
func (h HourlyCertificates) ExpiresAt(made time.Time) time.Time {
	return h.first.Expires().Add(time.Duration(h.index(made)) * time.Hour)
}

// index returns which certificate At is, counted from 0.
func (h HourlyCertificates) index(made time.Time) int {
	n := int(SigningCertExpiry(made).Sub(h.first.Expires()) / time.Hour)
	return min(max(n, 0), h.Count()-1)
}

// appendAt appends the binary form of At.
func (h HourlyCertificates) appendAt(b []byte, made time.Time) []byte {
	n := h.index(made)
	return append(h.appendSigned(b, n), h.signature(n)...)
}

// appendSigned appends the signed part of certificate n, counted from 0.
func (h HourlyCertificates) appendSigned(b []byte, n int) []byte {
	start := len(b)
	b = append(b, h.first.raw[:len(h.first.raw)-ed25519.SignatureSize]...)
	expiry := b[start+2 : start+6]
	binary.BigEndian.PutUint32(expiry, binary.BigEndian.Uint32(expiry)+uint32(n))
	return b
}

func (h HourlyCertificates) signature(n int) string {
	if n == 0 {
		return h.first.raw[len(h.first.raw)-ed25519.SignatureSize:]
	}
	return h.later[(n-1)*ed25519.SignatureSize : n*ed25519.SignatureSize]
}

// Verify reports whether signer signed all certificates, as Certificate.Verify does,
// and the last is valid at now.
func (h HourlyCertificates) Verify(signer [32]byte, now time.Time) error {
	if err := h.verifySignatures(signer); err != nil {
		return err
	}
	return h.At(now).VerifyTime(now)
}

func (h HourlyCertificates) verifySignatures(signer [32]byte) error {
	if err := h.first.verifySignature(signer); err != nil {
		return err
	}
	later := make([]signed, 0, h.Count()-1)
	for n := 1; n < h.Count(); n++ {
		later = append(later, signed{h.appendSigned(nil, n), []byte(h.signature(n))})
	}
	if allSigned(signer, later) {
		return nil
	}
	for n, s := range later { // to name the wrong one
		if !ed25519.Verify(signer[:], s.message, s.signature) {
			return fmt.Errorf("certificate of type %02X, hour %d of %d: wrong signature", byte(h.first.Type()), n+2, h.Count())
		}
	}
	return nil
}
