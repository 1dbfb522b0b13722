package offline

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"onionbalancer/descriptor"
)

// Entry is what it takes to publish under Address during one period, together
// with the signing key that Certificate is for.
type Entry struct {
	Address descriptor.Address `json:"address"`
	Period  uint64             `json:"period"`
	// Periods is how many the ceremony covered, and Made when it was, by the
	// clock of the offline machine.
	Periods int         `json:"periods"`
	Made    time.Time   `json:"made"`
	Request Fingerprint `json:"request"` // that was signed
	// Certificate is of type descriptor.CertHSDescSigning.
	Certificate []byte `json:"certificate"`
	RevisionKey Secret `json:"revision_key"`
	// Signature is a plain one by the identity key, over all of the above.
	Signature []byte `json:"signature"`
}

// signatureContext begins what the identity key signs. A request for a web
// server's certificate, the only other message it ever signs plainly, begins
// with the byte 30.
const signatureContext = "onion service balancer: entry of an offline ceremony, version 1\x00"

// validate checks the form alone.
func (e *Entry) validate() error {
	switch {
	case e.Periods < 1 || e.Periods > MaxPeriods:
		return fmt.Errorf("a ceremony of %d periods, want 1 to %d", e.Periods, MaxPeriods)
	case !e.Request.valid():
		return errors.New("no fingerprint of a request")
	case len(e.Certificate) > 1024:
		return fmt.Errorf("a certificate of %d bytes", len(e.Certificate))
	case len(e.RevisionKey) != 32:
		return fmt.Errorf("a revision-counter key of %d bytes, want 32", len(e.RevisionKey))
	case len(e.Signature) != ed25519.SignatureSize:
		return fmt.Errorf("a signature of %d bytes, want %d", len(e.Signature), ed25519.SignatureSize)
	}
	return checkTime(e.Made)
}

// message is what Signature signs: every field, each of a fixed length or with
// its length before it.
func (e *Entry) message(s Schedule) []byte {
	m := []byte(signatureContext)
	m = append(m, e.Address[:]...)
	for _, n := range []uint64{s.Minutes, s.OffsetSeconds, e.Period, uint64(e.Periods), uint64(e.Made.Unix())} {
		m = binary.BigEndian.AppendUint64(m, n)
	}
	for _, b := range [][]byte{[]byte(e.Request), e.Certificate, e.RevisionKey} {
		m = binary.BigEndian.AppendUint64(m, uint64(len(b)))
		m = append(m, b...)
	}
	return m
}

// Verify checks that the holder of e's address signed e, and that its
// certificate is one by the blinded key of the period, of the right type, and
// lives for as long as the period's descriptor is published. It returns the
// certificate.
func (e *Entry) Verify(s Schedule) (descriptor.Certificate, error) {
	cert, err := e.verify(s)
	if err != nil {
		return cert, fmt.Errorf("%s, period %d: %w", e.Address.Short(), e.Period, err)
	}
	return cert, nil
}

func (e *Entry) verify(s Schedule) (cert descriptor.Certificate, err error) {
	if !ed25519.Verify(e.Address[:], e.message(s), e.Signature) {
		return cert, errors.New("the signature is not by the key of this address: the entry was changed, or is for another address or period")
	}
	if cert, err = descriptor.ParseCertificate(e.Certificate); err != nil {
		return cert, err
	}
	if cert.Type() != descriptor.CertHSDescSigning {
		return cert, fmt.Errorf("a certificate of type %02X, want %02X", byte(cert.Type()), byte(descriptor.CertHSDescSigning))
	}
	blinded, err := e.Address.Blind(s.Period(e.Period))
	if err != nil {
		return cert, err
	}
	if err := cert.Verify([32]byte(blinded), s.FirstUse(e.Period)); err != nil {
		return cert, err
	}
	if last := s.LastUse(e.Period); cert.Expires().Before(last.Add(leastSpare)) {
		return cert, fmt.Errorf("the certificate ends at %s, less than %s after the descriptor's last use at %s",
			clock(cert.Expires()), leastSpare, clock(last))
	}
	return cert, nil
}

// clock writes a time for people.
func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
