package balance

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"io"
	"sync"
	"time"

	"onionbalancer/descriptor"
)

// tokenKeys stands for signing keys on a token, which may be slow, hang or fail.
type tokenKeys struct {
	takes time.Duration // a signature

	mu      sync.Mutex
	keys    map[descriptor.Period]ed25519.PrivateKey
	hung    chan struct{} // closed when the token answers again; nil while it does
	broken  error
	made    int
	signs   int
	retired [][]descriptor.Period
	closed  int
}

// tokenKey is one of them.
type tokenKey struct {
	*tokenKeys
	period descriptor.Period
	public ed25519.PublicKey
}

// hang has every call wait until release.
func (k *tokenKeys) hang() (release func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	hung := make(chan struct{})
	k.hung = hung
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.hung == hung {
			k.hung = nil
		}
		close(hung)
	}
}

// fail has every call fail; with nil, no more.
func (k *tokenKeys) fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.broken = err
}

// lose forgets all keys, as a token that is initialized again.
func (k *tokenKeys) lose() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.keys)
}

// counts returns how many keys were made, how many signatures, and how often it
// was closed.
func (k *tokenKeys) counts() (made, signs, closed int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.made, k.signs, k.closed
}

func (k *tokenKeys) wait() {
	k.mu.Lock()
	hung := k.hung
	k.mu.Unlock()
	if hung != nil {
		<-hung // whatever the context says, as foreign code does
	}
}

func (k *tokenKeys) SigningKey(_ context.Context, p descriptor.Period) (crypto.Signer, error) {
	k.wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.broken != nil {
		return nil, k.broken
	}
	if k.keys == nil {
		k.keys = map[descriptor.Period]ed25519.PrivateKey{}
	}
	if k.keys[p] == nil {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			return nil, err
		}
		k.keys[p] = key
		k.made++
	}
	return tokenKey{k, p, k.keys[p].Public().(ed25519.PublicKey)}, nil
}

func (k *tokenKeys) Retire(_ context.Context, inUse []descriptor.Period) error {
	k.wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.retired = append(k.retired, inUse)
	for p := range k.keys {
		if p.Number < inUse[0].Number {
			delete(k.keys, p)
		}
	}
	return k.broken
}

func (k *tokenKeys) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed++
	return nil
}

func (k tokenKey) Public() crypto.PublicKey { return k.public }

var errNoSuchKey = errors.New("no such key on the token")

func (k tokenKey) Sign(_ io.Reader, message []byte, o crypto.SignerOpts) ([]byte, error) {
	k.wait()
	time.Sleep(k.takes)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.signs++
	key := k.keys[k.period]
	switch {
	case k.closed > 0:
		return nil, errors.New("used after it was closed")
	case k.broken != nil:
		return nil, k.broken
	case key == nil || !key.Public().(ed25519.PublicKey).Equal(k.public):
		return nil, errNoSuchKey
	}
	return key.Sign(nil, message, o)
}

// gone is the error of a token that is absent, as package token's.
type gone struct{}

func (gone) Error() string   { return "no such token" }
func (gone) Temporary() bool { return true }
