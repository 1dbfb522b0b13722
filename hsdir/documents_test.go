package hsdir

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
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
