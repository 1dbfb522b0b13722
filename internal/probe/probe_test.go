package probe

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/state"
	"onionbalancer/internal/state/statetest"
)

var _ credential.Custodian = (*Key)(nil)

var testPeriod = descriptor.Period{Number: 20777, Length: 24 * time.Hour}

func TestOpen(t *testing.T) {
	dir, instance, other := t.TempDir(), descriptor.Address{1}, descriptor.Address{2}
	db := statetest.Open(t, dir)
	if a, err := Find(db, instance); err != nil || a != (descriptor.Address{}) {
		t.Errorf("before there is one: %v, %v", a, err)
	}
	first, err := Open(db, instance)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Address().Validate(); err != nil {
		t.Error(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = statetest.Open(t, dir)
	defer db.Close()
	again, err := Open(db, instance)
	if err != nil || again.Address() != first.Address() || !again.Client().Equal(first.Client()) {
		t.Errorf("after a restart: %v, another key", err)
	}
	if a, err := Find(db, instance); err != nil || a != first.Address() {
		t.Errorf("found %v, %v", a, err)
	}
	if k, err := Open(db, other); err != nil || k.Address() == first.Address() || k.Client().Equal(first.Client()) {
		t.Errorf("another instance: %v, or the same key", err)
	}
}

func TestCertify(t *testing.T) {
	db := statetest.Open(t, t.TempDir())
	defer db.Close()
	k, err := Open(db, descriptor.Address{1})
	if err != nil {
		t.Fatal(err)
	}
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)
	certs, err := k.Certify(t.Context(), testPeriod, public, descriptor.SigningCertExpiries(now, now.Add(time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	blinded, err := k.Address().Blind(testPeriod)
	if err != nil {
		t.Fatal(err)
	}
	if err := certs.Verify([32]byte(blinded), now); err != nil || certs.Count() != 2 || certs.First().Key() != [32]byte(public) {
		t.Errorf("the certificate: %v", err)
	}
	one, err := k.RevisionKey(t.Context(), testPeriod)
	if err != nil {
		t.Fatal(err)
	}
	if two, err := k.RevisionKey(t.Context(), testPeriod); err != nil || string(one.Bytes()) != string(two.Bytes()) {
		t.Errorf("two keys of the revision counters of one period: %v", err)
	}
	record, version, err := db.Probe(descriptor.Address{1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.SwapProbe(descriptor.Address{1}, version, state.Probe{Seed: state.Secret{9}, Client: record.Client}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.RevisionKey(t.Context(), testPeriod); err == nil || !strings.Contains(err.Error(), "another one now") {
		t.Errorf("with another key in the store: %v", err)
	}
}

// broken is a store that cannot be used.
type broken struct{ error }

func (b broken) Probe(descriptor.Address) (state.Probe, uint64, error) {
	return state.Probe{}, 0, b.error
}
func (b broken) SwapProbe(descriptor.Address, uint64, state.Probe) (uint64, error) {
	return 0, b.error
}

// A key that could not be stored is not used: the operator would add a line that is good
// until the next restart.
func TestNoKeyWithoutStore(t *testing.T) {
	full := errors.New("disk full")
	if k, err := Open(broken{full}, descriptor.Address{1}); k != nil || !errors.Is(err, full) {
		t.Errorf("%v, %v", k, err)
	}
	// It is read, and cannot be written.
	if k, err := Open(forgetful{}, descriptor.Address{1}); k != nil || !errors.Is(err, errGone) {
		t.Errorf("%v, %v", k, err)
	}
}

// forgetful is a store that loses what it is told.
type forgetful struct{}

func (forgetful) Probe(descriptor.Address) (p state.Probe, version uint64, err error) { return }
func (forgetful) SwapProbe(descriptor.Address, uint64, state.Probe) (v uint64, err error) {
	return 1, nil
}

func TestSecretsAreNotPrinted(t *testing.T) {
	record := state.Probe{Seed: state.Secret{0xde, 0xad}, Client: state.Secret{0xbe, 0xef}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%x", "%s", "%d"} {
		text := fmt.Sprintf(verb, record) + fmt.Sprintf(verb, &record)
		for _, secret := range []string{"222", "0xde", "dead", "190", "beef"} {
			if strings.Contains(strings.ToLower(text), secret) {
				t.Errorf("%s prints %s", verb, text)
			}
		}
	}
	record.Erase()
	if record != (state.Probe{}) {
		t.Error("not erased")
	}
}
