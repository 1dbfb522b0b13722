package descriptor

import (
	"crypto/ed25519"
	"fmt"
	"io"
)

// Check returns the error that Encode would give of c itself, and asks the
// signer for nothing: one that is slow need not be asked in vain.
func (e *Encoder) Check(c *Contents, revision uint64, random io.Reader) error {
	blank := func([]byte, ...[]byte) ([]byte, error) { return make([]byte, ed25519.SignatureSize), nil }
	trial := &Encoder{MaxSize: e.MaxSize, keys: e.keys, cert: e.cert, public: e.public, points: make(map[string]string)}
	if _, err := trial.encodeSigned(c, revision, random, blank); err != nil {
		return fmt.Errorf("encoding a descriptor: %w", err)
	}
	return nil
}
