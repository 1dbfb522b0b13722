package custody

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"onionbalancer/bench/cputime"
	"onionbalancer/bench/points"
	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
	"onionbalancer/keystore"
	"onionbalancer/keystore/offline"
	"onionbalancer/keystore/pkcs11uri"
	"onionbalancer/keystore/sealed"
	"onionbalancer/keystore/token"
	"onionbalancer/keystore/token/tokentest"
)

// sealings are the methods of SoftHSM, each with the kind of key that it needs.
var sealings = []struct {
	method token.Method
	kind   tokentest.Kind
}{
	{token.MethodAESGCM, tokentest.AES},
	{token.MethodAESKeyWrap, tokentest.AES},
	{token.MethodOAEPSHA1, tokentest.RSA},
	{token.MethodECDHP256, tokentest.P256},
}

// sealedKeys certifies with keys that a token unseals every time.
func sealedKeys(b *testing.B) {
	for _, s := range sealings {
		b.Run(string(s.method), func(b *testing.B) {
			hsm := tokentest.New(b)
			hsm.Make(b, s.kind, "wrap", "01")
			path := filepath.Join(b.TempDir(), "front.sealed")
			uri := hsm.URI("wrap")
			sealTo(b, path, uri, s.method)
			certify(b, open(b, uri+"&x-sealed="+url.QueryEscape(path)))
		})
	}
}

// sealTo writes a new key, sealed by the token's key that uri names.
func sealTo(b *testing.B, path, ref string, method token.Method) {
	b.Helper()
	uri, err := pkcs11uri.Parse(ref)
	if err != nil {
		b.Fatal(err)
	}
	tok, err := token.Open(uri)
	if err != nil {
		b.Fatal(err)
	}
	defer tok.Close()
	identity, err := descriptor.IdentityKeyFromSeed(points.RandomBytes(ed25519.SeedSize))
	if err != nil {
		b.Fatal(err)
	}
	defer identity.Wipe()
	object := token.ObjectOf(uri)
	with := token.WrappingKey{Object: object, Methods: []token.Method{method}}
	file, err := sealed.Seal(identity, token.SelectorOf(uri), with, time.Now(), func(m token.Method, dataKey *locked.Buffer) ([]byte, error) {
		return tok.Wrap(b.Context(), object, m, dataKey)
	}, rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	raw, err := file.Encode()
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		b.Fatal(err)
	}
}

// newTokenSigner returns a descriptor-signing key in a token.
func newTokenSigner(b *testing.B) crypto.Signer {
	b.Helper()
	keys, err := keystore.OpenSigning(tokentest.New(b).URI(""), descriptor.Address{1}, b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := keys.Close(); err != nil {
			b.Error(err)
		}
	})
	signer, err := keys.SigningKey(b.Context(), offline.Public.Period(first))
	if err != nil {
		b.Fatal(err)
	}
	return signer
}

// together is how many keys certify at once in BenchmarkCertifyTogether.
const together = 256

// BenchmarkCertifyTogether has many sealed keys certify at once, as the customers of a shard do
// when a period begins. One operation is one certification.
func BenchmarkCertifyTogether(b *testing.B) {
	b.Run("sealed", func(b *testing.B) {
		b.Run("apart", func(b *testing.B) { certifyTogether(b, 1) })
		b.Run("together", func(b *testing.B) { certifyTogether(b, together) })
	})
}

// certifyTogether certifies by keys of which each group of the given size was sealed together,
// with RSA.
func certifyTogether(b *testing.B, group int) {
	hsm := tokentest.New(b)
	hsm.Make(b, tokentest.RSA, "wrap", "01")
	refs := sealMany(b, hsm.URI("wrap"), together, group)
	custodians := keystore.OpenAll(b.Context(), refs, nil)
	for _, c := range custodians {
		if c.Err != nil {
			b.Fatal(c.Err)
		}
		defer c.Custodian.Close()
	}
	n := uint64(0)
	certifyAll := func(custodians []keystore.Opened) {
		n++
		var all errgroup.Group
		for _, c := range custodians {
			all.Go(func() error {
				public, _, err := ed25519.GenerateKey(rand.Reader)
				if err == nil {
					p := offline.Public.Period(first + n)
					_, err = c.Custodian.Certify(b.Context(), p, public, offline.Public.Expiries(p.Number))
				}
				return err
			})
		}
		if err := all.Wait(); err != nil {
			b.Fatal(err)
		}
	}
	certifyAll(custodians)
	children := cputime.Children()
	cpu := cputime.Start()
	b.ResetTimer()
	for done := 0; done < b.N; done += together {
		certifyAll(custodians[:min(together, b.N-done)])
	}
	cpu.Report(b)
	b.ReportMetric(float64(cputime.Children()-children)/float64(b.N), cputime.ChildrenMetric)
}

// sealMany returns the references of n new keys, sealed by the token's key that ref names, each
// group of them together.
func sealMany(b *testing.B, ref string, n, group int) (refs []string) {
	b.Helper()
	uri, err := pkcs11uri.Parse(ref)
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	path := func(a descriptor.Address) string {
		at := filepath.Join(dir, a.String())
		refs = append(refs, ref+"&x-sealed="+url.QueryEscape(at))
		return at
	}
	for len(refs) < n {
		if _, err := keystore.SealNew(b.Context(), uri, group, path); err != nil {
			b.Fatal(err)
		}
	}
	return refs
}

// BenchmarkOpenAll opens keys as a start does, many at once. One operation is one key.
func BenchmarkOpenAll(b *testing.B) {
	b.Run("disk", func(b *testing.B) {
		refs := make([]string, 100)
		for n := range refs {
			refs[n] = newKey(b)
		}
		openAll(b, refs)
	})
	b.Run("sealed", func(b *testing.B) {
		hsm := tokentest.New(b)
		hsm.Make(b, tokentest.AES, "wrap", "01")
		openAll(b, sealMany(b, hsm.URI("wrap"), 100, 100))
	})
}

func openAll(b *testing.B, refs []string) {
	cpu := cputime.Start()
	b.ResetTimer()
	for done := 0; done < b.N; done += len(refs) {
		for _, o := range keystore.OpenAll(b.Context(), refs[:min(len(refs), b.N-done)], nil) {
			if o.Err != nil {
				b.Fatal(o.Err)
			}
			o.Custodian.Close()
		}
	}
	cpu.Report(b)
}
