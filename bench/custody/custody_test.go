package custody

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"path/filepath"
	"testing"
	"time"

	"onionbalancer/bench/cputime"
	"onionbalancer/bench/points"
	"onionbalancer/descriptor"
	"onionbalancer/keystore"
	"onionbalancer/keystore/offline"
)

// first is the number of the first period that is certified for.
var first = offline.Public.At(time.Now()).Number

// newKey writes a key to disk.
func newKey(b *testing.B) (dir string) {
	b.Helper()
	fresh, err := keystore.New(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	defer fresh.Wipe()
	dir = filepath.Join(b.TempDir(), "front")
	if err := fresh.WriteTor(dir); err != nil {
		b.Fatal(err)
	}
	return dir
}

func open(b *testing.B, ref string) keystore.Custodian {
	b.Helper()
	c, err := keystore.Open(ref)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := c.Close(); err != nil {
			b.Error(err)
		}
	})
	return c
}

// measure runs operation, to which it gives a number never given before, as
// often as the benchmark wants, and reports what it took. The first run, which
// may start a helper, does not count.
func measure(b *testing.B, operation func(n uint64) error) {
	b.Helper()
	n := uint64(0)
	if err := operation(n); err != nil {
		b.Fatal(err)
	}
	children := cputime.Children()
	cpu := cputime.Start()
	for b.Loop() {
		n++
		if err := operation(n); err != nil {
			b.Fatal(err)
		}
	}
	cpu.Report(b)
	b.ReportMetric(float64(cputime.Children()-children)/float64(b.N), cputime.ChildrenMetric)
}

// certify measures what a balancer asks of a custodian for each period: the
// certificates of its hours for a key that was made just now, and the revision-counter key.
func certify(b *testing.B, c keystore.Custodian) {
	b.Helper()
	seen := make(map[descriptor.HourlyCertificates]bool)
	measure(b, func(n uint64) error {
		public, _, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		p := offline.Public.Period(first + n)
		certs, err := c.Certify(b.Context(), p, public, offline.Public.Expiries(p.Number))
		if err != nil {
			return err
		}
		if seen[certs] || certs.First().Key() != [32]byte(public) {
			return errors.New("the certificates are not new ones")
		}
		seen[certs] = true
		_, err = c.RevisionKey(b.Context(), p)
		return err
	})
}

// BenchmarkCertify makes the certificates of a period, which every service needs once a
// day. Offline, they are not made but looked up and verified.
func BenchmarkCertify(b *testing.B) {
	b.Run("disk", func(b *testing.B) { certify(b, open(b, newKey(b))) })
	b.Run("sealed", sealedKeys)
	b.Run("offline", lookUp)
}

// lookUp goes through a directory with a thousand certificates again and again;
// the custodian remembers none.
func lookUp(b *testing.B) {
	const count = offline.MaxPeriods
	dir, now := filepath.Join(b.TempDir(), "front.offline"), time.Now()
	identity, err := descriptor.IdentityKeyFromSeed(points.RandomBytes(ed25519.SeedSize))
	if err != nil {
		b.Fatal(err)
	}
	wanted, err := offline.Prepare(b.Context(), offline.Preparation{Dir: dir, Address: identity.Address(), Schedule: offline.Public, First: first, Count: count})
	if err != nil {
		b.Fatal(err)
	}
	request, err := offline.NewRequest(now, offline.Public, first, []offline.Wanted{wanted})
	if err != nil {
		b.Fatal(err)
	}
	bundle, err := request.Sign([]*descriptor.IdentityKey{identity}, now)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := offline.Install([]string{dir}, []*offline.Bundle{bundle}, now); err != nil {
		b.Fatal(err)
	}
	c, err := offline.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	measure(b, func(n uint64) error {
		p := offline.Public.Period(first + n%count)
		if _, err := c.Certify(b.Context(), p, wanted.Keys[n%count], descriptor.Expiries{}); err != nil {
			return err
		}
		_, err := c.RevisionKey(b.Context(), p)
		return err
	})
}

// signatures measures signatures of a certificate's length.
func signatures(b *testing.B, signer crypto.Signer) {
	b.Helper()
	message := make([]byte, 76)
	measure(b, func(n uint64) error {
		binary.BigEndian.PutUint64(message, n)
		signature, err := signer.Sign(rand.Reader, message, crypto.Hash(0))
		if err == nil && len(signature) != ed25519.SignatureSize {
			err = errors.New("no signature")
		}
		return err
	})
}

// BenchmarkSign signs with descriptor-signing keys.
func BenchmarkSign(b *testing.B) {
	b.Run("memory", func(b *testing.B) { signatures(b, newSigner(b)) })
	b.Run("token", func(b *testing.B) { signatures(b, newTokenSigner(b)) })
}

func newSigner(b *testing.B) ed25519.PrivateKey {
	b.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	return key
}

// descriptors measures what a balancer does all day: one more descriptor of
// twenty introduction points that have not changed, for one HSDir.
func descriptors(b *testing.B, signer crypto.Signer) {
	b.Helper()
	c := open(b, newKey(b))
	p := offline.Public.Period(first)
	keys, err := c.Address().Keys(p)
	if err != nil {
		b.Fatal(err)
	}
	certs, err := c.Certify(b.Context(), p, signer.Public().(ed25519.PublicKey), offline.Public.Expiries(first))
	if err != nil {
		b.Fatal(err)
	}
	counted := &counter{Signer: signer}
	if _, ok := signer.(ed25519.PrivateKey); !ok {
		signer = counted
	}
	encoder, err := descriptor.NewHourlyEncoder(keys, certs, signer)
	if err != nil {
		b.Fatal(err)
	}
	contents, err := points.Contents(time.Now())
	if err != nil {
		b.Fatal(err)
	}
	measure(b, func(n uint64) error {
		counted.signatures = 0
		_, err := encoder.Encode(contents, 1+n, rand.Reader)
		if n > 0 && counted.signatures > 1 {
			err = errors.New("more than one signature for points that have not changed")
		}
		return err
	})
}

// counter counts the signatures of a signer that is not in our memory.
type counter struct {
	crypto.Signer
	signatures int
}

// Sign counts one more.
func (c *counter) Sign(random io.Reader, message []byte, options crypto.SignerOpts) ([]byte, error) {
	c.signatures++
	return c.Signer.Sign(random, message, options)
}

// BenchmarkDescriptor makes descriptors of unchanged points.
func BenchmarkDescriptor(b *testing.B) {
	b.Run("memory", func(b *testing.B) { descriptors(b, newSigner(b)) })
	b.Run("token", func(b *testing.B) { descriptors(b, newTokenSigner(b)) })
}
