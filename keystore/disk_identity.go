package keystore

import (
	"context"
	"fmt"

	"onionbalancer/descriptor"
)

// SignIdentity returns a plain Ed25519 signature of message under the address
// itself. It is for certificate requests and their like; publishing needs none.
func (k *DiskKey) SignIdentity(ctx context.Context, message []byte) (signature []byte, err error) {
	err = k.use(ctx, func(context.Context) error {
		return k.withKey(func(key *descriptor.IdentityKey) (err error) {
			signature, err = key.Sign(message)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("signing with the identity key: %w", err)
	}
	return signature, nil
}
