package offline

import (
	"cmp"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
)

// Bundle is the result of a ceremony: entries that are each verified separately. A
// manager keeps installed entries in the same form.
type Bundle struct {
	header
	Schedule
	Entries []Entry `json:"entries"` // by address and period
}

// maxEntries bounds a bundle.
const maxEntries = MaxPeriods * MaxServices

// newBundle sorts entries into a bundle.
func newBundle(s Schedule, entries []Entry) *Bundle {
	slices.SortStableFunc(entries, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Address.Label(), b.Address.Label()), cmp.Compare(a.Period, b.Period))
	})
	return &Bundle{header: header{kindBundle, versionOf(entries)}, Schedule: s, Entries: entries}
}

func versionOf(entries []Entry) int {
	if slices.ContainsFunc(entries, Entry.hourly) {
		return versionHourly
	}
	return version
}

// ParseBundle reads a bundle, strictly. It verifies no signature: that needs
// Entry.Verify.
func ParseBundle(raw []byte) (*Bundle, error) {
	var b Bundle
	err := decode(raw, kindBundle, &b)
	if err == nil {
		err = b.validate()
	}
	if err != nil {
		return nil, fmt.Errorf("reading a bundle: %w", err)
	}
	return &b, nil
}

// Encode returns the bundle as a file has it.
func (b *Bundle) Encode() ([]byte, error) { return encode(b) }

// Of returns the entries of one address, in order of their periods.
func (b *Bundle) Of(a descriptor.Address) []Entry {
	var list []Entry
	for _, e := range b.Entries {
		if e.Address == a {
			list = append(list, e)
		}
	}
	return list
}

// Addresses returns the addresses that b has entries of.
func (b *Bundle) Addresses() []descriptor.Address {
	var list []descriptor.Address
	for _, e := range b.Entries {
		if len(list) == 0 || list[len(list)-1] != e.Address {
			list = append(list, e.Address)
		}
	}
	return list
}

func (b *Bundle) validate() error {
	if n := len(b.Entries); n < 1 || n > maxEntries {
		return fmt.Errorf("%d entries, want 1 to %d", n, maxEntries)
	}
	if want := versionOf(b.Entries); b.Version != want {
		return fmt.Errorf("version %d, and its certificates are of version %d", b.Version, want)
	}
	for i := range b.Entries {
		e := &b.Entries[i]
		if err := errors.Join(e.validate(), b.Schedule.validate(e.Period, 1)); err != nil {
			return fmt.Errorf("%s, period %d: %w", e.Address.Short(), e.Period, err)
		}
		if i == 0 {
			continue
		}
		if last := &b.Entries[i-1]; last.Address.Label() > e.Address.Label() || last.Address == e.Address && last.Period >= e.Period {
			return fmt.Errorf("%s, period %d: out of order, or there twice", e.Address.Short(), e.Period)
		}
	}
	return nil
}

// Entry is everything needed to publish under Address during one period, together
// with the signing key that Certificate is for.
type Entry struct {
	Address descriptor.Address `json:"address"`
	Period  uint64             `json:"period"`
	// Periods is how many the ceremony covered, and Made when it was, by the
	// clock of the offline machine.
	Periods int         `json:"periods"`
	Made    time.Time   `json:"made"`
	Request Fingerprint `json:"request"` // that was signed
	// Certificate is the descriptor.HourlyCertificates, of type
	// descriptor.CertHSDescSigning; from ceremonies of earlier versions, a single one.
	Certificate []byte `json:"certificate"`
	RevisionKey Secret `json:"revision_key"`
	// Signature is a plain one by the identity key, over all of the above.
	Signature []byte `json:"signature"`
	// Piece says which part of Certificate is there, if it is not all: see Pieces.
	Piece Piece `json:"piece,omitzero"`
}

// singleLength is the length in bytes of a single certificate.
const singleLength = 140

// hourly reports whether there are certificates of several hours, or a piece of them.
func (e Entry) hourly() bool { return len(e.Certificate) > singleLength || e.Piece != (Piece{}) }

// signatureContext begins messages signed by the identity key. A request for a web
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
	case len(e.Certificate) > singleLength+(descriptor.MaxHours-1)*ed25519.SignatureSize:
		return fmt.Errorf("certificates of %d bytes", len(e.Certificate))
	case e.Piece != (Piece{}) && !e.Piece.valid():
		return fmt.Errorf("part %d of %d", e.Piece.Number, e.Piece.Of)
	case len(e.RevisionKey) != 32:
		return fmt.Errorf("a revision-counter key of %d bytes, want 32", len(e.RevisionKey))
	case len(e.Signature) != ed25519.SignatureSize:
		return fmt.Errorf("a signature of %d bytes, want %d", len(e.Signature), ed25519.SignatureSize)
	}
	return checkTime(e.Made)
}

// message is the signed message: every field, each of a fixed length or with
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
// certificates are by the blinded key of the period, of the right type, and
// live for as long as the period's descriptor is published. It returns them.
func (e *Entry) Verify(s Schedule) (descriptor.HourlyCertificates, error) {
	certs, err := e.verify(s)
	if err != nil {
		return certs, fmt.Errorf("%s, period %d: %w", e.Address.Short(), e.Period, err)
	}
	return certs, nil
}

func (e *Entry) verify(s Schedule) (certs descriptor.HourlyCertificates, err error) {
	if e.Piece != (Piece{}) {
		return certs, fmt.Errorf("this is part %d of %d, which can only be checked with the others: balancer ceremony install takes all of them", e.Piece.Number, e.Piece.Of)
	}
	if !ed25519.Verify(e.Address[:], e.message(s), e.Signature) {
		return certs, errors.New("the signature is not by the key of this address: the entry was changed, or is for another address or period")
	}
	if certs, err = descriptor.ParseHourly(e.Certificate); err != nil {
		return certs, err
	}
	if kind := certs.First().Type(); kind != descriptor.CertHSDescSigning {
		return certs, fmt.Errorf("a certificate of type %02X, want %02X", byte(kind), byte(descriptor.CertHSDescSigning))
	}
	blinded, err := e.Address.Blind(s.Period(e.Period))
	if err != nil {
		return certs, err
	}
	if err := certs.Verify([32]byte(blinded), s.FirstUse(e.Period)); err != nil {
		return certs, err
	}
	if last := s.LastUse(e.Period); certs.Expires().Before(last.Add(leastSpare)) {
		return certs, fmt.Errorf("the certificate ends at %s, less than %s after the descriptor's last use at %s",
			clock(certs.Expires()), leastSpare, clock(last))
	}
	return certs, nil
}

// clock writes a time for people.
func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// Sign does the operations that need the identity keys, of which there must be one for each
// address of the request and no other: it certifies every signing key, takes
// the keys of the revision counters, signs every entry, and verifies all of it
// again before it returns anything. now is the offline machine's clock.
func (r *Request) Sign(keys []*descriptor.IdentityKey, now time.Time) (*Bundle, error) {
	if err := r.validate(); err != nil {
		return nil, fmt.Errorf("signing a request: %w", err)
	}
	byAddress, err := r.match(keys)
	if err != nil {
		return nil, fmt.Errorf("signing a request: %w", err)
	}
	name, err := r.Fingerprint()
	if err != nil {
		return nil, err
	}
	entries, err := r.entries(byAddress, name, stamp(now))
	if err != nil {
		return nil, err
	}
	b := newBundle(r.Schedule, entries)
	if err := b.validate(); err != nil {
		return nil, fmt.Errorf("checking the bundle just made: %w", err)
	}
	return b, nil
}

// entries signs all that r asks for, for several addresses at once.
func (r *Request) entries(keys map[descriptor.Address]*descriptor.IdentityKey, name Fingerprint, made time.Time) ([]Entry, error) {
	lists := make([][]Entry, len(r.Services))
	var signing errgroup.Group
	signing.SetLimit(runtime.GOMAXPROCS(0))
	for n, w := range r.Services {
		signing.Go(func() (err error) {
			for i, public := range w.Keys {
				e := Entry{Address: w.Address, Period: r.First + uint64(i), Periods: r.Periods(), Made: made, Request: name}
				locked.Do(func() { err = e.sign(r.Schedule, keys[w.Address], [32]byte(public)) })
				if err != nil {
					return fmt.Errorf("signing for %s, period %d: %w", w.Address.Short(), e.Period, err)
				}
				lists[n] = append(lists[n], e)
			}
			return nil
		})
	}
	err := signing.Wait()
	return slices.Concat(lists...), err
}

// Match reports whether keys are those of the request's addresses.
func (r *Request) Match(keys []*descriptor.IdentityKey) error {
	_, err := r.match(keys)
	return err
}

func (r *Request) match(keys []*descriptor.IdentityKey) (map[descriptor.Address]*descriptor.IdentityKey, error) {
	given := map[descriptor.Address]*descriptor.IdentityKey{}
	for _, key := range keys {
		if given[key.Address()] != nil {
			return nil, fmt.Errorf("the key of %s was given twice", key.Address().Short())
		}
		given[key.Address()] = key
	}
	var errs []error
	wanted := map[descriptor.Address]bool{}
	for _, w := range r.Services {
		wanted[w.Address] = true
		if given[w.Address] == nil {
			errs = append(errs, fmt.Errorf("no key was given for %s", w.Address))
		}
	}
	for _, key := range keys {
		if !wanted[key.Address()] {
			errs = append(errs, fmt.Errorf("a key was given for %s, which is not in the request", key.Address()))
		}
	}
	return given, errors.Join(errs...)
}

// sign fills in the certificates, the revision key and the signature of e. The
// blinded secret lives no longer than this call.
func (e *Entry) sign(s Schedule, key *descriptor.IdentityKey, signing [32]byte) error {
	blinded, err := key.Blind(s.Period(e.Period))
	if err != nil {
		return err
	}
	defer blinded.Wipe()
	certs, err := blinded.CertifyHours(signing, s.Expiries(e.Period))
	if err != nil {
		return err
	}
	e.Certificate, e.RevisionKey = certs.Bytes(), blinded.RevisionKey().Bytes()
	if e.Signature, err = key.Sign(e.message(s)); err != nil {
		return err
	}
	if _, err := e.verify(s); err != nil {
		return fmt.Errorf("checking the entry just made: %w", err)
	}
	return nil
}
