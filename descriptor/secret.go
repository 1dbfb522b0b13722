package descriptor

import (
	"crypto/aes"
	"crypto/ed25519"
	"crypto/sha3"
	"crypto/sha512"
	"errors"
	"fmt"

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
// method of what stands in a field that is not exported, but follows its arrays
// and pointers; it cannot look into a closure.
type sealed[T any] func() *T

// seal moves a secret behind a closure and overwrites where it came from.
func seal[T any](secret *T) sealed[T] {
	kept := new(T)
	*kept = *secret
	*secret = *new(T)
	return func() *T { return kept }
}

// IdentityKey is the secret half of an onion address. It neither prints nor
// marshals. It is safe for concurrent use until Wipe.
type IdentityKey struct {
	redacted
	expanded sealed[[ExpandedKeySize]byte]
	public   Address
}

// NewIdentityKey takes an expanded secret key of ExpandedKeySize bytes, the
// form of tor's key files. The bytes are copied; the caller wipes its own.
func NewIdentityKey(expanded []byte) (*IdentityKey, error) {
	if len(expanded) != ExpandedKeySize {
		return nil, fmt.Errorf("reading identity key: %d bytes, want %d", len(expanded), ExpandedKeySize)
	}
	// An expanded key that is not clamped would have another public key for us
	// than for tor, which uses the scalar as it stands.
	if expanded[0]&7 != 0 || expanded[31]&0x80 != 0 || expanded[31]&0x40 == 0 {
		return nil, errors.New("reading identity key: the scalar is not clamped, so this is no Ed25519 secret key")
	}
	scalar, err := edwards25519.NewScalar().SetBytesWithClamping(expanded[:32])
	if err != nil {
		return nil, fmt.Errorf("reading identity key: %w", err)
	}
	kept := [ExpandedKeySize]byte(expanded)
	k := &IdentityKey{expanded: seal(&kept)}
	k.public = Address(new(edwards25519.Point).ScalarBaseMult(scalar).Bytes())
	return k, nil
}

// IdentityKeyFromSeed expands an RFC 8032 seed of 32 bytes, the form of PKCS #8.
func IdentityKeyFromSeed(seed []byte) (*IdentityKey, error) {
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("reading identity key: a seed of %d bytes, want %d", len(seed), ed25519.SeedSize)
	}
	expanded := sha512.Sum512(seed)
	defer clear(expanded[:])
	expanded[0] &= 248
	expanded[31] = expanded[31]&63 | 64
	return NewIdentityKey(expanded[:])
}

// Address returns the public half.
func (k *IdentityKey) Address() Address { return k.public }

// Expanded returns a copy of the expanded key, for writing a key file. The
// caller wipes it.
func (k *IdentityKey) Expanded() []byte { return append([]byte(nil), k.expanded()[:]...) }

// Secret returns a copy of the expanded key in locked memory, for sealing it.
// The caller wipes it.
func (k *IdentityKey) Secret() *locked.Buffer {
	b := locked.New(ExpandedKeySize)
	copy(b.Bytes(), k.expanded()[:])
	return b
}

// Wipe overwrites the secret, as best effort; k is useless afterwards.
func (k *IdentityKey) Wipe() { clear(k.expanded()[:]) }

// Sign returns a plain Ed25519 signature of 64 bytes under the address itself
// (RFC 8032, section 5.1.6). Tor knows no use for one: what it verifies is
// signed by blinded keys, and no signature by the one key can be turned into
// one by the other, for the public key is part of what is hashed.
func (k *IdentityKey) Sign(message []byte) ([]byte, error) {
	var secret signingSecret
	defer func() { secret = signingSecret{} }()
	if _, err := secret.scalar.SetBytesWithClamping(k.expanded()[:32]); err != nil {
		return nil, fmt.Errorf("signing with the identity key: %w", err)
	}
	copy(secret.prefix[:], k.expanded()[32:])
	signature := secret.sign([32]byte(k.public), message, message)
	// A signature that was computed wrongly may give the key away.
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
	b, err := k.blindBy(h)
	if err != nil {
		return nil, fmt.Errorf("blinding identity key: %w", err)
	}
	return b, nil
}

// blindBy multiplies the secret by the blinding factor h.
func (k *IdentityKey) blindBy(h *edwards25519.Scalar) (*BlindedKey, error) {
	a, err := edwards25519.NewScalar().SetBytesWithClamping(k.expanded()[:32])
	if err != nil {
		return nil, err
	}
	secret := signingSecret{scalar: *a.Multiply(h, a)}
	// The prefix keys the nonce of every signature: it must be as secret as the
	// scalar, or one signature gives the key away.
	prefix := sha512.New()
	prefix.Write([]byte(blindHashConstant))
	prefix.Write(k.expanded()[32:])
	copy(secret.prefix[:], prefix.Sum(nil))
	public := BlindedPublicKey(new(edwards25519.Point).ScalarBaseMult(&secret.scalar).Bytes())
	return &BlindedKey{secret: seal(&secret), public: public}, nil
}

// BlindedKey is the secret half of a BlindedPublicKey. It neither prints nor
// marshals, and never leaves the process that derived it.
type BlindedKey struct {
	redacted
	secret sealed[signingSecret]
	public BlindedPublicKey
}

// Public returns the public half.
func (b *BlindedKey) Public() BlindedPublicKey { return b.public }

// Wipe overwrites the secret, as best effort.
func (b *BlindedKey) Wipe() { *b.secret() = signingSecret{} }

// Sign returns an Ed25519 signature of 64 bytes, which verifies under the
// blinded public key (RFC 8032, section 5.1.6, with the blinded scalar).
func (b *BlindedKey) Sign(message []byte) []byte {
	return b.secret().sign([32]byte(b.public), message, message)
}

// RevisionKey keys the order-preserving encryption of revision counters for
// one service and period (rend-spec-v3, appendix F.2). Whoever holds it can
// tell when a descriptor was made, and nothing else. It does not print.
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
func (b *BlindedKey) RevisionKey() RevisionKey {
	h := sha3.New256()
	h.Write([]byte("rev-counter-generation\x00"))
	h.Write(b.secret().scalar.Bytes())
	h.Write(b.secret().prefix[:])
	return newRevisionKey(h.Sum(nil))
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
