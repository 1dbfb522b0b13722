package hsdir

import (
	"bytes"
	"context"
	"crypto/ed25519"
	cryptorand "crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"onionbalancer/descriptor"
)

// testRelay and testNetwork are what the documents of a test are written from.
type testRelay struct {
	Nickname    string
	Fingerprint [20]byte
	Ed25519     [32]byte
	Flags       []string
	Protocols   string
	Version     string // "Tor 0.4.9.11" when empty
	NoMicrodesc bool
	Padding     string // a further line of the microdescriptor
}

type testNetwork struct {
	ValidAfter, FreshUntil, ValidUntil time.Time
	Params                             []string
	Current, Previous                  *[32]byte
	Relays                             []testRelay
}

func b64(raw []byte) string { return base64.RawStdEncoding.EncodeToString(raw) }

func (r *testRelay) microdesc() []byte {
	var b bytes.Buffer
	ntor := sha256.Sum256(r.Ed25519[:])
	// The body of the RSA key is of the usual length, and only that.
	key := base64.StdEncoding.EncodeToString(bytes.Repeat(ntor[:], 5)[:140])
	fmt.Fprintf(&b, "onion-key\n-----BEGIN RSA PUBLIC KEY-----\n%s\n%s\n%s\n-----END RSA PUBLIC KEY-----\n",
		key[:64], key[64:128], key[128:])
	fmt.Fprintf(&b, "ntor-onion-key %s\n", b64(ntor[:]))
	if r.Padding != "" {
		b.WriteString(r.Padding + "\n")
	}
	if r.Ed25519 != [32]byte{} {
		fmt.Fprintf(&b, "id ed25519 %s\n", b64(r.Ed25519[:]))
	}
	return b.Bytes()
}

// documents writes the consensus and the microdescriptors of n.
func (n *testNetwork) documents() (consensus, microdescs []byte) {
	var c, m bytes.Buffer
	c.WriteString("network-status-version 3 microdesc\nvote-status consensus\nconsensus-method 34\n")
	fmt.Fprintf(&c, "valid-after %s\nfresh-until %s\nvalid-until %s\nvoting-delay 300 300\n",
		n.ValidAfter.UTC().Format(dirTimeLayout), n.FreshUntil.UTC().Format(dirTimeLayout), n.ValidUntil.UTC().Format(dirTimeLayout))
	c.WriteString("known-flags Authority Exit Fast Guard HSDir Running Stable V2Dir Valid\n")
	if len(n.Params) > 0 {
		fmt.Fprintf(&c, "params %s\n", strings.Join(n.Params, " "))
	}
	if n.Previous != nil {
		fmt.Fprintf(&c, "shared-rand-previous-value 9 %s=\n", b64(n.Previous[:]))
	}
	if n.Current != nil {
		fmt.Fprintf(&c, "shared-rand-current-value 9 %s=\n", b64(n.Current[:]))
	}
	c.WriteString("dir-source a1 14C131DFC5C6F93646BE72FA1401C02A8DF2E8B4 127.0.0.1 127.0.0.1 1 2\ncontact nobody\n")
	relays := slices.Clone(n.Relays)
	slices.SortFunc(relays, func(a, b testRelay) int { return bytes.Compare(a.Fingerprint[:], b.Fingerprint[:]) })
	for i := range relays {
		r := &relays[i]
		md := r.microdesc()
		digest := sha256.Sum256(md)
		version := r.Version
		if version == "" {
			version = "Tor 0.4.9.11"
		}
		fmt.Fprintf(&c, "r %s %s 2038-01-01 00:00:00 127.0.0.1 %d 0\na [::1]:9001\nm %s\ns %s\nv %s\npr %s\nw Bandwidth=%d\n",
			r.Nickname, b64(r.Fingerprint[:]), 5000+i, b64(digest[:]), strings.Join(r.Flags, " "), version, r.Protocols, i+1)
		if !r.NoMicrodesc {
			m.Write(md)
		}
	}
	c.WriteString("directory-footer\nbandwidth-weights Wbd=0\ndirectory-signature sha256 AA BB\n-----BEGIN SIGNATURE-----\nAAAA\n-----END SIGNATURE-----\n")
	return c.Bytes(), m.Bytes()
}

var hsdirFlags = []string{"Fast", "HSDir", "Running", "Stable", "V2Dir", "Valid"}

const fullProtocols = "Conflux=1 Cons=1-2 Desc=1-2 DirCache=2 FlowCtrl=1-2 HSDir=2 HSIntro=4-5 HSRend=1-2 Link=1-5 Relay=1-4"

// randomNetwork makes a network of n HSDirs on the public network's schedule.
func randomNetwork(n int, seed uint64, validAfter time.Time) *testNetwork {
	rng := rand.New(rand.NewPCG(seed, 1))
	net := &testNetwork{
		ValidAfter: validAfter, FreshUntil: validAfter.Add(time.Hour), ValidUntil: validAfter.Add(3 * time.Hour),
		Current: new([32]byte), Previous: new([32]byte),
	}
	fill(rng, net.Current[:])
	fill(rng, net.Previous[:])
	for i := range n {
		r := testRelay{Nickname: fmt.Sprintf("relay%d", i), Flags: hsdirFlags, Protocols: fullProtocols}
		fill(rng, r.Fingerprint[:])
		fill(rng, r.Ed25519[:])
		r.Padding = "family" + strings.Repeat(" $"+strings.ToUpper(hex.EncodeToString(r.Fingerprint[:])), i%5)
		net.Relays = append(net.Relays, r)
	}
	return net
}

func fill(rng *rand.Rand, b []byte) {
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
}

func (n *testNetwork) parse(t testing.TB, testing bool) *Consensus {
	t.Helper()
	c, err := new(Parser).Parse(first(n.documents()), second(n.documents()), testing)
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return c
}

func first(a, _ []byte) []byte  { return a }
func second(_, b []byte) []byte { return b }

var publicNoon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// readVectors reads a file of vectors; an empty one fails the test.
func readVectors(t testing.TB, name string, into any) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatalf("reading %s: %v", name, err)
	}
}

// hexBytes reads hexadecimal text out of JSON.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

func (h hexBytes) key() [32]byte { return [32]byte(h) }

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
	raw, err := e.Encode(&descriptor.Contents{Clients: clients}, revision, cryptorand.Reader)
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
