package credential

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/backoff"
	"onionbalancer/internal/event"
)

// ExpiryMargin is how long before the end of its certificate a credential is
// replaced; longer than a descriptor's lifetime of three hours at the HSDirs.
const ExpiryMargin = 4 * time.Hour

// The delay after a failure to certify, and its maximum. An absent token may
// be put back at any moment; anything else, a wrong PIN above all, takes a human
// to fix it.
const (
	retryCertify     = 2 * time.Second
	retryCertifyMax  = 5 * time.Minute
	retryCertifyGone = 30 * time.Second
)

// slowAnswer is how long a custodian may take before the status says so.
const slowAnswer = 15 * time.Second

// brokenAfter is how often in a row a signing key may fail, other than because its
// token is absent, before another key is requested.
const brokenAfter = 3

// Env is what a Keeper works with.
type Env struct {
	Service descriptor.Address
	Record  event.Recorder
	// Gates are those of all services, or nil.
	Gates *Gates
	// Post schedules a function to be called soon, one at a time, and not while another
	// method of the Keeper is called. It never blocks.
	Post func(func(now time.Time))
}

// Keeper has the credentials of one service. Its methods, and what it posts, are
// called by one goroutine at a time.
type Keeper struct {
	env                 Env
	current             *custody
	former              []*custody // before it, which some credential still needs
	background, closing sync.WaitGroup

	credentials map[descriptor.Period]*Credential
	signers     map[[32]byte]bool // signing keys that were ever ours, in this run

	asked    time.Time // when the certifying in flight began, else zero
	failures map[descriptor.Period]*failure
	broken   map[*Credential]int // how often its key failed in a row
	unsigned map[descriptor.Period]error
	retired  [2]descriptor.Period // in use when keys were last retired
	retiring bool

	supply supply
	said   map[string]saying // warnings about the keys that were logged
}

// failure is why certifying for a period failed.
type failure struct {
	err     error
	tries   int
	retryAt time.Time
}

// New returns a Keeper of keys, which become its own.
func New(keys Keys, env Env) *Keeper {
	return &Keeper{
		env: env, current: newCustody(keys), credentials: map[descriptor.Period]*Credential{},
		signers: map[[32]byte]bool{}, failures: map[descriptor.Period]*failure{},
		broken: map[*Credential]int{}, unsigned: map[descriptor.Period]error{}, said: map[string]saying{},
	}
}

// Replace uses other keys from now on. The old ones are kept as long as
// credentials still use them: with another reference, until the new ones have
// certified; with the same, until their certificates have to be renewed.
func (k *Keeper) Replace(keys Keys) {
	if k.current.keys.same(keys) {
		clear(k.failures) // the operator may have fixed it
		return
	}
	k.current.stop()
	k.former = append(k.former, k.current)
	k.current = newCustody(keys)
	clear(k.failures)
	k.asked, k.retiring, k.retired = time.Time{}, false, [2]descriptor.Period{}
	k.supply = supply{}
}

// Require has the custodian certify, in the background, for both periods of needs
// if they lack a credential, and has the signing keys of earlier periods retired.
func (k *Keeper) Require(now time.Time, needs [2]Need) {
	k.retire([2]descriptor.Period{needs[0].Keys.Period, needs[1].Keys.Period})
	var due []Need
	for _, need := range needs {
		p := need.Keys.Period
		if !k.lacks(now, p) {
			delete(k.failures, p)
		} else if f := k.failures[p]; f == nil || !now.Before(f.retryAt) {
			due = append(due, need)
		}
	}
	if len(due) == 0 || !k.asked.IsZero() {
		return
	}
	k.asked = now
	c := k.current
	k.background.Go(func() {
		for _, need := range due {
			// The result of a call that was abandoned is never read.
			result := make(chan *Credential, 1)
			err := k.env.Gates.within(c.certifying, c.keys.Gate, func() error {
				c.called.CompareAndSwap(0, time.Now().UnixNano()) // of some that fail, the first counts
				err := c.do(c.certifying, certifyTimeout, func(ctx context.Context) error {
					made, err := c.certify(ctx, need, now)
					result <- made
					return err
				})
				if err == nil {
					c.called.Store(0)
				}
				return err
			})
			var made *Credential
			if err == nil {
				made = <-result
			}
			k.env.Post(func(now time.Time) { k.certified(now, c, need.Keys.Period, made, err) })
		}
		k.env.Post(func(time.Time) {
			c.called.Store(0)
			if c == k.current {
				k.asked = time.Time{}
			}
		})
	})
}

// lacks reports whether there is no credential for p, or one that expires too
// soon.
func (k *Keeper) lacks(now time.Time, p descriptor.Period) bool {
	c := k.credentials[p]
	return c == nil || k.isBroken(c) || c.custody.keys.Reference != k.current.keys.Reference || !now.Before(c.renewal())
}

func (k *Keeper) isBroken(c *Credential) bool { return k.broken[c] >= brokenAfter }

// certified records one result. Until a better credential is there, the old one
// stays in use.
func (k *Keeper) certified(now time.Time, by *custody, p descriptor.Period, made *Credential, err error) {
	if by != k.current {
		return
	}
	if old := k.credentials[p]; err == nil && old != nil {
		err = k.betterThan(old, made)
	}
	if err == nil {
		k.credentials[p] = made
		k.signers[made.Public] = true
		delete(k.failures, p)
		delete(k.unsigned, p)
		for _, f := range k.failures {
			f.retryAt = time.Time{} // the custodian is back
		}
		k.record(now, event.Certified, slog.LevelInfo, "certified", slog.Uint64("period", p.Number), slog.Time("until", made.Expires))
		return
	}
	longest := retryCertifyMax
	if temporary(err) {
		longest = retryCertifyGone
	}
	f := k.failures[p]
	if f == nil {
		f = new(failure)
		k.failures[p] = f
	}
	f.tries++
	f.err, f.retryAt = err, now.Add(backoff.Policy{Min: retryCertify, Max: longest}.Delay(f.tries))
}

// betterThan returns why old stays in use although another credential was made.
func (k *Keeper) betterThan(old, made *Credential) error {
	switch {
	case k.isBroken(old) && old.Public == made.Public:
		return errors.New("the signing key is still the one that does not sign")
	case k.isBroken(old), old.custody.keys.Reference != made.custody.keys.Reference, made.Expires.After(old.Expires):
		return nil
	}
	return fmt.Errorf("the certificate ends at %s, and the custodian has none that ends later", clock(old.Expires))
}

// temporary reports whether a failure may go away by itself at any moment.
func temporary(err error) bool {
	var t interface{ Temporary() bool }
	return errors.As(err, &t) && t.Temporary()
}

// Usable returns the credential for p, nil if there is none that clients accept.
func (k *Keeper) Usable(now time.Time, p descriptor.Period) *Credential {
	if c := k.credentials[p]; c != nil && now.Before(c.Expires) {
		return c
	}
	return nil
}

// Ours reports whether a signing key was ever a credential's, in this run.
func (k *Keeper) Ours(public [32]byte) bool { return k.signers[public] }

// Signed records whether signing a descriptor of p with c succeeded. After several
// failures, unless they are temporary, another key is certified.
func (k *Keeper) Signed(p descriptor.Period, c *Credential, err error) {
	if err == nil {
		delete(k.broken, c)
		delete(k.unsigned, p)
		return
	}
	k.unsigned[p] = err
	if !temporary(err) {
		k.broken[c]++
	}
}

// retire destroys the signing keys of periods before those in use, in the
// background. If it fails, it is retried with the next period.
func (k *Keeper) retire(inUse [2]descriptor.Period) {
	if k.retired == inUse || k.retiring {
		return
	}
	k.retired, k.retiring = inUse, true
	keys := k.current.keys
	k.call(func(ctx context.Context) error {
		err := keys.Signing.Retire(ctx, inUse[:])
		// The custodian has the keys of a ceremony, too.
		if also, ok := keys.Custodian.(retirer); ok && any(keys.Custodian) != any(keys.Signing) {
			err = errors.Join(err, also.Retire(ctx, inUse[:]))
		}
		return err
	}, func(now time.Time, err error) {
		k.retiring = false
		if err != nil {
			k.record(now, event.Custody, slog.LevelWarn, "destroying the signing keys of periods that are over: will be tried again in the next period", slog.Any("error", err))
		}
	})
}

// call makes a call to the keys in the background, and then calls done with its
// error, unless the keys have been replaced by then.
func (k *Keeper) call(call func(context.Context) error, done func(now time.Time, err error)) {
	c := k.current
	k.background.Go(func() {
		err := c.do(c.certifying, prepareTimeout, call)
		k.env.Post(func(now time.Time) {
			if c == k.current {
				done(now, err)
			}
		})
	})
}

// Forget drops credentials of periods that are over, and closes keys that no
// credential needs any more. used reports whether a credential is still in use.
func (k *Keeper) Forget(over func(descriptor.Period) bool, used []*Credential) {
	maps.DeleteFunc(k.credentials, func(p descriptor.Period, _ *Credential) bool { return over(p) })
	maps.DeleteFunc(k.failures, func(p descriptor.Period, _ *failure) bool { return over(p) })
	maps.DeleteFunc(k.unsigned, func(p descriptor.Period, _ error) bool { return over(p) })
	used = slices.AppendSeq(used, maps.Values(k.credentials))
	maps.DeleteFunc(k.broken, func(c *Credential, _ int) bool { return !slices.Contains(used, c) })
	k.former = slices.DeleteFunc(k.former, func(c *custody) bool {
		if slices.ContainsFunc(used, func(u *Credential) bool { return u.custody == c }) {
			return false
		}
		k.release(c)
		return true
	})
}

// release closes keys in the background.
func (k *Keeper) release(c *custody) {
	k.closing.Go(func() {
		if err := c.close(); err != nil {
			k.record(time.Now(), event.Custody, slog.LevelWarn, "closing the keys", slog.Any("error", err))
		}
	})
}

// Close closes all keys, and returns when they are closed or have timed out.
func (k *Keeper) Close() {
	for _, c := range append(k.former, k.current) {
		k.release(c)
	}
	k.closing.Wait()
	k.background.Wait()
}

// Due returns when, after now, there is something to do without an event; the
// zero time if there is nothing.
func (k *Keeper) Due(now time.Time) (next time.Time) {
	sooner := func(at time.Time) {
		if at.After(now) && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	if k.asked.IsZero() {
		for _, f := range k.failures {
			sooner(f.retryAt)
		}
	} else {
		sooner(k.asked.Add(slowAnswer))
	}
	for _, c := range k.credentials {
		sooner(c.renewal())
		sooner(c.Expires)
	}
	sooner(k.supply.refresh)
	return next
}

func (k *Keeper) record(now time.Time, kind event.Kind, level slog.Level, text string, attrs ...slog.Attr) {
	k.env.Record(event.Event{At: now, Kind: kind, Level: level, Service: k.env.Service, Text: text, Attrs: attrs})
}
