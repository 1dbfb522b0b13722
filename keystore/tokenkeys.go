package keystore

import (
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/durable"
	"onionbalancer/internal/openfile"
	"onionbalancer/internal/strictmodes"
	"onionbalancer/keystore/pkcs11uri"
	"onionbalancer/keystore/token"
)

// signingToken is a token that makes and keeps Ed25519 keys.
type signingToken interface {
	Generate(ctx context.Context, o token.Object) (token.SigningKey, error)
	SigningKeys(ctx context.Context, labelPrefix string) ([]token.SigningKey, error)
	Sign(ctx context.Context, o token.Object, message []byte) ([]byte, error)
	Destroy(ctx context.Context, o token.Object) error
	Close() error
}

var _ signingToken = (*token.Token)(nil)

// TokenKeys are the descriptor-signing keys of one service on a token. Calls may
// take long or fail for a while, and return soon after their context ends.
type TokenKeys struct {
	token signingToken
	of    descriptor.Address
	dirs  []string // of salts; new keys are named by that of the first
}

// OpenSigning opens the place of the descriptor-signing keys of address that a
// configuration names by "signing": the PKCS #11 URI of a token. New keys are
// named by the salt in dir, a state directory or that of an offline key, where
// one is made for the first. Keys that are named by the salts of others are found
// and retired as well. It asks neither the token nor the directories.
func OpenSigning(ref string, address descriptor.Address, dir string, others ...string) (*TokenKeys, error) {
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
	return newTokenKeys(tok, address, dir, others...), nil
}

func newTokenKeys(tok signingToken, address descriptor.Address, dir string, others ...string) *TokenKeys {
	return &TokenKeys{token: tok, of: address, dirs: append([]string{dir}, others...)}
}

// namings returns the possible names of keys.
func (k *TokenKeys) namings() (names []naming, err error) {
	for _, dir := range k.dirs {
		salt, err := readSalt(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		names = append(names, salted(salt, k.of))
	}
	return append(names, unsalted(k.of)), nil
}

// SigningKey returns the key of p, or makes it if there is none. It may be used
// until Close. The token is asked each time.
func (k *TokenKeys) SigningKey(ctx context.Context, p descriptor.Period) (crypto.Signer, error) {
	key, err := k.find(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("signing key of period %s: %w", p, err)
	}
	return &tokenSigner{k.token, key}, nil
}

func (k *TokenKeys) find(ctx context.Context, p descriptor.Period) (token.SigningKey, error) {
	names, err := k.namings()
	if err != nil {
		return token.SigningKey{}, err
	}
	for _, name := range names {
		want := name(p).Label
		keys, err := k.token.SigningKeys(ctx, want)
		if err != nil {
			return token.SigningKey{}, err
		}
		keys = slices.DeleteFunc(keys, func(key token.SigningKey) bool { return key.Object.Label != want })
		switch len(keys) {
		case 0:
			continue
		case 1:
			return keys[0], nil
		}
		return token.SigningKey{}, token.Errorf(token.CodeNoKey,
			"there are %d keys of the label %q on the token: do two balancers use it? Delete them with: pkcs11-tool --login --delete-object --type privkey --label %q", len(keys), want, want)
	}
	salt, err := makeSalt(k.dirs[0])
	if err != nil {
		return token.SigningKey{}, err
	}
	return k.token.Generate(ctx, salted(salt, k.of)(p))
}

// longAgo is how many periods back Retire looks for keys. Names do not contain the period,
// so those of past periods are computed and compared.
const longAgo = 1000

// Retire destroys the keys of periods before all that are in use. Keys of later
// periods stay, for they may have been certified offline.
func (k *TokenKeys) Retire(ctx context.Context, inUse []descriptor.Period) error {
	if len(inUse) == 0 {
		return nil
	}
	names, err := k.namings()
	if err != nil {
		return fmt.Errorf("destroying old signing keys: %w", err)
	}
	first := slices.MinFunc(inUse, func(a, b descriptor.Period) int { return a.Start(0).Compare(b.Start(0)) })
	past := map[string]descriptor.Period{}
	for p := first; p.Number > 0 && len(past) < longAgo*len(names); {
		p = p.Previous()
		for _, name := range names {
			past[name(p).Label] = p
		}
	}
	keys, err := k.token.SigningKeys(ctx, "")
	if err != nil {
		return fmt.Errorf("destroying old signing keys: %w", err)
	}
	for _, key := range keys {
		p, over := past[key.Object.Label]
		if !over {
			continue
		}
		if destroyErr := k.token.Destroy(ctx, key.Object); destroyErr != nil {
			err = errors.Join(err, fmt.Errorf("destroying the signing key of period %s: %w", p, destroyErr))
		}
	}
	return err
}

// Close closes the token, and destroys no key.
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

// Sign returns a plain Ed25519 signature within ten seconds. Anyone who uses it
// verifies it first.
func (s *tokenSigner) Sign(_ io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts.HashFunc() != 0 {
		return nil, errors.New("signing with a token: Ed25519 signs messages, not their hashes")
	}
	ctx, cancel := context.WithTimeout(context.Background(), signDeadline)
	defer cancel()
	return s.token.Sign(ctx, s.key.Object, message)
}

// naming is the name of a period's signing key on a token.
type naming func(descriptor.Period) token.Object

// salted names keys by a hash under a salt that is not on the token. Labels and
// IDs can be read without the PIN, off the index of many a smart card even those
// of private keys, and there are few enough onion addresses to try them all: so a name
// must not be computable from the address.
func salted(salt []byte, of descriptor.Address) naming {
	return func(p descriptor.Period) token.Object {
		h := hmac.New(sha256.New, salt)
		fmt.Fprintf(h, "%s %s", of, p)
		id := h.Sum(nil)[:16]
		return token.Object{Label: "signing " + hex.EncodeToString(id), ID: id}
	}
}

// unsalted names keys as earlier versions did. Remaining ones are used and
// destroyed like others; none is made.
func unsalted(of descriptor.Address) naming {
	service := sha256.Sum256(of[:])
	prefix := "balancer descriptor-signing " + hex.EncodeToString(service[:8]) + " "
	return func(p descriptor.Period) token.Object {
		id := sha256.Sum256([]byte(of.String() + " " + p.String()))
		return token.Object{Label: prefix + p.String(), ID: id[:16]}
	}
}

// SaltFile is the file, in a state directory or in that of an offline key, of
// the salt of the names that keys have on tokens. If it is lost, so are the keys on
// the token: they stay there, and are never found again.
const SaltFile = "token-names.salt"

const saltSize = 32

// readSalt reads the salt of dir; fs.ErrNotExist is wrapped if there is none.
func readSalt(dir string) ([]byte, error) {
	path := filepath.Join(dir, SaltFile)
	f, _, err := openfile.Secret(path)
	if err == nil {
		defer f.Close()
		err = strictmodes.Current().Secret(path, f)
	}
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	salt, err := io.ReadAll(io.LimitReader(f, saltSize+1))
	if err == nil && len(salt) != saltSize {
		err = fmt.Errorf("%d bytes, want %d: take the file from a backup, or remove it, and the keys on the token as well", len(salt), saltSize)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return salt, nil
}

// makeSalt reads the salt of dir, and makes one if there is none.
func makeSalt(dir string) ([]byte, error) {
	salt, err := readSalt(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return salt, err
	}
	salt = make([]byte, saltSize)
	_, _ = rand.Read(salt) // never fails
	err = writeSalt(dir, salt)
	if errors.Is(err, fs.ErrExist) {
		return readSalt(dir) // another process was faster
	}
	if err != nil {
		return nil, fmt.Errorf("making the salt of the names of signing keys: %w", err)
	}
	return salt, nil
}

// writeSalt writes a file that belongs to the owner of dir, also if root does:
// the balancer has to read it.
func writeSalt(dir string, salt []byte) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, SaltFile)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		err = f.Chown(int(stat.Uid), int(stat.Gid))
	}
	if err == nil {
		_, err = f.Write(salt)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return durable.SyncDir(dir)
}
