package offline

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/shell"
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

// Supply returns the last period of the uninterrupted run of certified periods
// that from is in, and how many periods the longest ceremony covered that any of
// them is from: a short one, to fill a gap or for practice, must not put off the
// warnings about the end of a long one. ok is false if from itself is not
// certified; horizon is then of all that is there.
func (c *Custodian) Supply(from descriptor.Period) (last descriptor.Period, horizon int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refreshLocked() != nil || c.state.bundle == nil {
		return descriptor.Period{}, 0, false
	}
	if from.Length != c.state.keys.Length() || c.state.usable(from.Number) == nil {
		return descriptor.Period{}, c.state.horizon(0, math.MaxUint64), false
	}
	through := c.state.through(from.Number)
	return c.state.keys.Period(through), c.state.horizon(from.Number, through), true
}

// horizon returns how many periods the longest ceremony covered that the entries
// of periods from first to last are from.
func (c *contents) horizon(first, last uint64) (periods int) {
	for _, e := range c.bundle.Entries {
		if first <= e.Period && e.Period <= last {
			periods = max(periods, e.Periods)
		}
	}
	return periods
}

// Retire removes the signing keys and certificates of periods before all of
// those in use, never later ones. What the disk lets one overwrite is
// overwritten.
func (c *Custodian) Retire(ctx context.Context, inUse []descriptor.Period) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.refreshLocked(); err != nil {
		return err
	}
	if len(inUse) == 0 || slices.ContainsFunc(inUse, func(p descriptor.Period) bool { return p.Length != c.state.keys.Length() }) {
		return nil
	}
	first := inUse[0].Number
	for _, p := range inUse {
		first = min(first, p.Number)
	}
	if keys, entries := c.state.before(first); keys+entries == 0 {
		return nil
	}
	if err := retire(c.dir, first); err != nil {
		return fmt.Errorf("removing the signing keys of periods before %d from %s: %w", first, c.dir, err)
	}
	return c.refreshLocked()
}

// missingLocked says why there is nothing for p, and what to do.
func (c *Custodian) missingLocked(p descriptor.Period) error {
	s, b := c.state.keys.Schedule, c.state.bundle
	var why error
	switch {
	case p.Length != s.Length():
		why = fmt.Errorf("the network's periods last %s, and the keys in %s were made for %s: use a new directory", p.Length, c.dir, s)
	case b == nil:
		why = fmt.Errorf("no certificates are installed in %s yet: have a request signed offline (balancer ceremony sign), and install the bundle (balancer ceremony install)", c.dir)
	default:
		first, last := b.Entries[0].Period, b.Entries[len(b.Entries)-1].Period
		switch {
		case p.Number > last:
			why = fmt.Errorf("%w %d, at %s: %s", ErrEnded, last, clock(s.End(last)), c.advice())
		case p.Number < first:
			why = fmt.Errorf("the certificates prepared offline begin with period %d, at %s: is the clock right? If so, %s", first, clock(s.Start(first)), c.advice())
		default:
			why = fmt.Errorf("the certificates prepared offline, for periods %d to %d, leave this one out: %s", first, last, c.advice())
		}
	}
	return missing{errors.Join(why, c.trouble)}
}

// missing is the error about a period that nothing is prepared for.
type missing struct{ error }

func (m missing) Unwrap() error { return m.error }

// Temporary reports that the next try may succeed though nobody touches the
// daemon: what is missing may be installed at any moment.
func (missing) Temporary() bool { return true }

// ErrEnded is wrapped by errors about a period after the last one prepared.
var ErrEnded = errors.New("the certificates prepared offline ended with period")

func (c *Custodian) advice() string {
	return fmt.Sprintf("run a ceremony, which begins with: balancer ceremony request --dir %s", shell.Quote(c.dir))
}

// before counts the keys and entries of periods before first. If all entries
// are, they do not count: they stay, to tell until when there were any.
func (c *contents) before(first uint64) (keys, entries int) {
	for _, k := range c.keys.Keys {
		if k.Period < first {
			keys++
		}
	}
	if c.bundle == nil {
		return keys, 0
	}
	for _, e := range c.bundle.Entries {
		if e.Period < first {
			entries++
		}
	}
	return keys, entries % len(c.bundle.Entries)
}

// retire removes from dir what is of periods before first.
func retire(dir string, first uint64) error {
	unlock, err := lock(dir, 0)
	if err != nil {
		return err
	}
	defer unlock()
	c, err := load(dir)
	if err != nil {
		return err
	}
	defer c.keys.wipe()
	keys, entries := c.before(first)
	if keys > 0 {
		err = retireKeys(dir, *c.keys, first)
	}
	if entries > 0 {
		err = errors.Join(err, writeBundle(dir, newBundle(c.bundle.Schedule, c.bundle.Entries[entries:])))
	}
	return err
}

func retireKeys(dir string, kept keysFile, first uint64) error {
	kept.Keys = slices.DeleteFunc(slices.Clone(kept.Keys), func(k keyPair) bool { return k.Period < first })
	r, err := stageKeys(dir, &kept)
	if err != nil {
		return err
	}
	return r.wipingCommit()
}

func stageBundle(dir string, b *Bundle) (*replacement, error) {
	raw, err := b.Encode()
	if err != nil {
		return nil, err
	}
	return stage(filepath.Join(dir, BundleFile), raw)
}

func writeBundle(dir string, b *Bundle) error {
	r, err := stageBundle(dir, b)
	if err != nil {
		return err
	}
	return r.commit()
}
