package keystore

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"os"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/durable"
	"onionbalancer/internal/locked"
	"onionbalancer/keystore/pkcs11uri"
	"onionbalancer/keystore/sealed"
	"onionbalancer/keystore/token"
)

// sealer is a token that seals keys.
type sealer interface {
	unsealer
	Info(ctx context.Context) (token.Info, error)
	WrappingKey(ctx context.Context, o token.Object) (token.WrappingKey, error)
	Wrap(ctx context.Context, o token.Object, m token.Method, secret *locked.Buffer) ([]byte, error)
}

var _ sealer = (*token.Token)(nil)

// SealTo seals key by the key on a token that uri names, to a new file at
// uri.Sealed. Before the file gets its name it is synced, read again, unsealed
// by the token and compared, and certifies once. It never overwrites, and
// leaves nothing behind when it fails. Keys that could leave their token are
// refused: token.CodeExposed.
func SealTo(ctx context.Context, key *descriptor.IdentityKey, uri *pkcs11uri.URI) (*sealed.File, error) {
	if uri.Sealed == "" {
		return nil, errors.New("sealing a key: the URI has no x-sealed, the path of the new file")
	}
	if err := CheckNew(uri.Sealed); err != nil {
		return nil, err
	}
	s, err := OpenSealer(ctx, uri)
	if err != nil {
		return nil, err
	}
	file, err := s.Seal(ctx, key, uri.Sealed)
	return file, errors.Join(err, s.Close())
}

// Sealer seals many keys by one data key, so that the token opens up to token.MaxBatch of
// them by one operation.
type Sealer struct {
	token  sealer
	object token.Object
	data   *sealed.DataKey
}

// OpenSealer has the key on a token that uri names, whose x-sealed is not used, wrap a new
// data key. Keys that could leave their token are refused: token.CodeExposed.
func OpenSealer(ctx context.Context, uri *pkcs11uri.URI) (*Sealer, error) {
	tok, err := token.Open(uri)
	if err != nil {
		return nil, fmt.Errorf("sealing a key: %w", err)
	}
	s, err := newSealer(ctx, tok, token.ObjectOf(uri))
	if err != nil {
		return nil, errors.Join(err, tok.Close())
	}
	return s, nil
}

func newSealer(ctx context.Context, tok sealer, o token.Object) (*Sealer, error) {
	info, err := tok.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("sealing a key: %w", err)
	}
	with, err := tok.WrappingKey(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("sealing a key: %w", err)
	}
	data, err := sealed.NewDataKey(info.Selector, with, func(m token.Method, secret *locked.Buffer) ([]byte, error) {
		return tok.Wrap(ctx, with.Object, m, secret)
	}, rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("sealing a key: %w", err)
	}
	return &Sealer{tok, o, data}, nil
}

// Close forgets the data key, and releases the token.
func (s *Sealer) Close() error {
	s.data.Wipe()
	return s.token.Close()
}

// Seal seals key to a new file at path, as SealTo does.
func (s *Sealer) Seal(ctx context.Context, key *descriptor.IdentityKey, path string) (*sealed.File, error) {
	file, err := s.data.Seal(key, time.Now(), rand.Reader)
	if err != nil {
		return nil, err
	}
	raw, err := file.Encode()
	if err != nil {
		return nil, err
	}
	err = durable.WriteChecked(path, raw, func(written string) error {
		again, err := readSmall(written)
		if err == nil {
			err = unsealsTo(ctx, s.token, s.object, again, key)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("writing sealed key: %w", err)
	}
	return file, nil
}

// CheckNew refuses the path of a file that is there already.
func CheckNew(path string) error {
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		if err == nil {
			err = os.ErrExist
		}
		return fmt.Errorf("writing sealed key: %q exists already, and keys are never overwritten: %w", path, err)
	}
	return nil
}

// trial is the period that a new file is tried with: long past, and the
// certificate's end with it.
var trial = descriptor.Period{Number: 1, Length: descriptor.DefaultPeriodLength}

// unsealsTo makes sure that the token makes the same of the file as of the key.
func unsealsTo(ctx context.Context, tok unsealer, o token.Object, raw []byte, key *descriptor.IdentityKey) error {
	again, err := tok.Unseal(ctx, o, raw)
	if err != nil {
		return fmt.Errorf("unsealing the file, for a trial: %w", err)
	}
	defer locked.CollectSoon()
	defer again.Wipe()
	if !same(key, again) {
		return errors.New("unsealing the file returns another key than the sealed one; is the token working?")
	}
	return certifiesAs(ctx, tok, o, raw, key)
}

// certifiesAs makes sure that the token certifies by the file as key does.
func certifiesAs(ctx context.Context, tok unsealer, o token.Object, raw []byte, key *descriptor.IdentityKey) error {
	blinded, err := key.Blind(trial)
	if err != nil {
		return err
	}
	defer blinded.Wipe()
	signing, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	expiries := descriptor.Expiries{First: trial.End(0), Count: 1}
	want, err := blinded.CertifyHours([32]byte(signing), expiries)
	if err != nil {
		return err
	}
	certs, revision, err := tok.Certify(ctx, o, raw, trial, signing, expiries)
	if err != nil {
		return fmt.Errorf("certifying with the file, for a trial: %w", err)
	}
	if certs != want || subtle.ConstantTimeCompare(revision.Bytes(), blinded.RevisionKey().Bytes()) != 1 {
		return errors.New("a test certificate by the file differs from one by the key itself")
	}
	return nil
}

func same(a, b *descriptor.IdentityKey) bool {
	x, y := a.Secret(), b.Secret()
	defer x.Wipe()
	defer y.Wipe()
	return x.Equal(y) && a.Address() == b.Address()
}

// VerifySealed has the token that uri names unseal the file at uri.Sealed, and
// makes sure that it certifies.
func VerifySealed(ctx context.Context, uri *pkcs11uri.URI) error {
	custodian, err := OpenSealed(uri)
	if err != nil {
		return err
	}
	key, err := custodian.Unseal(ctx)
	if err == nil {
		defer key.Wipe()
		var raw []byte
		if raw, err = custodian.read(); err == nil {
			err = unsealsTo(ctx, custodian.token, custodian.object, raw, key)
		}
	}
	return errors.Join(err, custodian.Close())
}
