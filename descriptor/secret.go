package descriptor

import (
	"crypto/aes"
	"crypto/ed25519"
	"crypto/sha3"
	"crypto/sha512"
	"errors"
	"fmt"
	"unsafe"

	"filippo.io/edwards25519"

	"onionbalancer/internal/locked"
)

// ExpandedKeySize is the length in bytes of an expanded Ed25519 secret key:
// the scalar, then the prefix that keys the deterministic nonce.
const ExpandedKeySize = 64

var errSecretText = errors.New("descriptor: a secret key has no text form")

// redacted makes a type print as a placeholder and refuse to marshal, whatever
// the verb and whatever the encoder.
type redacted struct{}

func (redacted) String() string               { return "[secret]" }
func (redacted) GoString() string             { return "[secret]" }
func (redacted) Format(f fmt.State, _ rune)   { _, _ = f.Write([]byte("[secret]")) }
func (redacted) MarshalText() ([]byte, error) { return nil, errSecretText }

// sealed gives access to a secret that printing does not reach. fmt calls no
// method of values in unexported fields, but follows their arrays
// and pointers; it cannot look into a closure.
type sealed[T any] func() *T

// seal moves a secret behind a closure and overwrites where it came from.
func seal[T any](secret *T) sealed[T] {
	kept := new(T)
	*kept = *secret
	*secret = *new(T)
	return func() *T { return kept }
}

// IdentityKey is the secret half of an onion address, in locked memory. It
// neither prints nor marshals. It is safe for concurrent use until Wipe.
type IdentityKey struct {
	redacted
	secret guarded[[ExpandedKeySize]byte]
	public Address
}

// NewIdentityKey takes an expanded secret key of ExpandedKeySize bytes, the
// form of tor's key files. The scalar is taken as tor takes it, clamped or not.
// The bytes are copied; the caller wipes its own.
func NewIdentityKey(expanded []byte) (k *IdentityKey, err error) {
	if len(expanded) != ExpandedKeySize {
		return nil, fmt.Errorf("reading identity key: %d bytes, want %d", len(expanded), ExpandedKeySize)
	}
	k = new(IdentityKey)
	locked.Do(func() {
		scalar := scalarOf([32]byte(expanded))
		if scalar.Equal(edwards25519.NewScalar()) == 1 {
			err = errors.New("the scalar is zero, so there is no secret in it")
			return
		}
		if [32]byte(expanded[32:]) == ([32]byte{}) {
			err = errNoPrefix
			return
		}
		kept := [ExpandedKeySize]byte(expanded)
		k.secret = guard(&kept)
		k.public = Address(new(edwards25519.Point).ScalarBaseMult(scalar).Bytes())
	})
	if err != nil {
		return nil, fmt.Errorf("reading identity key: %w", err)
	}
	return k, nil
}

// errNoPrefix is about a key whose nonces everybody can compute.
var errNoPrefix = errors.New("the second half of the key, which keeps the nonces of its signatures secret, is zeros: " +
	"anyone who sees one signature has the key; any 32 random bytes in their place leave the address as it is, if nothing was signed yet")

// scalarOf reads the scalar of an expanded key: 256 bits, little-endian, modulo
// the order of the group, as tor computes with it. That is right for every
// scalar, since the base point is of that order: the public half has no part
// of low order, whatever the lowest bits, and signatures and blinded keys
// depend on nothing but the residue. Keys that are made from a seed are
// clamped; those of tools that look for an address by adding to a scalar, or
// that write it reduced, are not.
func scalarOf(bits [32]byte) *edwards25519.Scalar {
	var wide [64]byte
	copy(wide[:], bits[:])
	defer clear(wide[:])
	return uniformScalar(wide[:])
}

// IdentityKeyFromSeed expands an RFC 8032 seed of 32 bytes, the form of PKCS #8.
func IdentityKeyFromSeed(seed []byte) (k *IdentityKey, err error) {
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("reading identity key: a seed of %d bytes, want %d", len(seed), ed25519.SeedSize)
	}
	locked.Do(func() {
		expanded := sha512.Sum512(seed)
		expanded[0] &= 248
		expanded[31] = expanded[31]&63 | 64
		k, err = NewIdentityKey(expanded[:])
		clear(expanded[:])
	})
	return k, err
}

// Address returns the public half.
func (k *IdentityKey) Address() Address { return k.public }

// Expanded returns a copy of the expanded key. The caller wipes it, and takes
// Secret instead where nothing may be left in ordinary memory.
func (k *IdentityKey) Expanded() (expanded []byte) {
	k.secret.use(func(secret *[ExpandedKeySize]byte) { expanded = append(expanded, secret[:]...) })
	return expanded
}

// Secret returns a copy of the expanded key in locked memory, for sealing it or
// writing it to a file. The caller wipes it.
func (k *IdentityKey) Secret() *locked.Buffer {
	b := locked.New(ExpandedKeySize)
	k.secret.use(func(secret *[ExpandedKeySize]byte) { b.Use(func(kept []byte) { copy(kept, secret[:]) }) })
	return b
}

// Wipe overwrites the secret; k is useless afterwards.
func (k *IdentityKey) Wipe() { k.secret.wipe() }

// Sign returns a plain Ed25519 signature of 64 bytes under the address itself
// (RFC 8032, section 5.1.6). Tor does not use one: it verifies signatures
// by blinded keys, and no signature by the one key can be turned into
// one by the other, since the public key is part of the hashed message.
func (k *IdentityKey) Sign(message []byte) (signature []byte, err error) {
	k.secret.use(func(expanded *[ExpandedKeySize]byte) {
		secret := signingSecret{scalar: *scalarOf([32]byte(expanded[:32])), prefix: [32]byte(expanded[32:])}
		signature = secret.sign([32]byte(k.public), message, message)
	})
	// A wrong signature may give the key away.
	if !ed25519.Verify(k.public[:], message, signature) {
		return nil, errors.New("signing with the identity key: the signature does not verify, was the key wiped?")
	}
	return signature, nil
}

// Blind derives the secret key that stands for k during p. The caller wipes it
// when its one certificate is signed (rend-spec-v3, appendix A.2).
func (k *IdentityKey) Blind(p Period) (*BlindedKey, error) {
	h, err := blindingFactor(k.public, p)
	if err != nil {
		return nil, fmt.Errorf("blinding identity key: %w", err)
	}
	return k.blindBy(h), nil
}

// blindBy multiplies the secret by the blinding factor h.
func (k *IdentityKey) blindBy(h *edwards25519.Scalar) *BlindedKey {
	b := new(BlindedKey)
	k.secret.use(func(expanded *[ExpandedKeySize]byte) { b.derive(expanded, h) })
	return b
}

// BlindedKey is the secret half of a BlindedPublicKey, in locked memory. It
// neither prints nor marshals, and never leaves the process that derived it.
type BlindedKey struct {
	redacted
	secret guarded[signingSecret]
	public BlindedPublicKey
}

// derive multiplies an expanded identity key by the blinding factor h.
func (b *BlindedKey) derive(expanded *[ExpandedKeySize]byte, h *edwards25519.Scalar) {
	a := scalarOf([32]byte(expanded[:32]))
	secret := signingSecret{scalar: *a.Multiply(h, a)}
	// The prefix keys the nonce of every signature: it must be as secret as the
	// scalar, or one signature gives the key away.
	prefix := sha512.New()
	prefix.Write([]byte(blindHashConstant))
	prefix.Write(expanded[32:])
	copy(secret.prefix[:], prefix.Sum(nil))
	b.public = BlindedPublicKey(new(edwards25519.Point).ScalarBaseMult(&secret.scalar).Bytes())
	b.secret = guard(&secret)
}

// Public returns the public half.
func (b *BlindedKey) Public() BlindedPublicKey { return b.public }

// Wipe overwrites the secret.
func (b *BlindedKey) Wipe() { b.secret.wipe() }

// Sign returns an Ed25519 signature of 64 bytes, which verifies under the
// blinded public key (RFC 8032, section 5.1.6, with the blinded scalar).
func (b *BlindedKey) Sign(message []byte) (signature []byte) {
	b.secret.use(func(secret *signingSecret) { signature = secret.sign([32]byte(b.public), message, message) })
	return signature
}

// RevisionKey keys the order-preserving encryption of revision counters for
// one service and period (rend-spec-v3, appendix F.2). Anyone who holds it can
// tell when a descriptor was made, and nothing else: it is kept in ordinary
// memory. It does not print.
type RevisionKey struct {
	redacted
	key sealed[[32]byte]
}

func newRevisionKey(key []byte) RevisionKey {
	kept := [32]byte(key)
	return RevisionKey{key: seal(&kept)}
}

// RevisionKey derives the key of the revision counters of b's period, the same
// one that tor would use, so that an operator can move between the two.
func (b *BlindedKey) RevisionKey() (key RevisionKey) {
	b.secret.use(func(secret *signingSecret) {
		h := sha3.New256()
		h.Write([]byte("rev-counter-generation\x00"))
		h.Write(secret.scalar.Bytes())
		h.Write(secret.prefix[:])
		key = newRevisionKey(h.Sum(nil))
	})
	return key
}

// NewRevisionKey takes the 32 bytes that Bytes returned, from an offline bundle.
func NewRevisionKey(key []byte) (RevisionKey, error) {
	if len(key) != aes.BlockSize*2 {
		return RevisionKey{}, fmt.Errorf("reading revision-counter key: %d bytes, want 32", len(key))
	}
	return newRevisionKey(key), nil
}

// Bytes returns a copy of the key, for an offline bundle.
func (k RevisionKey) Bytes() []byte { return append([]byte(nil), k.key()[:]...) }

// guarded is a secret in locked memory, where the garbage collector does not
// look. So T holds no pointers.
type guarded[T any] struct{ memory *locked.Buffer }

// guard moves a secret to locked memory and overwrites the source.
func guard[T any](secret *T) guarded[T] {
	g := guarded[T]{locked.New(int(unsafe.Sizeof(*secret)))}
	g.use(func(kept *T) { *kept = *secret })
	*secret = *new(T)
	return g
}

// use passes the secret to f, which does not keep it, and erases traces of f
// on the stack, in registers and, once it is collected, on the heap.
func (g guarded[T]) use(f func(*T)) {
	g.memory.Do(func(secret []byte) { f((*T)(unsafe.Pointer(unsafe.SliceData(secret)))) })
}

// wipe overwrites the secret with zeros. It is safe to use afterwards.
func (g guarded[T]) wipe() { g.memory.Wipe() }
