package descriptor

import (
	"bytes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"slices"

	"onionbalancer/internal/locked"
)

// ClientKey is the x25519 secret with which a client reads the descriptors of
// a service that authorizes it (rend-spec-v3, section 2.5.1.2). It neither
// prints nor marshals. It is safe for concurrent use.
type ClientKey struct {
	redacted
	secret func() *ecdh.PrivateKey // behind a closure, as sealed
	// address is the service that the .auth_private file names.
	address    Address
	hasAddress bool
}

// AuthorizedClient is the public half of a client's key: who may read a
// descriptor.
type AuthorizedClient struct {
	PublicKey [32]byte // x25519
}

// keyPrefix stands before a key in tor's files, after the address if there is one.
const keyPrefix = "descriptor:x25519:"

// clientKeyText is how tor's files have keys.
var clientKeyText = base32.StdEncoding.WithPadding(base32.NoPadding)

// errClientKeyText lists the forms, and never repeats the input.
var errClientKeyText = errors.New(`want "ADDRESS:descriptor:x25519:KEY", "descriptor:x25519:KEY" or KEY, where KEY is 52 base32 characters`)

// ParseClientKey reads a client's secret key: the content of one of tor's
// .auth_private files, or the base32 key that stands in it.
func ParseClientKey(text []byte) (*ClientKey, error) {
	address, key, err := parseKeyText(text)
	if err != nil {
		return nil, fmt.Errorf("reading client key: %w", err)
	}
	defer clear(key)
	secret, err := ecdh.X25519().NewPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("reading client key: %w", err)
	}
	k := newClientKey(secret)
	if address != nil {
		k.address, k.hasAddress = *address, true
	}
	return k, nil
}

// NewClientKey makes a key from random, crypto/rand.Reader but in tests.
func NewClientKey(random io.Reader) (*ClientKey, error) {
	secret, err := newX25519(random)
	if err != nil {
		return nil, fmt.Errorf("making a client key: %w", err)
	}
	return newClientKey(secret), nil
}

func newClientKey(secret *ecdh.PrivateKey) *ClientKey {
	return &ClientKey{secret: func() *ecdh.PrivateKey { return secret }}
}

// Address returns the service that the key is for, if the file said so.
func (k *ClientKey) Address() (Address, bool) { return k.address, k.hasAddress }

// Client returns the public half, which the service is given.
func (k *ClientKey) Client() AuthorizedClient {
	return AuthorizedClient{PublicKey: [32]byte(k.secret().PublicKey().Bytes())}
}

// Secret returns a copy of the key's 32 bytes in locked memory, for a tor that visits the
// service. The caller wipes it.
func (k *ClientKey) Secret() *locked.Buffer {
	b := locked.New(32)
	b.Do(func(kept []byte) {
		secret := k.secret().Bytes()
		copy(kept, secret)
		clear(secret)
	})
	return b
}

// Text returns the secret as its holder enters it into Tor Browser. After
// "LABEL:descriptor:x25519:", with the service's Address.Label, it is what one of
// tor's .auth_private files contains. The caller clears it.
func (k *ClientKey) Text() []byte {
	secret := k.secret().Bytes()
	defer clear(secret)
	return clientKeyText.AppendEncode(nil, secret)
}

// String returns the content of one of tor's .auth files.
func (c AuthorizedClient) String() string {
	return keyPrefix + clientKeyText.EncodeToString(c.PublicKey[:])
}

// Equal reports whether k and other are the same secret, in constant time.
func (k *ClientKey) Equal(other *ClientKey) bool {
	return subtle.ConstantTimeCompare(k.secret().Bytes(), other.secret().Bytes()) == 1
}

var errClientSecret = errors.New("an address stands before the key, as in the .auth_private file of a client, whose key is a secret")

// ParseAuthorizedClient reads a client's public key: the content of one of
// tor's .auth files, or the base32 key that stands in it.
func ParseAuthorizedClient(text []byte) (AuthorizedClient, error) {
	address, key, err := parseKeyText(text)
	switch {
	case err != nil:
	case address != nil:
		err = errClientSecret
	default:
		err = checkX25519([32]byte(key))
	}
	if err != nil {
		return AuthorizedClient{}, fmt.Errorf("reading an authorized client: %w", err)
	}
	return AuthorizedClient{PublicKey: [32]byte(key)}, nil
}

// maxKeyText is more than twice the length of the longest form.
const maxKeyText = 512 // bytes

// parseKeyText reads the text form that both halves share. The key has 32
// bytes.
func parseKeyText(text []byte) (*Address, []byte, error) {
	if len(text) > maxKeyText {
		return nil, nil, errClientKeyText
	}
	var address *Address
	fields := bytes.Split(text, []byte(":"))
	for i := range fields {
		fields[i] = bytes.TrimSpace(fields[i]) // as tor does
	}
	if len(fields) == 4 {
		a, err := ParseAddress(string(fields[0]))
		if err != nil {
			return nil, nil, err
		}
		address, fields = &a, fields[1:]
	}
	if len(fields) == 3 {
		if string(fields[0]) != "descriptor" || string(fields[1]) != "x25519" {
			return nil, nil, errClientKeyText
		}
		fields = fields[2:]
	}
	if len(fields) != 1 || len(fields[0]) != 52 {
		return nil, nil, errClientKeyText
	}
	key := make([]byte, 33)
	n, err := clientKeyText.Decode(key, bytes.ToUpper(fields[0]))
	if err != nil || n != 32 {
		clear(key)
		return nil, nil, errClientKeyText
	}
	return address, key[:32], nil
}

// authMultiple is what the number of auth-client lines is rounded up to, so
// that it does not tell how many clients there are, or whether any.
const authMultiple = 16

// authEntries is how many auth-client lines there are for that many clients.
func authEntries(clients int) int {
	return max(1, (clients+authMultiple-1)/authMultiple) * authMultiple
}

// authSection is the part of the first layer that authorizes clients. tor makes
// it again with the client list and keeps it from upload to upload, and so do we.
type authSection struct {
	clients   []AuthorizedClient
	ephemeral [32]byte
	entries   []AuthClient // of a restricted service
	cookie    []byte       // of a restricted service
	seed      [32]byte     // of a public service's entries, which are random
}

// lines returns the entries. Those of a public service take memory only while they
// are used.
func (a *authSection) lines() []AuthClient {
	if len(a.clients) > 0 {
		return a.entries
	}
	entries := make([]AuthClient, authEntries(0))
	random := mathrand.NewChaCha8(a.seed)
	for i := range entries {
		_ = entries[i].randomize(random) // never fails
	}
	return entries
}

// authFor returns the section for the given clients. Neither their order nor one
// that is there twice makes another: the entries would change for no reason, and
// two of one name would be no random ones.
func (e *Encoder) authFor(clients []AuthorizedClient, random io.Reader) (*authSection, error) {
	clients = sortedClients(clients)
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

// sortedClients returns the clients by key, each once.
func sortedClients(clients []AuthorizedClient) []AuthorizedClient {
	clients = slices.Clone(clients)
	slices.SortFunc(clients, func(a, b AuthorizedClient) int { return bytes.Compare(a.PublicKey[:], b.PublicKey[:]) })
	return slices.Compact(clients)
}

func newAuthSection(s Subcredential, clients []AuthorizedClient, random io.Reader) (*authSection, error) {
	secret, err := newX25519(random)
	if err != nil {
		return nil, err
	}
	auth := &authSection{clients: clients, ephemeral: [32]byte(secret.PublicKey().Bytes())}
	if len(clients) == 0 {
		_, err := io.ReadFull(random, auth.seed[:])
		return auth, err
	}
	auth.cookie = make([]byte, cookieSize)
	if _, err := io.ReadFull(random, auth.cookie); err != nil {
		return nil, err
	}
	auth.entries = make([]AuthClient, authEntries(len(clients)))
	for i := range auth.entries {
		if err := auth.entries[i].fill(s, secret, clients, i, auth.cookie, random); err != nil {
			return nil, err
		}
	}
	return auth, shuffle(auth.entries, random)
}

// fill makes the entry of client number i, or a random entry if there is none.
func (c *AuthClient) fill(s Subcredential, secret *ecdh.PrivateKey, clients []AuthorizedClient, i int, cookie []byte, random io.Reader) error {
	if err := c.randomize(random); err != nil || i >= len(clients) {
		return err
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

func (c *AuthClient) randomize(random io.Reader) error {
	for _, b := range [][]byte{c.ID[:], c.IV[:], c.EncryptedCookie[:]} {
		if _, err := io.ReadFull(random, b); err != nil {
			return err
		}
	}
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
