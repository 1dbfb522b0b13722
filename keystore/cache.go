package keystore

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"onionbalancer/descriptor"
)

// maxRemembered is how many certificates and revision keys are kept; two
// descriptors of two periods are in use at any time.
const maxRemembered = 8

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
	certificates []certified
	revisions    []revision
}

type certified struct {
	period descriptor.Period
	cert   descriptor.Certificate
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

// certify returns the certificate that was made before for the same period and
// key, unless the one wished for would live longer by half a certificate's life
// or more; else it has one made, and remembers the revision key that comes with
// it.
func (r *remembered) certify(ctx context.Context, p descriptor.Period, signing ed25519.PublicKey, expires time.Time,
	make func(context.Context, [32]byte) (descriptor.Certificate, descriptor.RevisionKey, error)) (cert descriptor.Certificate, err error) {
	if len(signing) != ed25519.PublicKeySize {
		return cert, fmt.Errorf("certifying for period %s: a signing key of %d bytes, want %d", p, len(signing), ed25519.PublicKeySize)
	}
	err = r.use(ctx, func(ctx context.Context) error {
		if found, ok := r.certificate(p, [32]byte(signing)); ok && expires.Sub(found.Expires()) < descriptor.CertLifetime/2 {
			cert = found
			return nil
		}
		made, key, err := make(ctx, [32]byte(signing))
		if err != nil {
			return err
		}
		cert = made
		r.keep(p, &made, key)
		return nil
	})
	if err != nil {
		return descriptor.Certificate{}, fmt.Errorf("certifying for period %s: %w", p, err)
	}
	return cert, nil
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
		r.keep(p, nil, made)
		return nil
	})
	if err != nil {
		return descriptor.RevisionKey{}, fmt.Errorf("deriving the revision-counter key of period %s: %w", p, err)
	}
	return key, nil
}

func (r *remembered) certificate(p descriptor.Period, signing [32]byte) (descriptor.Certificate, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// The newest first: a renewal stands behind what it renews.
	for _, c := range slices.Backward(r.certificates) {
		if c.period == p && c.cert.Key() == signing {
			return c.cert, true
		}
	}
	return descriptor.Certificate{}, false
}

func (r *remembered) revision(p descriptor.Period) (descriptor.RevisionKey, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := slices.IndexFunc(r.revisions, func(r revision) bool { return r.period == p }); i >= 0 {
		return r.revisions[i].key, true
	}
	return descriptor.RevisionKey{}, false
}

// keep caches a certificate, if there is one, and a revision key.
func (r *remembered) keep(p descriptor.Period, cert *descriptor.Certificate, key descriptor.RevisionKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.life.Err() != nil {
		return
	}
	if cert != nil {
		r.certificates = remember(r.certificates, certified{p, *cert})
	}
	if !slices.ContainsFunc(r.revisions, func(r revision) bool { return r.period == p }) {
		r.revisions = remember(r.revisions, revision{p, key})
	}
}

// remember appends new entries and drops the oldest.
func remember[T any](list []T, item T) []T {
	list = append(list, item)
	return slices.Delete(list, 0, max(len(list)-maxRemembered, 0))
}

// forget cancels all use and clears the cache. It does not wait.
func (r *remembered) forget() {
	r.end()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.certificates, r.revisions = nil, nil
}
