package descriptor

import "sync"

// recent remembers values by key, at least the last limit/2 that were put or
// got and at most limit. The zero value with a limit set is ready; it is safe
// for concurrent use.
type recent[K comparable, V any] struct {
	limit int

	mu         sync.Mutex
	young, old map[K]V
}

func (r *recent[K, V]) get(k K) (V, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v, ok := r.young[k]; ok {
		return v, true
	}
	v, ok := r.old[k]
	if ok {
		r.putLocked(k, v)
	}
	return v, ok
}

func (r *recent[K, V]) put(k K, v V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.putLocked(k, v)
}

// putLocked starts a new generation when the young one has half of the limit:
// what nobody asked for since is forgotten then.
func (r *recent[K, V]) putLocked(k K, v V) {
	if r.young == nil || len(r.young) >= r.limit/2 {
		r.old, r.young = r.young, make(map[K]V)
	}
	r.young[k] = v
}

// certCache remembers the certificates whose signature was right, so that the
// same bytes are verified once. They name their signer, so that what was true
// of the bytes stays true; only time is to be checked again.
type certCache struct{ good recent[string, struct{}] }

// certCacheSize holds the certificates of about 100 full descriptors; half a
// megabyte.
const certCacheSize = 4096

func (v *certCache) verify(c Certificate, signer [32]byte) error {
	if named, ok := c.SigningKey(); !ok || named != signer {
		return errSigner
	}
	if _, ok := v.good.get(c.raw); ok {
		return nil
	}
	if err := c.verifySignature(signer); err != nil {
		return err
	}
	v.good.put(c.raw, struct{}{})
	return nil
}
