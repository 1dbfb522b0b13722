package keystore

import (
	"fmt"
	"os"
	"path/filepath"

	"onionbalancer/keystore/offline"
)

// OfflineKey is the Custodian of a key on a machine without a network: it hands
// out what ceremonies prepared in a directory, and has the signing keys too,
// unless those are on a token.
type OfflineKey struct{ *offline.Custodian }

var _ Custodian = OfflineKey{}

// OpenOffline opens the directory that "balancer ceremony request" made.
func OpenOffline(dir string) (OfflineKey, error) {
	if _, err := os.Lstat(filepath.Join(dir, torSecretFile)); err == nil {
		return OfflineKey{}, fmt.Errorf("opening key %q: the directory holds an identity key beside what a ceremony is for: move %s to where it belongs", dir, torSecretFile)
	}
	custodian, err := offline.Open(dir)
	if err != nil {
		return OfflineKey{}, fmt.Errorf("opening key %q: %w", dir, err)
	}
	return OfflineKey{custodian}, nil
}

// Form implements Custodian.
func (OfflineKey) Form() Form { return FormOffline }
