package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"onionbalancer/bench/points"
	"onionbalancer/descriptor"
	"onionbalancer/testnet/sim"
)

// relays is how many HSDirs the public network has, rounded up.
const relays = 8000

// fixture is what OnionBalance's classes are timed with. Our benchmarks make
// the like of it themselves.
type fixture struct {
	Address    string `json:"address"`    // of an instance, with .onion
	Descriptor []byte `json:"descriptor"` // of the instance, with as many introduction points as there may be
	Seed       []byte `json:"seed"`       // of a service's identity key
	RunAge     int    `json:"run_age"`    // of the shared-random run, in seconds
	Consensus  string `json:"consensus"`  // a file
	Microdescs string `json:"microdescs"` // a file
}

// makeFixture writes files to dir.
func makeFixture(dir string) (*fixture, error) {
	seed := make([]byte, ed25519.SeedSize)
	if _, err := rand.Read(seed); err != nil {
		return nil, err
	}
	f := &fixture{
		Seed: seed, RunAge: int(36 * time.Hour / time.Second),
		Consensus: filepath.Join(dir, "consensus"), Microdescs: filepath.Join(dir, "microdescs"),
	}
	var err error
	if f.Address, f.Descriptor, err = makeInstance(); err != nil {
		return nil, fmt.Errorf("making an instance's descriptor: %w", err)
	}
	network := sim.New(sim.Config{Relays: relays})
	defer network.Close()
	consensus := network.Consensus()
	if err := os.WriteFile(f.Consensus, consensus.Text(), 0o600); err != nil {
		return nil, err
	}
	return f, os.WriteFile(f.Microdescs, consensus.Microdescs(), 0o600)
}

// makeInstance makes an instance's address and a descriptor of it.
func makeInstance() (address string, raw []byte, err error) {
	now := time.Now()
	identity, err := descriptor.IdentityKeyFromSeed(points.RandomBytes(ed25519.SeedSize))
	if err != nil {
		return "", nil, err
	}
	keys, err := identity.Address().Keys(descriptor.PeriodAt(now, 24*time.Hour, 12*time.Hour))
	if err != nil {
		return "", nil, err
	}
	blinded, err := identity.Blind(keys.Period)
	if err != nil {
		return "", nil, err
	}
	public, signing, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", nil, err
	}
	cert, err := descriptor.NewCertificate(descriptor.CertHSDescSigning, [32]byte(public), keys.Blinded,
		descriptor.SigningCertExpiry(now), func(m []byte) ([]byte, error) { return blinded.Sign(m), nil })
	if err != nil {
		return "", nil, err
	}
	encoder, err := descriptor.NewEncoder(keys, cert, signing)
	if err != nil {
		return "", nil, err
	}
	contents, err := points.Contents(now)
	if err != nil {
		return "", nil, err
	}
	raw, err = encoder.Encode(contents, 1, rand.Reader)
	return identity.Address().String(), raw, err
}
