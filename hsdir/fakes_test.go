package hsdir

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base32"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"onionbalancer/descriptor"
)

// testService is an onion service that can make descriptors.
type testService struct {
	identity *descriptor.IdentityKey
	signing  ed25519.PrivateKey
}

func newTestService(t testing.TB, seed byte) *testService {
	t.Helper()
	id, err := descriptor.IdentityKeyFromSeed(slices.Repeat([]byte{seed}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return &testService{id, ed25519.NewKeyFromSeed(slices.Repeat([]byte{seed ^ 0xff}, 32))}
}

func (s *testService) keys(t testing.TB, p descriptor.Period) descriptor.PeriodKeys {
	t.Helper()
	keys, err := s.identity.Address().Keys(p)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// encode makes a descriptor without introduction points.
func (s *testService) encode(t testing.TB, p descriptor.Period, revision uint64, clients ...descriptor.AuthorizedClient) []byte {
	t.Helper()
	blinded, err := s.identity.Blind(p)
	if err != nil {
		t.Fatal(err)
	}
	public := [32]byte(s.signing.Public().(ed25519.PublicKey))
	sign := func(msg []byte) ([]byte, error) { return blinded.Sign(msg), nil }
	cert, err := descriptor.NewCertificate(descriptor.CertHSDescSigning, public, blinded.Public(), publicNoon.Add(54*time.Hour), sign)
	if err != nil {
		t.Fatal(err)
	}
	e, err := descriptor.NewEncoder(s.keys(t, p), cert, s.signing)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := e.Encode(&descriptor.Contents{}, revision, clients, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func testClientKey(t testing.TB, fillByte byte) *descriptor.ClientKey {
	t.Helper()
	raw := slices.Repeat([]byte{fillByte}, 32)
	key, err := descriptor.ParseClientKey([]byte(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(raw)))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// reasonError is what the control port's client returns for a failed event.
type reasonError string

func (e reasonError) Error() string  { return "tor says " + string(e) }
func (e reasonError) Reason() string { return string(e) }

// behaviour is how an HSDir answers a fetch or an upload.
type behaviour func(ctx context.Context, body []byte) ([]byte, error)

func sends(raw []byte) behaviour {
	return func(context.Context, []byte) ([]byte, error) { return raw, nil }
}

func fails(err error) behaviour {
	return func(context.Context, []byte) ([]byte, error) { return nil, err }
}

func silent(ctx context.Context, _ []byte) ([]byte, error) {
	<-ctx.Done()
	return nil, fmt.Errorf("waiting for tor: %w", ctx.Err())
}

func slowly(d time.Duration, then behaviour) behaviour {
	return func(ctx context.Context, body []byte) ([]byte, error) {
		select {
		case <-time.After(d):
			return then(ctx, body)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// call is one fetch or upload that fakeTor saw.
type call struct {
	address, hsdir string
	at             time.Time
	body           string
}

// fakeTor is a control port: every HSDir behaves as told, or as otherwise.
type fakeTor struct {
	otherwise behaviour

	mu       sync.Mutex
	hsdirs   map[string]behaviour // by fingerprint
	calls    []call
	inFlight int
	most     int             // ever in flight
	routes   map[string]bool // in flight
	clash    bool            // two at a time on one route
}

func (f *fakeTor) set(hsdir [20]byte, b behaviour) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hsdirs == nil {
		f.hsdirs = map[string]behaviour{}
	}
	f.hsdirs[upperHex(hsdir[:])] = b
}

func (f *fakeTor) setAll(b behaviour) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.otherwise = b
}

func (f *fakeTor) serve(ctx context.Context, address, hsdir string, body []byte) ([]byte, error) {
	f.mu.Lock()
	f.calls = append(f.calls, call{address, hsdir, time.Now(), string(body)})
	b, ok := f.hsdirs[hsdir]
	if !ok {
		b = f.otherwise
	}
	if f.routes == nil {
		f.routes = map[string]bool{}
	}
	at := address + " " + hsdir
	f.clash = f.clash || f.routes[at]
	f.routes[at] = true
	f.inFlight++
	f.most = max(f.most, f.inFlight)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.inFlight--
		delete(f.routes, at)
	}()
	return b(ctx, body)
}

func (f *fakeTor) HSFetch(ctx context.Context, address, hsdir string) ([]byte, error) {
	return f.serve(ctx, address, hsdir, nil)
}

func (f *fakeTor) HSPost(ctx context.Context, address, hsdir string, body []byte) error {
	_, err := f.serve(ctx, address, hsdir, body)
	return err
}

// seen returns the calls so far.
func (f *fakeTor) seen() []call {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// atMost returns how many calls were ever in flight at a time.
func (f *fakeTor) atMost() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.most
}

// count returns how often each HSDir was called.
func (f *fakeTor) count() map[string]int {
	counts := map[string]int{}
	for _, c := range f.seen() {
		counts[c.hsdir]++
	}
	return counts
}

func names(outcomes []QueryResult) string {
	var list []string
	for _, a := range outcomes {
		list = append(list, a.Outcome.String())
	}
	slices.Sort(list)
	return strings.Join(list, ",")
}
