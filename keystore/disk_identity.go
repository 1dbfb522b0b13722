package keystore

import (
	"context"
	"errors"
	"fmt"

	"onionbalancer/descriptor"
)

// SignIdentity returns a plain Ed25519 signature of message under the address
// itself. It is for certificate requests and their like; publishing needs none.
func (k *DiskKey) SignIdentity(ctx context.Context, message []byte) (signature []byte, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("signing with the identity key: %w", err)
	}
	if k.closed {
		return nil, errors.New("signing with the identity key: the key is closed")
	}
	err = withIdentity(k.path, func(key *descriptor.IdentityKey, _ Form) error {
		if key.Address() != k.address {
			return fmt.Errorf("it has changed: it was the key of %s and is now that of %s", k.address.Short(), key.Address().Short())
		}
		signature, err = key.Sign(message)
		return err
	})
	return signature, err
}
