package sim

import (
	"crypto/ed25519"
	"crypto/rand"
	"testing"
	"time"

	"onionbalancer/descriptor"
)

// service is a public address whose descriptors the tests publish by hand.
type service struct {
	t   *testing.T
	net *Network
	key *descriptor.IdentityKey
}

func newService(t *testing.T, n *Network) *service {
	t.Helper()
	seed := n.cfg.derive("public service")
	key, err := descriptor.IdentityKeyFromSeed(seed[:])
	if err != nil {
		t.Fatal(err)
	}
	return &service{t, n, key}
}

// keys are the service's keys for a period.
func (s *service) keys(p descriptor.Period) descriptor.PeriodKeys {
	s.t.Helper()
	keys, err := s.key.Address().Keys(p)
	if err != nil {
		s.t.Fatal(err)
	}
	return keys
}

// encode makes a descriptor of the service for a period.
func (s *service) encode(p descriptor.Period, revision uint64, points ...descriptor.IntroductionPoint) []byte {
	s.t.Helper()
	blinded, err := s.key.Blind(p)
	if err != nil {
		s.t.Fatal(err)
	}
	seed := s.net.cfg.derive("public service signer")
	signer := ed25519.NewKeyFromSeed(seed[:])
	cert, err := certify(blinded, signer, time.Now())
	if err != nil {
		s.t.Fatal(err)
	}
	encoder, err := descriptor.NewEncoder(s.keys(p), cert, signer)
	if err != nil {
		s.t.Fatal(err)
	}
	body, err := encoder.Encode(&descriptor.Contents{IntroductionPoints: points}, revision, rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	return body
}

// decode reads an instance's descriptor of the current period from one of its
// HSDirs.
func decode(t *testing.T, n *Network, i *Instance, key *descriptor.ClientKey) *descriptor.Descriptor {
	t.Helper()
	d, err := tryDecode(n, i, key)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func tryDecode(n *Network, i *Instance, key *descriptor.ClientKey) (*descriptor.Descriptor, error) {
	ring := n.Consensus().current()
	keys, err := i.Address().Keys(ring.key.period)
	if err != nil {
		return nil, err
	}
	for _, r := range ring.fetch(&n.cfg, keys.Blinded) {
		if body, _ := r.Stored(keys.Blinded); body != nil {
			return n.decoder.Decode(body, keys, key, time.Now())
		}
	}
	return nil, ErrNoDescriptor
}
