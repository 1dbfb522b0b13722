package offline

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
)

// noon is the beginning of a period of the public network.
var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// current is that period.
var current = Public.At(noon).Number

// identity returns the same key for the same name.
func identity(t testing.TB, name string) *descriptor.IdentityKey {
	t.Helper()
	seed := sha256.Sum256([]byte("identity " + name))
	key, err := descriptor.IdentityKeyFromSeed(seed[:])
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// randomness is the same bytes for the same name.
func randomness(name string) *rand.ChaCha8 { return rand.NewChaCha8(sha256.Sum256([]byte(name))) }

// manager is a directory for the key of a name.
type manager struct {
	t   testing.TB
	key *descriptor.IdentityKey
	dir string
}

func newManager(t testing.TB, name string) *manager {
	t.Helper()
	return &manager{t: t, key: identity(t, name), dir: filepath.Join(t.TempDir(), name)}
}

func (m *manager) prepare(first uint64, count int) Wanted {
	m.t.Helper()
	w, err := Prepare(m.t.Context(), Preparation{Dir: m.dir, Address: m.key.Address(), Schedule: Public, First: first, Count: count})
	if err != nil {
		m.t.Fatal(err)
	}
	return w
}

// request makes the request for count periods from first on.
func (m *manager) request(now time.Time, first uint64, count int) *Request {
	m.t.Helper()
	return request(m.t, now, first, m.prepare(first, count))
}

func request(t testing.TB, now time.Time, first uint64, wanted ...Wanted) *Request {
	t.Helper()
	r, err := NewRequest(now, Public, first, wanted)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func sign(t testing.TB, r *Request, now time.Time, keys ...*descriptor.IdentityKey) *Bundle {
	t.Helper()
	b, err := r.Sign(keys, now)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// ceremony is all of one: request, signature, installation.
func (m *manager) ceremony(now time.Time, first uint64, count int) Installed {
	m.t.Helper()
	b := sign(m.t, m.request(now, first, count), now, m.key)
	list, err := Install([]string{m.dir}, []*Bundle{b}, now)
	if err != nil || len(list) != 1 {
		m.t.Fatal(list, err)
	}
	return list[0]
}

func (m *manager) open() *Custodian {
	m.t.Helper()
	c, err := Open(m.dir)
	if err != nil {
		m.t.Fatal(err)
	}
	return c
}

// certify asks c for what a balancer does, and returns the certificates.
func certify(t testing.TB, c *Custodian, number uint64) (descriptor.HourlyCertificates, error) {
	t.Helper()
	p := Public.Period(number)
	signer, err := c.SigningKey(t.Context(), p)
	if err != nil {
		return descriptor.HourlyCertificates{}, err
	}
	certs, err := c.Certify(t.Context(), p, signer.Public().(ed25519.PublicKey), descriptor.Expiries{})
	if err == nil {
		_, err = c.RevisionKey(t.Context(), p)
	}
	return certs, err
}

func wantError(t testing.TB, what string, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", what)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%s: error %q does not say %q", what, err, part)
		}
	}
}

// snapshot returns the content of every file below dir.
func snapshot(t testing.TB, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		fmt.Fprintf(&all, "%s\n%s\n", path, raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}
