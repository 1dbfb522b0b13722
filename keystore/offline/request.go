package offline

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"time"

	"onionbalancer/descriptor"
)

// The bounds of a request.
const (
	MaxPeriods  = 1000
	MaxServices = 1000
)

// Request is what a manager wants signed: for each service the public halves of
// its descriptor-signing keys, for periods without a gap. It holds no secret.
type Request struct {
	header
	Made time.Time `json:"made"` // by the manager's clock, whole seconds
	Schedule
	First    uint64   `json:"first_period"`
	Services []Wanted `json:"services"`
}

// Wanted is what a request wants for one address.
type Wanted struct {
	Address descriptor.Address `json:"address"`
	// CertifiedThrough is the last period for which the manager has a
	// certificate; 0 if it has none.
	CertifiedThrough uint64 `json:"certified_through,omitempty"`
	// Keys are the signing keys of the periods from the request's First on.
	Keys []ed25519.PublicKey `json:"signing_keys"`
}

// NewRequest puts a request together and checks it.
func NewRequest(now time.Time, s Schedule, first uint64, services []Wanted) (*Request, error) {
	services = slices.Clone(services)
	sortServices(services)
	r := &Request{header: header{kindRequest, version}, Made: stamp(now), Schedule: s, First: first, Services: services}
	if err := r.validate(); err != nil {
		return nil, fmt.Errorf("making a request: %w", err)
	}
	return r, nil
}

// ParseRequest reads a request, strictly.
func ParseRequest(raw []byte) (*Request, error) {
	var r Request
	err := decode(raw, kindRequest, &r)
	if err == nil {
		err = r.validate()
	}
	if err != nil {
		return nil, fmt.Errorf("reading a request: %w", err)
	}
	return &r, nil
}

// Encode returns the request as a file has it.
func (r *Request) Encode() ([]byte, error) { return encode(r) }

// Fingerprint stands for the content of r, however it is laid out in a file.
func (r *Request) Fingerprint() (Fingerprint, error) {
	raw, err := compact(r)
	if err != nil {
		return "", fmt.Errorf("computing the fingerprint of a request: %w", err)
	}
	return fingerprint(fingerprintGroups, raw), nil
}

// Periods returns how many periods r covers.
func (r *Request) Periods() int { return len(r.Services[0].Keys) }

// Last returns the number of the last period.
func (r *Request) Last() uint64 { return r.First + uint64(r.Periods()) - 1 }

func (r *Request) validate() error {
	if n := len(r.Services); n < 1 || n > MaxServices {
		return fmt.Errorf("%d addresses, want 1 to %d", n, MaxServices)
	}
	if n := r.Periods(); n < 1 || n > MaxPeriods {
		return fmt.Errorf("%d periods, want 1 to %d", n, MaxPeriods)
	}
	if err := errors.Join(checkTime(r.Made), r.Schedule.validate(r.First, r.Periods())); err != nil {
		return err
	}
	addresses := map[descriptor.Address]bool{}
	keys := map[[ed25519.PublicKeySize]byte]bool{}
	for i, w := range r.Services {
		if addresses[w.Address] {
			return fmt.Errorf("%s is in it twice", w.Address.Short())
		}
		if i > 0 && w.Address.Label() < r.Services[i-1].Address.Label() {
			return fmt.Errorf("%s is out of order", w.Address.Short())
		}
		if err := r.Schedule.validate(w.CertifiedThrough, 0); err != nil {
			return fmt.Errorf("%s: the certificates that it has: %w", w.Address.Short(), err)
		}
		addresses[w.Address] = true
		if err := w.validate(r.Periods(), keys); err != nil {
			return fmt.Errorf("%s: %w", w.Address.Short(), err)
		}
	}
	return nil
}

// validate checks w, and that none of its keys is in seen, to which it adds
// them: a key that signs for two periods or addresses would tell whoever sees
// both descriptors that they belong together.
func (w *Wanted) validate(periods int, seen map[[ed25519.PublicKeySize]byte]bool) error {
	if len(w.Keys) != periods {
		return fmt.Errorf("%d signing keys, want one for each of %d periods", len(w.Keys), periods)
	}
	for i, key := range w.Keys {
		if len(key) != ed25519.PublicKeySize {
			return fmt.Errorf("signing key %d has %d bytes, want %d", i+1, len(key), ed25519.PublicKeySize)
		}
		if seen[[ed25519.PublicKeySize]byte(key)] {
			return fmt.Errorf("signing key %d is in the request twice, which would tell that two descriptors belong together", i+1)
		}
		seen[[ed25519.PublicKeySize]byte(key)] = true
	}
	return nil
}
