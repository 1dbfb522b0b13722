package keystore

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"onionbalancer/descriptor"
	"onionbalancer/internal/durable"
	"onionbalancer/internal/locked"
	"onionbalancer/internal/shell"
)

const (
	privateDir  = 0o700
	privateFile = 0o600
)

// Fresh is an identity key that is nowhere yet but in locked memory. It neither
// prints nor marshals.
type Fresh struct {
	key  hidden[*descriptor.IdentityKey]
	seed *locked.Buffer
}

// New makes an identity key with the given source of randomness,
// crypto/rand.Reader but in tests. The caller writes it, then wipes it.
func New(random io.Reader) (*Fresh, error) {
	seed := locked.New(ed25519.SeedSize)
	if _, err := io.ReadFull(random, seed.Bytes()); err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	key, err := descriptor.IdentityKeyFromSeed(seed.Bytes())
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	return &Fresh{key: hide(key), seed: seed}, nil
}

// Address returns the onion address.
func (f *Fresh) Address() descriptor.Address { return f.key().Address() }

// Identity returns the key itself, which Wipe wipes.
func (f *Fresh) Identity() *descriptor.IdentityKey { return f.key() }

// Wipe overwrites the secret; f is useless afterwards.
func (f *Fresh) Wipe() {
	f.key().Wipe()
	f.seed.Wipe()
}

// WriteTor writes the key as WriteTor does.
func (f *Fresh) WriteTor(dir string) error { return WriteTor(dir, f.key()) }

// WritePEM writes the key to a new file at path, in the form that OnionBalance
// uses, with mode 0600. It never overwrites. Missing directories are made.
func (f *Fresh) WritePEM(path string) error {
	text, err := encodePEM(f.seed.Bytes())
	if err != nil {
		return err
	}
	defer text.Wipe()
	if err := os.MkdirAll(filepath.Dir(path), privateDir); err != nil {
		return fmt.Errorf("writing key: %w", err)
	}
	return writeNew([]file{{path, text.Bytes()}})
}

// WriteTor writes key as a tor service's directory: hs_ed25519_secret_key,
// hs_ed25519_public_key and hostname, with mode 0600. The directory is made
// with mode 0700 if it is missing, and refused if others can use it, as tor
// would. No file is ever overwritten, and what is written is on the disk when
// WriteTor returns.
func WriteTor(dir string, key *descriptor.IdentityKey) error {
	if err := os.MkdirAll(dir, privateDir); err != nil {
		return fmt.Errorf("writing key: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("writing key: %w", err)
	}
	if others := info.Mode().Perm() & 0o077; others != 0 {
		return fmt.Errorf("writing key: others than its owner can use the directory %q (mode %04o), and tor would refuse it: run: chmod 700 %s",
			dir, info.Mode().Perm(), shell.Quote(dir))
	}
	secret := key.Secret()
	defer secret.Wipe()
	content := locked.New(torTagSize + secret.Len())
	defer content.Wipe()
	copy(content.Bytes(), torHeader(torSecretTag))
	copy(content.Bytes()[torTagSize:], secret.Bytes())
	address := key.Address()
	return writeNew([]file{
		// The secret first: tor makes the others from it, and it from nothing.
		{filepath.Join(dir, torSecretFile), content.Bytes()},
		{filepath.Join(dir, torPublicFile), append(torHeader(torPublicTyp), address[:]...)},
		{filepath.Join(dir, torHostnameFile), []byte(address.String() + "\n")},
	})
}

type file struct {
	path    string
	content []byte
}

// writeNew writes all files or, on an error, none of them.
func writeNew(files []file) (err error) {
	for _, f := range files {
		if _, err := os.Lstat(f.path); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("writing key: %q is there already, and keys are never overwritten: %w", f.path, os.ErrExist)
		}
	}
	for i, f := range files {
		if err := durable.WriteNew(f.path, f.content, privateFile); err != nil {
			for _, made := range files[:i] {
				err = errors.Join(err, os.Remove(made.path))
			}
			return fmt.Errorf("writing key: %w", err)
		}
	}
	dir := filepath.Dir(files[0].path)
	// The parent too, since the directory itself may be new.
	return errors.Join(durable.SyncDir(dir), durable.SyncDir(filepath.Dir(dir)))
}
