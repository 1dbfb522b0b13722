package descriptor

import (
	"bytes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"fmt"
	"io"
	"math/big"
	"slices"
)

// authMultiple is what the number of auth-client lines is rounded up to, so
// that it does not tell how many clients there are, or whether any.
const authMultiple = 16

// authEntries is how many auth-client lines there are for that many clients.
func authEntries(clients int) int {
	return max(1, (clients+authMultiple-1)/authMultiple) * authMultiple
}

// authSection is the part of the first layer that authorizes clients. tor makes
// it anew with the client list and keeps it from upload to upload, and so do we.
type authSection struct {
	clients []AuthorizedClient
	text    []byte // up to the encrypted line
	cookie  []byte // nil for a public service
}

// authFor returns the section for the given clients. Neither their order nor one
// that is there twice makes another: the entries would change for no reason, and
// two of one name would be no random ones.
func (e *Encoder) authFor(clients []AuthorizedClient, random io.Reader) (*authSection, error) {
	clients = slices.Clone(clients)
	slices.SortFunc(clients, func(a, b AuthorizedClient) int { return bytes.Compare(a.PublicKey[:], b.PublicKey[:]) })
	clients = slices.Compact(clients)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.auth != nil && slices.Equal(e.auth.clients, clients) {
		return e.auth, nil
	}
	auth, err := newAuthSection(e.keys.Subcredential, clients, random)
	if err != nil {
		return nil, fmt.Errorf("authorizing clients: %w", err)
	}
	e.auth = auth
	return auth, nil
}

func newAuthSection(s Subcredential, clients []AuthorizedClient, random io.Reader) (*authSection, error) {
	secret, err := newX25519(random)
	if err != nil {
		return nil, err
	}
	auth := &authSection{clients: clients}
	if len(clients) > 0 {
		auth.cookie = make([]byte, cookieSize)
		if _, err := io.ReadFull(random, auth.cookie); err != nil {
			return nil, err
		}
	}
	entries := make([]AuthClient, authEntries(len(clients)))
	for i := range entries {
		if err := entries[i].fill(s, secret, clients, i, auth.cookie, random); err != nil {
			return nil, err
		}
	}
	if err := shuffle(entries, random); err != nil {
		return nil, err
	}
	auth.text = appendAuth(nil, [32]byte(secret.PublicKey().Bytes()), entries)
	return auth, nil
}

// fill makes the entry of client number i, or for want of one a random entry.
func (c *AuthClient) fill(s Subcredential, secret *ecdh.PrivateKey, clients []AuthorizedClient, i int, cookie []byte, random io.Reader) error {
	for _, b := range [][]byte{c.ID[:], c.IV[:], c.EncryptedCookie[:]} {
		if _, err := io.ReadFull(random, b); err != nil {
			return err
		}
	}
	if i >= len(clients) {
		return nil
	}
	if err := checkX25519(clients[i].PublicKey); err != nil {
		return fmt.Errorf("client %d: %w", i+1, err)
	}
	id, block, err := clientSecrets(s, secret, clients[i].PublicKey)
	if err != nil {
		return fmt.Errorf("client %d: %w", i+1, err)
	}
	c.ID = id
	cipher.NewCTR(block, c.IV[:]).XORKeyStream(c.EncryptedCookie[:], cookie)
	return nil
}

// newX25519 makes a key from random itself: the standard library's generator
// would not be told by a test where to take it from.
func newX25519(random io.Reader) (*ecdh.PrivateKey, error) {
	var b [32]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return nil, err
	}
	return ecdh.X25519().NewPrivateKey(b[:])
}

// shuffle hides which entries are real.
func shuffle(entries []AuthClient, random io.Reader) error {
	for i := len(entries) - 1; i > 0; i-- {
		j, err := rand.Int(random, big.NewInt(int64(i+1)))
		if err != nil {
			return err
		}
		entries[i], entries[j.Int64()] = entries[j.Int64()], entries[i]
	}
	return nil
}
