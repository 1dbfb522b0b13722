package offline

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync/atomic"

	"onionbalancer/descriptor"
	"onionbalancer/internal/openfile"
	"onionbalancer/internal/shell"
)

// Custodian hands out certificates prepared by ceremonies in a directory. It is safe for
// concurrent use.
//
// What the files have for which periods is cached and never changed, so Supply and Schedule
// answer at once. All other methods first check whether the files have changed. They return
// when ctx ends, even if the disk does not answer. Certificates, a quarter of a megabyte for
// two months, stay in the files until they are needed.
type Custodian struct {
	dir     string
	address descriptor.Address

	files  chan struct{} // holds one while files are read or changed
	recent []Entry       // the entries used last, the oldest first; whoever holds files uses it
	closed atomic.Bool
	view   atomic.Pointer[view]
}

// view is what the files of a directory had when they were read. It is immutable.
type view struct {
	keys      *keysFile // without the secrets
	stamps    [2]openfile.Stamp
	installed []installed // by period; empty before the first installation
	longest   int         // periods of the longest ceremony
	reloadErr error       // of the last attempt to read the files again
}

// installed is what is kept of an Entry.
type installed struct {
	period  uint64
	periods int  // of its ceremony
	usable  bool // its certificate is for the signing key that is here
	hourly  bool
}

func newView(c *contents) *view {
	c.forgetSeeds()
	v := &view{keys: c.keys, stamps: c.stamps}
	if c.bundle != nil {
		for _, e := range c.bundle.Entries {
			v.longest = max(v.longest, e.Periods)
			v.installed = append(v.installed, installed{e.Period, e.Periods, c.usable(e.Period) != nil, e.hourly()})
		}
	}
	return v
}

// find returns where the entry of a period is in installed, or would be.
func (v *view) find(number uint64) (at int, found bool) {
	return slices.BinarySearchFunc(v.installed, number, func(e installed, n uint64) int { return cmp.Compare(e.period, n) })
}

// Open opens a directory that Prepare made, with or without an installed bundle.
func Open(dir string) (*Custodian, error) {
	state, err := load(dir)
	if err != nil {
		return nil, err
	}
	c := &Custodian{dir: dir, address: state.keys.Address, files: make(chan struct{}, 1)}
	c.view.Store(newView(state))
	return c, nil
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

// Schedule returns the timing of the network that the keys are for. It reads no
// file.
func (c *Custodian) Schedule() Schedule { return c.view.Load().keys.Schedule }

// withFiles calls f in the background with the current content of the files, while no
// other call uses them. When ctx ends first, f's result is dropped.
func withFiles[T any](ctx context.Context, c *Custodian, f func(*view) (T, error)) (result T, err error) {
	if err := ctx.Err(); err != nil {
		return result, err
	}
	select {
	case c.files <- struct{}{}:
	case <-ctx.Done():
		return result, fmt.Errorf("waiting for the files in %s: %w", c.dir, context.Cause(ctx))
	}
	type outcome struct {
		result T
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		defer func() { <-c.files }()
		var out outcome
		v, err := c.reload()
		if out.err = err; err == nil {
			out.result, out.err = f(v)
		}
		done <- out
	}()
	select {
	case out := <-done:
		return out.result, out.err
	case <-ctx.Done():
		return result, fmt.Errorf("reading the files in %s: %w", c.dir, context.Cause(ctx))
	}
}

// reload reads the files again if they changed. If that fails, the cached content
// stays in use. The caller holds c.files.
func (c *Custodian) reload() (*view, error) {
	if c.closed.Load() {
		return nil, errors.New("the custodian is closed")
	}
	v := c.view.Load()
	if stamps(c.dir) == v.stamps {
		if v.reloadErr == nil {
			return v, nil
		}
		unchanged := *v
		unchanged.reloadErr = nil
		c.view.Store(&unchanged)
		return &unchanged, nil
	}
	state, err := load(c.dir)
	if err == nil && state.keys.Address != c.address {
		state.keys.wipe()
		err = fmt.Errorf("%s was the directory of %s and is now that of %s", c.dir, c.address.Short(), state.keys.Address.Short())
	}
	if err != nil {
		stale := *v
		stale.reloadErr = err
		c.view.Store(&stale)
		return &stale, nil
	}
	v = newView(state)
	c.view.Store(v)
	c.recent = nil
	return v, nil
}

// Refresh reads the files again if they changed, so that Supply knows certificates that a
// ceremony has installed since. The error says why they could not be read; what
// was read before stays in use.
func (c *Custodian) Refresh(ctx context.Context) error {
	_, err := withFiles(ctx, c, func(v *view) (struct{}, error) { return struct{}{}, v.reloadErr })
	if err != nil {
		return fmt.Errorf("refreshing the certificates prepared offline: %w", err)
	}
	return nil
}

// Certify returns the certificates that a ceremony made for signing in period p.
// They expire as the ceremony set it, whatever was requested. If there are
// none, the error says what to do.
func (c *Custodian) Certify(ctx context.Context, p descriptor.Period, signing ed25519.PublicKey, _ descriptor.Expiries) (descriptor.HourlyCertificates, error) {
	certs, err := withFiles(ctx, c, func(v *view) (certs descriptor.HourlyCertificates, err error) {
		e, err := c.entry(v, p)
		if err != nil {
			return certs, err
		}
		certs, err = e.Verify(v.keys.Schedule)
		if err == nil && (len(signing) != ed25519.PublicKeySize || certs.First().Key() != [32]byte(signing)) {
			err = fmt.Errorf("the certificate prepared offline is for signing key %s, and the one in use now is %s: "+
				"were the keys in %s, or those on the token, replaced since? %s", KeyFingerprint(certKey(certs)), KeyFingerprint(signing), c.dir, c.advice())
		}
		return certs, err
	})
	if err != nil {
		return descriptor.HourlyCertificates{}, fmt.Errorf("certifying for period %s: %w", p, err)
	}
	return certs, nil
}

func certKey(certs descriptor.HourlyCertificates) []byte {
	key := certs.First().Key()
	return key[:]
}

// RevisionKey returns the key of the revision counters of period p.
func (c *Custodian) RevisionKey(ctx context.Context, p descriptor.Period) (descriptor.RevisionKey, error) {
	key, err := withFiles(ctx, c, func(v *view) (key descriptor.RevisionKey, err error) {
		e, err := c.entry(v, p)
		if err != nil {
			return key, err
		}
		return descriptor.NewRevisionKey(e.RevisionKey)
	})
	if err != nil {
		return descriptor.RevisionKey{}, fmt.Errorf("looking for the revision-counter key of period %s: %w", p, err)
	}
	return key, nil
}

// entry returns the installed entry for p, or the reason why there is none. A period has
// several questions asked about it: the entries used last are remembered.
func (c *Custodian) entry(v *view, p descriptor.Period) (*Entry, error) {
	at, found := v.find(p.Number)
	if !found || p.Length != v.keys.Schedule.Length() {
		return nil, c.missing(v, p)
	}
	for i := range c.recent {
		if c.recent[i].Period == p.Number {
			return &c.recent[i], nil
		}
	}
	e, err := readEntry(filepath.Join(c.dir, BundleFile), at)
	if err == nil && (e.Address != c.address || e.Period != p.Number) {
		err = fmt.Errorf("%s was just replaced in %s", BundleFile, c.dir)
	}
	if err != nil {
		return nil, err
	}
	c.recent = append(c.recent[max(len(c.recent)-maxRecent+1, 0):], e)
	return &c.recent[len(c.recent)-1], nil
}

// maxRecent is of how many periods entries are remembered: two are in use at any time.
const maxRecent = 2

// SigningKey returns the signing key made for p, if it is on the disk.
func (c *Custodian) SigningKey(ctx context.Context, p descriptor.Period) (crypto.Signer, error) {
	key, err := withFiles(ctx, c, func(v *view) (ed25519.PrivateKey, error) {
		known := v.keys.of(p.Number)
		if known == nil || p.Length != v.keys.Length() {
			return nil, c.missing(v, p)
		}
		if known.Seed == nil {
			return nil, errors.New("it is on a token: name that in the configuration (signing = \"pkcs11:…\")")
		}
		now, err := loadKeys(c.dir)
		if err != nil {
			return nil, err
		}
		defer now.wipe()
		key := now.of(p.Number)
		if key == nil || key.Seed == nil {
			return nil, fmt.Errorf("it was just removed from %s", c.dir)
		}
		return key.Seed.signer(), nil
	})
	if err != nil {
		return nil, fmt.Errorf("looking for the signing key of period %s: %w", p, err)
	}
	return key, nil
}

// Close ends the use of the custodian.
func (c *Custodian) Close() error {
	c.closed.Store(true)
	return nil
}

// String names the custodian by its address, shortened.
func (c *Custodian) String() string { return "offline key of " + c.address.Short() }

// Format writes String for all verbs.
func (c *Custodian) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(c.String())) }

// LogValue logs String.
func (c *Custodian) LogValue() slog.Value { return slog.StringValue(c.String()) }

// Supply returns the last period of the uninterrupted run of certified periods
// that from is in, and how many periods the longest ceremony covered that any of
// them is from: a short one, to fill a gap or for practice, must not put off the
// warnings about the end of a long one. ok is false if from itself is not
// certified; horizon is then of all entries. It answers from the cache,
// and never waits: Refresh reads the files again.
func (c *Custodian) Supply(from descriptor.Period) (last descriptor.Period, horizon int, ok bool) {
	v := c.view.Load()
	if c.closed.Load() {
		return descriptor.Period{}, 0, false
	}
	at, found := v.find(from.Number)
	if !found || !v.installed[at].usable || from.Length != v.keys.Length() {
		return descriptor.Period{}, v.longest, false
	}
	through := from.Number
	for _, e := range v.installed[at:] {
		if !e.usable {
			continue
		}
		if e.period > through+1 {
			break
		}
		through, horizon = e.period, max(horizon, e.periods)
	}
	return v.keys.Period(through), horizon, true
}

// Singles returns for how many certified periods, from number from on, there is one
// certificate for all hours: an earlier version signed it. It reads no file.
func (c *Custodian) Singles(from uint64) (n int) {
	for _, e := range c.view.Load().installed {
		if e.usable && e.period >= from && !e.hourly {
			n++
		}
	}
	return n
}

// Retire removes the signing keys and certificates of periods before all of
// those in use, never later ones. Old contents are overwritten, where the disk
// allows that.
func (c *Custodian) Retire(ctx context.Context, inUse []descriptor.Period) error {
	_, err := withFiles(ctx, c, func(v *view) (none struct{}, err error) {
		if len(inUse) == 0 || slices.ContainsFunc(inUse, func(p descriptor.Period) bool { return p.Length != v.keys.Length() }) {
			return none, nil
		}
		first := inUse[0].Number
		for _, p := range inUse {
			first = min(first, p.Number)
		}
		if !v.holdsBefore(first) {
			return none, nil
		}
		if err := retire(c.dir, first); err != nil {
			return none, fmt.Errorf("removing the signing keys of periods before %d from %s: %w", first, c.dir, err)
		}
		_, err = c.reload()
		return none, err
	})
	return err
}

// missing says why there is no entry for p, and how to fix it.
func (c *Custodian) missing(v *view, p descriptor.Period) error {
	s, have := v.keys.Schedule, v.installed
	var why error
	switch {
	case p.Length != s.Length():
		why = fmt.Errorf("the network's periods last %s, and the keys in %s were made for %s: use a new directory", p.Length, c.dir, s)
	case len(have) == 0:
		why = fmt.Errorf("no certificates are installed in %s yet: have a request signed offline (balancer ceremony sign), and install the bundle (balancer ceremony install)", c.dir)
	default:
		first, last := have[0].period, have[len(have)-1].period
		switch {
		case p.Number > last:
			why = fmt.Errorf("%w %d, at %s: %s", ErrEnded, last, clock(s.End(last)), c.advice())
		case p.Number < first:
			why = fmt.Errorf("the certificates prepared offline begin with period %d, at %s: is the clock right? If so, %s", first, clock(s.Start(first)), c.advice())
		default:
			why = fmt.Errorf("the certificates prepared offline, for periods %d to %d, leave this one out: %s", first, last, c.advice())
		}
	}
	return missingError{errors.Join(why, v.reloadErr)}
}

// missingError is the error about a period without a certificate.
type missingError struct{ error }

func (m missingError) Unwrap() error { return m.error }

// Temporary reports that a retry may succeed without a restart: the missing
// certificates may be installed at any moment.
func (missingError) Temporary() bool { return true }

// ErrEnded is wrapped by errors about a period after the last one prepared.
var ErrEnded = errors.New("the certificates prepared offline ended with period")

func (c *Custodian) advice() string {
	return fmt.Sprintf("run a ceremony, which begins with: balancer ceremony request --dir %s", shell.Quote(c.dir))
}

// holdsBefore is whether contents.before counts any.
func (v *view) holdsBefore(first uint64) bool {
	n := len(v.installed)
	return len(v.keys.Keys) > 0 && v.keys.Keys[0].Period < first || n > 0 && v.installed[0].period < first && v.installed[n-1].period >= first
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

// retire removes keys and entries of periods before first from dir.
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
