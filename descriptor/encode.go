package descriptor

import (
	"crypto"
	"errors"
	"io"
)

// Encoder makes the descriptors of one service and period, signed with one
// descriptor-signing key. It keeps what stays the same from one descriptor to
// the next. It is safe for concurrent use.
type Encoder struct {
	// MaxSize is the limit in bytes; 0 stands for the constant MaxSize. It is
	// set before the first Encode.
	MaxSize int

	keys Keys
}

// NewEncoder takes the certificate of type 08 by which the blinded key of keys
// certifies the descriptor-signing key, and the signer of that key. The
// signer's public key is an ed25519.PublicKey.
func NewEncoder(keys Keys, cert Certificate, signer crypto.Signer) (*Encoder, error) {
	return nil, errors.New("pending")
}

// Encode makes one descriptor, encrypted with fresh salts: every upload gets
// one of its own. It refuses what clients would refuse.
func (e *Encoder) Encode(c *Contents, revision uint64, clients []AuthorizedClient, random io.Reader) ([]byte, error) {
	return nil, errors.New("pending")
}
