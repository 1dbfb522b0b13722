package keystore

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"sync"

	"onionbalancer/descriptor"
)

// How many entries are kept; two descriptors of two periods are in use at any time.
// The certificates of a period take kilobytes, which whoever uses them shares.
const (
	maxCertificates = 2
	maxRevisions    = 8
)

var errClosed = errors.New("the key is closed")

// remembered keeps the certificates and revision keys that a custodian made, so
// that the identity secret is needed once for each period and signing key. It
// has the key used by one caller at a time.
type remembered struct {
	turn chan struct{}   // holds one while the key is used
	life context.Context // ends with Close
	end  context.CancelFunc

	mu sync.Mutex
	// Both oldest first.
	certified []certified
	revisions []revision
}

type certified struct {
	period descriptor.Period
	certs  descriptor.HourlyCertificates
}

type revision struct {
	period descriptor.Period
	key    descriptor.RevisionKey
}

func newRemembered() *remembered {
	r := &remembered{turn: make(chan struct{}, 1)}
	r.life, r.end = context.WithCancel(context.Background())
	return r
}

// use calls f when no other call uses the key, with a context that ends with ctx
// and with Close.
func (r *remembered) use(ctx context.Context, f func(context.Context) error) error {
	if r.life.Err() != nil {
		return errClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(r.life, func() { cancel(errClosed) })()
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return fmt.Errorf("waiting for the key: %w", context.Cause(ctx))
	}
	err := f(ctx)
	if err != nil && r.life.Err() != nil {
		return errors.Join(errClosed, err)
	}
	return err
}

// certify returns the certificates that were made before for the same period and
// key, unless those wished for end later; else it has them made, and remembers the
// revision key that comes with them.
func (r *remembered) certify(ctx context.Context, p descriptor.Period, signing ed25519.PublicKey, expiries descriptor.Expiries,
	make func(context.Context, [32]byte) (descriptor.HourlyCertificates, descriptor.RevisionKey, error)) (certs descriptor.HourlyCertificates, err error) {
	if len(signing) != ed25519.PublicKeySize {
		return certs, fmt.Errorf("certifying for period %s: a signing key of %d bytes, want %d", p, len(signing), ed25519.PublicKeySize)
	}
	err = r.use(ctx, func(ctx context.Context) error {
		if found, ok := r.certificates(p, [32]byte(signing)); ok && !expiries.Last().After(found.Expires()) {
			certs = found
			return nil
		}
		made, key, err := make(ctx, [32]byte(signing))
		if err != nil {
			return err
		}
		certs = made
		r.keep(p, made, key)
		return nil
	})
	if err != nil {
		return descriptor.HourlyCertificates{}, fmt.Errorf("certifying for period %s: %w", p, err)
	}
	return certs, nil
}

// revisionKey returns the cached revision key of p, or has it made.
func (r *remembered) revisionKey(ctx context.Context, p descriptor.Period,
	make func(context.Context) (descriptor.RevisionKey, error)) (key descriptor.RevisionKey, err error) {
	err = r.use(ctx, func(ctx context.Context) error {
		if found, ok := r.revision(p); ok {
			key = found
			return nil
		}
		made, err := make(ctx)
		if err != nil {
			return err
		}
		key = made
		r.keep(p, descriptor.HourlyCertificates{}, made)
		return nil
	})
	if err != nil {
		return descriptor.RevisionKey{}, fmt.Errorf("deriving the revision-counter key of period %s: %w", p, err)
	}
	return key, nil
}

func (r *remembered) certificates(p descriptor.Period, signing [32]byte) (descriptor.HourlyCertificates, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// The newest first: a renewal stands behind what it renews.
	for _, c := range slices.Backward(r.certified) {
		if c.period == p && c.certs.First().Key() == signing {
			return c.certs, true
		}
	}
	return descriptor.HourlyCertificates{}, false
}

func (r *remembered) revision(p descriptor.Period) (descriptor.RevisionKey, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := slices.IndexFunc(r.revisions, func(r revision) bool { return r.period == p }); i >= 0 {
		return r.revisions[i].key, true
	}
	return descriptor.RevisionKey{}, false
}

// keep caches certificates, if there are any, and a revision key.
func (r *remembered) keep(p descriptor.Period, certs descriptor.HourlyCertificates, key descriptor.RevisionKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.life.Err() != nil {
		return
	}
	if !certs.IsZero() {
		r.certified = remember(r.certified, certified{p, certs}, maxCertificates)
	}
	if !slices.ContainsFunc(r.revisions, func(r revision) bool { return r.period == p }) {
		r.revisions = remember(r.revisions, revision{p, key}, maxRevisions)
	}
}

// remember appends a new entry and drops the oldest.
func remember[T any](list []T, item T, most int) []T {
	list = append(list, item)
	return slices.Delete(list, 0, max(len(list)-most, 0))
}

// forget cancels all use and clears the cache. It does not wait.
func (r *remembered) forget() {
	r.end()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.certified, r.revisions = nil, nil
}
