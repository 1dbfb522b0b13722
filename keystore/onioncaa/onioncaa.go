// Package onioncaa signs the CAA records of an onion address for a certificate
// authority that reads no descriptors: the in-band CAA of RFC 9799, section 6.4, which
// goes into the request that finalizes an ACME order.
package onioncaa

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"time"

	"onionbalancer/descriptor"
)

// MaxLife is how long records may be valid from now on.
const MaxLife = 8 * time.Hour

// prefix begins the signed message, so that it passes for nothing else that an identity
// key signs; package csr has the others.
const prefix = "onion-caa|"

// Set is the value of one address in the field onionCAA.
type Set struct {
	CAA       *string `json:"caa"`       // as a descriptor has the records; null if there are none
	Expiry    int64   `json:"expiry"`    // in seconds since 1970
	Signature string  `json:"signature"` // base64url without padding, as all of ACME
}

// Sign returns the records, none or up to 32, signed for address. sign is called once
// with the message, and returns a plain Ed25519 signature by the identity key.
func Sign(address descriptor.Address, records []descriptor.CAA, expiry, now time.Time, sign func(message []byte) ([]byte, error)) (Set, error) {
	if err := (&descriptor.Contents{CAA: records}).CheckRoom(0); err != nil {
		return Set{}, fmt.Errorf("signing CAA records: %w", err)
	}
	if err := CheckExpiry(expiry, now); err != nil {
		return Set{}, fmt.Errorf("signing CAA records: %w", err)
	}
	s := Set{Expiry: expiry.Unix()}
	if len(records) > 0 {
		text := descriptor.CAAText(records)
		s.CAA = &text
	}
	signature, err := sign(s.message())
	if err != nil {
		return Set{}, fmt.Errorf("signing CAA records: %w", err)
	}
	s.Signature = base64.RawURLEncoding.EncodeToString(signature)
	return s, s.Verify(address)
}

// CheckExpiry refuses a time that Sign refuses.
func CheckExpiry(expiry, now time.Time) error {
	switch left := expiry.Sub(now); {
	case left <= 0:
		return fmt.Errorf("they would have expired at %s", expiry.UTC().Format(time.RFC3339))
	case left > MaxLife:
		return fmt.Errorf("they would expire after %s, at most %s are allowed", left.Round(time.Minute), MaxLife)
	}
	return nil
}

// Verify reports whether the key of address signed the set.
func (s Set) Verify(address descriptor.Address) error {
	signature, err := base64.RawURLEncoding.DecodeString(s.Signature)
	if err != nil || len(signature) != ed25519.SignatureSize || !ed25519.Verify(address[:], s.message(), signature) {
		return errors.New("verifying CAA records: the signature is not by the key of the address")
	}
	return nil
}

// message returns what is signed.
func (s Set) message() []byte {
	m := append(strconv.AppendInt([]byte(prefix), s.Expiry, 10), '|')
	if s.CAA != nil {
		m = append(m, *s.CAA...)
	}
	return m
}
