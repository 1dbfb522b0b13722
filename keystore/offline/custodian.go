package offline

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"onionbalancer/descriptor"
)

// Custodian hands out what ceremonies prepared in a directory. It notices at
// the next call when the files have changed. It is safe for concurrent use.
type Custodian struct {
	dir     string
	address descriptor.Address

	mu      sync.Mutex
	closed  bool
	state   *contents // without the secret keys
	trouble error     // of the last attempt to read the files again
}

// Open opens a directory that Prepare made, with or without an installed bundle.
func Open(dir string) (*Custodian, error) {
	state, err := load(dir)
	if err != nil {
		return nil, err
	}
	state.forgetSeeds()
	return &Custodian{dir: dir, address: state.keys.Address, state: state}, nil
}

// forgetSeeds drops the secret keys and keeps in mind whether there were any.
func (c *contents) forgetSeeds() {
	c.keys.wipe()
	for i := range c.keys.Keys {
		if k := &c.keys.Keys[i]; k.Seed != nil {
			k.Seed = &seed{}
		}
	}
}

// Address returns the service's onion address.
func (c *Custodian) Address() descriptor.Address { return c.address }

// Dir returns the directory.
func (c *Custodian) Dir() string { return c.dir }

// Schedule returns the timing of the network that the keys are for.
func (c *Custodian) Schedule() Schedule {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.keys.Schedule
}

// refreshLocked reads the files again if they changed. When that fails, what
// was read before stays in use.
func (c *Custodian) refreshLocked() error {
	if c.closed {
		return errors.New("the custodian is closed")
	}
	if stamps(c.dir) == c.state.stamps {
		c.trouble = nil
		return nil
	}
	state, err := load(c.dir)
	if err == nil && state.keys.Address != c.address {
		state.keys.wipe()
		err = fmt.Errorf("%s was the directory of %s and is now that of %s", c.dir, c.address.Short(), state.keys.Address.Short())
	}
	if c.trouble = err; err == nil {
		state.forgetSeeds()
		c.state = state
	}
	return nil
}

// Certify returns the certificate that a ceremony made for signing in period p.
// It lives as long as the ceremony gave it, whatever the wish. When there is
// none, the error says what to do.
func (c *Custodian) Certify(ctx context.Context, p descriptor.Period, signing ed25519.PublicKey, _ time.Time) (descriptor.Certificate, error) {
	e, s, err := c.entry(ctx, p)
	if err != nil {
		return descriptor.Certificate{}, fmt.Errorf("certifying for period %s: %w", p, err)
	}
	cert, err := e.Verify(s)
	if err == nil && (len(signing) != ed25519.PublicKeySize || cert.Key() != [32]byte(signing)) {
		err = fmt.Errorf("the certificate prepared offline is for signing key %s, and that of now is %s: "+
			"were the keys in %s, or those on the token, made anew since? %s", KeyFingerprint(certKey(cert)), KeyFingerprint(signing), c.dir, c.advice())
	}
	if err != nil {
		return descriptor.Certificate{}, fmt.Errorf("certifying for period %s: %w", p, err)
	}
	return cert, nil
}

func certKey(cert descriptor.Certificate) []byte {
	key := cert.Key()
	return key[:]
}

// RevisionKey returns the key of the revision counters of period p.
func (c *Custodian) RevisionKey(ctx context.Context, p descriptor.Period) (descriptor.RevisionKey, error) {
	e, _, err := c.entry(ctx, p)
	if err != nil {
		return descriptor.RevisionKey{}, fmt.Errorf("looking for the revision-counter key of period %s: %w", p, err)
	}
	return descriptor.NewRevisionKey(e.RevisionKey)
}

// entry returns what is installed for p, or why nothing is.
func (c *Custodian) entry(ctx context.Context, p descriptor.Period) (*Entry, Schedule, error) {
	if err := ctx.Err(); err != nil {
		return nil, Schedule{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.refreshLocked(); err != nil {
		return nil, Schedule{}, err
	}
	s := c.state.keys.Schedule
	if p.Length == s.Length() {
		if e := c.state.entry(p.Number); e != nil {
			return e, s, nil
		}
	}
	return nil, s, c.missingLocked(p)
}

// SigningKey returns the signing key made for p, if it is on the disk.
func (c *Custodian) SigningKey(ctx context.Context, p descriptor.Period) (crypto.Signer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.refreshLocked(); err != nil {
		return nil, fmt.Errorf("looking for the signing key of period %s: %w", p, err)
	}
	known := c.state.keys.of(p.Number)
	if known == nil || p.Length != c.state.keys.Length() {
		return nil, fmt.Errorf("looking for the signing key of period %s: %w", p, c.missingLocked(p))
	}
	if known.Seed == nil {
		return nil, fmt.Errorf("the signing key of period %s is on a token: name that in the configuration (signing = \"pkcs11:…\")", p)
	}
	now, err := load(c.dir)
	if err != nil {
		return nil, err
	}
	defer now.keys.wipe()
	key := now.keys.of(p.Number)
	if key == nil || key.Seed == nil {
		return nil, fmt.Errorf("the signing key of period %s has just gone from %s", p, c.dir)
	}
	return key.Seed.signer(), nil
}

// Close ends the use of the custodian.
func (c *Custodian) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return nil
}

// String names the custodian by its address, shortened.
func (c *Custodian) String() string { return "offline key of " + c.address.Short() }

// Format writes String whatever the verb.
func (c *Custodian) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(c.String())) }

// LogValue logs String.
func (c *Custodian) LogValue() slog.Value { return slog.StringValue(c.String()) }
