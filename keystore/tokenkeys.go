package keystore

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/keystore/pkcs11uri"
	"onionbalancer/keystore/token"
)

// SigningKeys gives the descriptor-signing key of a period from where it is
// kept. Calls may take long or fail for a while, and return soon after their
// context ends. The keys it gave may be used until Close.
type SigningKeys interface {
	// SigningKey returns the key of p: the one that there is, or a new one.
	SigningKey(ctx context.Context, p descriptor.Period) (crypto.Signer, error)
	// Retire destroys the keys of periods before all that are in use.
	Retire(ctx context.Context, inUse []descriptor.Period) error
	// Close lets go of the keys, and destroys none.
	Close() error
}

// signingToken is a token that makes and keeps Ed25519 keys.
type signingToken interface {
	Generate(ctx context.Context, o token.Object) (token.SigningKey, error)
	SigningKeys(ctx context.Context, labelPrefix string) ([]token.SigningKey, error)
	Sign(ctx context.Context, o token.Object, message []byte) ([]byte, error)
	Destroy(ctx context.Context, o token.Object) error
	Close() error
}

var _ signingToken = (*token.Token)(nil)

// TokenKeys are the SigningKeys of one service on a token. Their labels name
// the service by a hash of its address, since labels are shown to whoever looks
// at the token, and the period.
type TokenKeys struct {
	token  signingToken
	prefix string // of labels
	of     descriptor.Address
}

var _ SigningKeys = (*TokenKeys)(nil)

// OpenSigning opens the place of the descriptor-signing keys of address that a
// configuration names by "signing": the PKCS #11 URI of a token. It does not
// ask the token.
func OpenSigning(ref string, address descriptor.Address) (SigningKeys, error) {
	if !pkcs11uri.Is(ref) {
		return nil, errors.New("opening signing keys: this is no PKCS #11 URI, and signing names a token by one (without signing, the keys are in memory alone)")
	}
	uri, err := pkcs11uri.Parse(ref)
	if err != nil {
		return nil, fmt.Errorf("opening signing keys: %w", err)
	}
	if uri.Object != "" || len(uri.ID) > 0 || uri.Sealed != "" {
		return nil, errors.New("opening signing keys: the URI names a key by object, id or x-sealed, and signing names a token alone: a new key is made in it for every period")
	}
	tok, err := token.Open(uri)
	if err != nil {
		return nil, fmt.Errorf("opening signing keys: %w", err)
	}
	return newTokenKeys(tok, address), nil
}

func newTokenKeys(tok signingToken, address descriptor.Address) *TokenKeys {
	hash := sha256.Sum256(address[:])
	return &TokenKeys{token: tok, of: address, prefix: "balancer descriptor-signing " + hex.EncodeToString(hash[:8]) + " "}
}

// object returns the label and the ID of the key of p.
func (k *TokenKeys) object(p descriptor.Period) token.Object {
	id := sha256.Sum256([]byte(k.of.String() + " " + p.String()))
	return token.Object{Label: k.prefix + p.String(), ID: id[:16]}
}

// periodOf reads the period off a label.
func (k *TokenKeys) periodOf(label string) (descriptor.Period, bool) {
	rest, ours := strings.CutPrefix(label, k.prefix)
	number, minutes, _ := strings.Cut(rest, "/")
	n, err := strconv.ParseUint(number, 10, 64)
	if !ours || err != nil {
		return descriptor.Period{}, false
	}
	m, err := strconv.ParseUint(strings.TrimSuffix(minutes, "m"), 10, 32)
	p := descriptor.Period{Number: n, Length: time.Duration(m) * time.Minute}
	return p, err == nil && m > 0 && k.prefix+p.String() == label
}

// SigningKey implements SigningKeys. The token is asked each time.
func (k *TokenKeys) SigningKey(ctx context.Context, p descriptor.Period) (crypto.Signer, error) {
	key, err := k.find(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("signing key of period %s: %w", p, err)
	}
	return &tokenSigner{k.token, key}, nil
}

func (k *TokenKeys) find(ctx context.Context, p descriptor.Period) (token.SigningKey, error) {
	want := k.object(p)
	keys, err := k.token.SigningKeys(ctx, want.Label)
	if err != nil {
		return token.SigningKey{}, err
	}
	var found []token.SigningKey
	for _, key := range keys {
		if key.Object.Label == want.Label {
			found = append(found, key)
		}
	}
	switch len(found) {
	case 0:
		return k.token.Generate(ctx, want)
	case 1:
		return found[0], nil
	}
	return token.SigningKey{}, token.Errorf(token.CodeNoKey,
		"there are %d keys of the label %q on the token: do two balancers use it? Delete them with: pkcs11-tool --delete-object --type privkey --label %q", len(found), want.Label, want.Label)
}

// Retire implements SigningKeys. Keys of periods that are yet to come stay, for
// they may have been certified offline.
func (k *TokenKeys) Retire(ctx context.Context, inUse []descriptor.Period) error {
	if len(inUse) == 0 {
		return nil
	}
	first := inUse[0].Start(0)
	for _, p := range inUse {
		if start := p.Start(0); start.Before(first) {
			first = start
		}
	}
	keys, err := k.token.SigningKeys(ctx, k.prefix)
	if err != nil {
		return fmt.Errorf("destroying old signing keys: %w", err)
	}
	for _, key := range keys {
		p, ours := k.periodOf(key.Object.Label)
		if !ours || p.End(0).After(first) {
			continue
		}
		if destroyErr := k.token.Destroy(ctx, key.Object); destroyErr != nil {
			err = errors.Join(err, fmt.Errorf("destroying the signing key of period %s: %w", p, destroyErr))
		}
	}
	return err
}

// Close implements SigningKeys.
func (k *TokenKeys) Close() error { return k.token.Close() }

// String names the keys by the address they are for, shortened.
func (k *TokenKeys) String() string { return "signing keys of " + k.of.Short() + " on a token" }

// signDeadline is how long a signature may take.
const signDeadline = 10 * time.Second

// tokenSigner is one key on a token.
type tokenSigner struct {
	token signingToken
	key   token.SigningKey
}

// Public returns an ed25519.PublicKey.
func (s *tokenSigner) Public() crypto.PublicKey { return s.key.Public }

// Sign returns a plain Ed25519 signature within ten seconds. Whoever uses it
// verifies it first.
func (s *tokenSigner) Sign(_ io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts.HashFunc() != 0 {
		return nil, errors.New("signing with a token: Ed25519 signs messages, not their hashes")
	}
	ctx, cancel := context.WithTimeout(context.Background(), signDeadline)
	defer cancel()
	return s.token.Sign(ctx, s.key.Object, message)
}
