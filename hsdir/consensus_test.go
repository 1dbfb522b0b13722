package hsdir

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// edit replaces text in a document, and fails the test if it is not there.
func edit(t testing.TB, doc []byte, old, new string) []byte {
	t.Helper()
	if !bytes.Contains(doc, []byte(old)) {
		t.Fatalf("the document does not contain %q", old)
	}
	return bytes.Replace(doc, []byte(old), []byte(new), 1)
}

func TestParse(t *testing.T) {
	net := randomNetwork(5, 3, publicNoon)
	net.Params = []string{"cc_alg=0", "cc_sendme_inc=250", "hsdir_n_replicas=3", "hsdir_spread_fetch=2", "hsdir_spread_store=5", "unknown=-1"}
	c := net.parse(t, false)
	if !c.ValidAfter.Equal(publicNoon) || c.VotingInterval() != time.Hour || !c.ValidUntil.Equal(publicNoon.Add(3*time.Hour)) {
		t.Errorf("times %v %v %v", c.ValidAfter, c.FreshUntil, c.ValidUntil)
	}
	want := Params{24 * time.Hour, 3, 5, 2, 50000, 250, CCSendme}
	if c.Params != want || c.Params.CongestionControl() {
		t.Errorf("params %+v, want %+v", c.Params, want)
	}
	if *c.SharedRandomCurrent != *net.Current || *c.SharedRandomPrevious != *net.Previous {
		t.Error("shared random values are not those of the consensus")
	}
	if len(c.HSDirs) != 5 || c.Coverage.Listed != 5 || c.Coverage.Relays != 5 {
		t.Errorf("HSDirs %v, coverage %+v", c.HSDirs, c.Coverage)
	}
	for _, r := range net.Relays {
		if !slices.Contains(c.HSDirs, Relay{r.Fingerprint, r.Ed25519, r.Nickname}) {
			t.Errorf("relay %s is missing", r.Nickname)
		}
	}
}

// TestWhoIsInTheRing goes through what makes tor leave a relay out.
func TestWhoIsInTheRing(t *testing.T) {
	for _, test := range []struct {
		name     string
		change   func(*testRelay)
		in       bool
		coverage Coverage
	}{
		{"ordinary", func(*testRelay) {}, true, Coverage{Relays: 3, Listed: 3}},
		{"protocol in a range", func(r *testRelay) { r.Protocols = "Cons=1 HSDir=1-3,7 Link=1" }, true, Coverage{Relays: 3, Listed: 3}},
		{"other software", func(r *testRelay) { r.Version = "Arti 0.1.0" }, true, Coverage{Relays: 3, Listed: 3}},
		{"odd version", func(r *testRelay) { r.Version = "Tor 0.x" }, true, Coverage{Relays: 3, Listed: 3}},
		{"first good version", func(r *testRelay) { r.Version = "Tor 0.3.0.8-dev (git-12)" }, true, Coverage{Relays: 3, Listed: 3}},
		{"broken version", func(r *testRelay) { r.Version = "Tor 0.3.0.7" }, false, Coverage{Relays: 3, Listed: 2}},
		{"no flag", func(r *testRelay) { r.Flags = []string{"HSDirectory", "Running"} }, false, Coverage{Relays: 3, Listed: 2}},
		{"old protocol", func(r *testRelay) { r.Protocols = "HSDir=1 HSIntro=3" }, false, Coverage{Relays: 3, Listed: 2}},
		{"newer protocols alone", func(r *testRelay) { r.Protocols = "HSDir=3-4" }, false, Coverage{Relays: 3, Listed: 2}},
		{"no protocol", func(r *testRelay) { r.Protocols = "HSIntro=3" }, false, Coverage{Relays: 3, Listed: 2}},
		{"no microdescriptor", func(r *testRelay) { r.NoMicrodesc = true }, false, Coverage{Relays: 3, Listed: 3, Missing: 1}},
		{"no Ed25519 identity", func(r *testRelay) { r.Ed25519 = [32]byte{} }, false, Coverage{Relays: 3, Listed: 3, NoIdentity: 1}},
		{"two Ed25519 identities", func(r *testRelay) { r.Padding = "id ed25519 " + b64(make([]byte, 32)) }, false,
			Coverage{Relays: 3, Listed: 3, Missing: 1, BadMicrodescs: 1}},
		{"malformed identity", func(r *testRelay) { r.Padding, r.Ed25519 = "id ed25519 x", [32]byte{} }, false,
			Coverage{Relays: 3, Listed: 3, Missing: 1, BadMicrodescs: 1}},
		{"another kind of identity", func(r *testRelay) { r.Padding = "id rsa1024 x" }, true, Coverage{Relays: 3, Listed: 3}},
	} {
		t.Run(test.name, func(t *testing.T) {
			net := randomNetwork(3, 4, publicNoon)
			test.change(&net.Relays[1])
			c := net.parse(t, false)
			in := slices.ContainsFunc(c.HSDirs, func(r Relay) bool { return r.Fingerprint == net.Relays[1].Fingerprint })
			if in != test.in {
				t.Errorf("in the ring: %v, want %v", in, test.in)
			}
			if test.coverage.BadMicrodescs > 0 && c.Coverage.Reason == nil {
				t.Error("no reason for the bad microdescriptor")
			}
			c.Coverage.Reason = nil
			if c.Coverage != test.coverage {
				t.Errorf("coverage %+v, want %+v", c.Coverage, test.coverage)
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	net := randomNetwork(3, 5, publicNoon)
	net.Params = []string{"a=1", "hsdir_interval=1440"}
	consensus, microdescs := net.documents()
	line := func(keyword string) string {
		for l := range strings.Lines(string(consensus)) {
			if strings.HasPrefix(l, keyword+" ") {
				return l
			}
		}
		t.Fatalf("no %s line", keyword)
		return ""
	}
	for _, test := range []struct {
		name, old, new string
		line           int
		says           string
	}{
		{"another document", "network-status-version 3", "router-status-version 3", 1, "not how a consensus begins"},
		{"other flavour", "3 microdesc", "3", 1, "flavour"},
		{"a vote", "vote-status consensus", "vote-status vote", 2, "kind \"vote\""},
		{"bad time", "valid-after 2026-11-20 12", "valid-after 2026-11-20T12", 4, "valid-after"},
		{"impossible time", "valid-after 2026-11-20", "valid-after 2026-13-20", 4, "valid-after"},
		{"missing time", "fresh-until", "fresh-untill", 0, "no fresh-until line"},
		{"time twice", "valid-until", "valid-after 2026-11-20 12:00:00\nvalid-until", 6, "second valid-after"},
		{"no interval", "fresh-until 2026-11-20 13", "fresh-until 2026-11-20 12", 0, "voting interval"},
		{"turned around", "valid-until 2026-11-20 15", "valid-until 2026-11-20 11", 0, "valid from"},
		{"params order", "a=1 hsdir_interval=1440", "hsdir_interval=1440 a=1", 9, "out of order"},
		{"params twice", "a=1", "a=1 a=2", 9, "there twice"},
		{"params word", "a=1", "a", 9, "malformed parameter"},
		{"params too large", "a=1", "a=2147483648", 9, "malformed parameter"},
		{"shared random words", "shared-rand-current-value 9", "shared-rand-current-value", 11, "not a number of reveals"},
		{"short r line", line("r"), "r relay AAAA\n", 14, "r line of 2 words"},
		{"bad nickname", "r relay", "r re-lay", 14, "not a nickname"},
		{"bad identity", line("r"), "r a *** 2038-01-01 00:00:00 127.0.0.1 1 0\n", 14, "not base64"},
		{"long identity", line("r"), "r a " + strings.Repeat("A", 28) + " 2038-01-01 00:00:00 127.0.0.1 1 0\n", 14, "not base64"},
		{"bad digest", line("m"), "m AAAA\n", 16, "microdescriptor digest"},
		{"protocols", line("pr"), "pr HSDir=2-1\n", 19, "list of protocols"},
		{"protocol words", line("pr"), "pr HSDir\n", 19, "list of protocols"},
		{"two s lines", line("s"), line("s") + line("s"), 18, "came before"},
		{"no s line", line("s"), "", 20, "no s line"},
		{"cut off", "directory-footer", "x", 0, "cut off"},
		{"relay twice", line("r"), line("r") + "s HSDir\npr HSDir=2\n" + line("r"), 17, "there twice"},
	} {
		t.Run(test.name, func(t *testing.T) {
			bad := edit(t, consensus, test.old, test.new)
			if test.name == "cut off" {
				bad = bad[:bytes.Index(bad, []byte("\nx"))]
			}
			c, err := new(Parser).Parse(bad, microdescs, false)
			var parse *ParseError
			if c != nil || !errors.As(err, &parse) {
				t.Fatalf("Parse: %v, want a *ParseError", err)
			}
			if parse.Line != test.line || parse.Document != "consensus" || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %q in line %d, want %q in line %d", err, parse.Line, test.says, test.line)
			}
		})
	}
}

// TestEveryTruncation cuts the documents everywhere: never a panic, and never
// a consensus with fewer relays than it had.
func TestEveryTruncation(t *testing.T) {
	consensus, microdescs := randomNetwork(4, 6, publicNoon).documents()
	footer := bytes.Index(consensus, []byte("directory-footer")) + len("directory-footer")
	p := new(Parser)
	for n := range consensus {
		c, err := p.Parse(consensus[:n], microdescs, false)
		if (err == nil) != (n >= footer) {
			t.Fatalf("cut after %d of %d bytes: %v", n, len(consensus), err)
		}
		if err == nil && len(c.HSDirs) != 4 {
			t.Fatalf("cut after %d bytes: %d HSDirs", n, len(c.HSDirs))
		}
	}
	for n := range microdescs {
		c, err := p.Parse(consensus, microdescs[:n], false)
		if err != nil || len(c.HSDirs)+c.Coverage.Missing != 4 {
			t.Fatalf("microdescriptors cut after %d bytes: %v, %v", n, c, err)
		}
	}
}

func TestMalformedSharedRandomCountsAsMissing(t *testing.T) {
	net := randomNetwork(3, 5, publicNoon)
	consensus, microdescs := net.documents()
	for _, bad := range []string{"shared-rand-current-value 9 AAAA", "shared-rand-current-value x " + b64(net.Current[:]) + "="} {
		doc := edit(t, consensus, "shared-rand-current-value 9 "+b64(net.Current[:])+"=", bad)
		c, err := new(Parser).Parse(doc, microdescs, false)
		if err != nil || c.SharedRandomCurrent != nil {
			t.Fatalf("%q: %v, %v, want no value", bad, c, err)
		}
		r := mustRing(t, c, SecondRole)
		if !r.Disaster || r.SharedRandom != disasterValue(r.Period) {
			t.Errorf("%q: the ring goes by %x, want the disaster value", bad, r.SharedRandom)
		}
	}
}

func TestInputCaps(t *testing.T) {
	consensus, microdescs := randomNetwork(1, 1, publicNoon).documents()
	if _, err := new(Parser).Parse(make([]byte, maxConsensus+1), microdescs, false); err == nil {
		t.Error("a consensus over the limit was read")
	}
	if _, err := new(Parser).Parse(consensus, make([]byte, maxMicrodescs+1), false); err == nil {
		t.Error("microdescriptors over the limit were read")
	}
	if _, err := new(Parser).Parse(consensus, bytes.Repeat([]byte("onion-key\n"), maxRelays+1), false); err == nil {
		t.Error("too many microdescriptors were read")
	}
	if _, err := new(Parser).Parse(nil, nil, false); err == nil || !strings.Contains(err.Error(), "empty") {
		t.Errorf("no consensus: %v", err)
	}
}

func TestParamClamps(t *testing.T) {
	for _, test := range []struct {
		line string
		want Params
	}{
		{"", DefaultParams()},
		{"HSV3MaxDescriptorSize=0 cc_alg=1 cc_sendme_inc=0 hsdir_interval=1 hsdir_n_replicas=0 hsdir_spread_fetch=0 hsdir_spread_store=-5",
			Params{30 * time.Minute, 1, 1, 1, 1, 1, CCVegas}},
		{"HSV3MaxDescriptorSize=2147483647 cc_alg=-1 cc_sendme_inc=255 hsdir_interval=99999 hsdir_n_replicas=17 hsdir_spread_fetch=129 hsdir_spread_store=999",
			Params{14400 * time.Minute, 16, 128, 128, 2147483647, 254, CCSendme}},
	} {
		if got, err := parseParams([]byte(test.line)); err != nil || got != test.want {
			t.Errorf("%q: %+v, %v, want %+v", test.line, got, err, test.want)
		}
	}
}

// TestReuseGivesTheSame lets a network change for three days under one Parser.
// Its rings must be those of a Parser that remembers nothing.
func TestReuseGivesTheSame(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	net := randomNetwork(120, 11, publicNoon)
	p := new(Parser)
	for hour := range 72 {
		at := publicNoon.Add(time.Duration(hour) * time.Hour)
		net.ValidAfter, net.FreshUntil, net.ValidUntil = at, at.Add(time.Hour), at.Add(3*time.Hour)
		if at.Hour() == 0 {
			net.Previous = net.Current
			net.Current = new([32]byte)
			fill(rng, net.Current[:])
		}
		// One goes, one comes, one takes a new identity, one a new microdescriptor.
		net.Relays = slices.Delete(net.Relays, hour%100, hour%100+1)
		net.Relays = append(net.Relays, randomNetwork(1, uint64(1000+hour), at).Relays...)
		fill(rng, net.Relays[(hour*7)%100].Ed25519[:])
		net.Relays[(hour*11)%100].Padding = at.Format("p accept 15:04")
		net.Relays[(hour*13)%100].NoMicrodesc = hour%2 == 0
		consensus, microdescs := net.documents()
		c, err := p.Parse(consensus, microdescs, false)
		if err != nil {
			t.Fatal(err)
		}
		fresh := net.parse(t, false)
		if !slices.Equal(c.HSDirs, fresh.HSDirs) || c.Coverage != fresh.Coverage {
			t.Fatalf("%v: HSDirs differ: %+v, want %+v", at, c.Coverage, fresh.Coverage)
		}
		for _, role := range []Role{FirstRole, SecondRole} {
			if !slices.Equal(mustRing(t, c, role).nodes, mustRing(t, fresh, role).nodes) {
				t.Fatalf("%v: the %s ring differs", at, role)
			}
		}
		if again, err := p.Parse(consensus, microdescs, false); err != nil || again != c {
			t.Fatalf("%v: the same documents gave another consensus, %v", at, err)
		}
	}
	if live := 120; len(p.mds.entries) > 2*live+1000 || len(p.indexes.rings) > cachedRings {
		t.Errorf("the parser remembers %d microdescriptors and %d rings", len(p.mds.entries), len(p.indexes.rings))
	}
}

// TestNothingIsComputedTwice marks what the Parser remembers and looks for the
// marks in what it gives next.
func TestNothingIsComputedTwice(t *testing.T) {
	net := randomNetwork(50, 12, publicNoon)
	p := new(Parser)
	c, err := p.Parse(first(net.documents()), second(net.documents()), false)
	if err != nil {
		t.Fatal(err)
	}
	mustRing(t, c, FirstRole)
	nodes := p.indexes.rings[0].nodes
	marked := c.HSDirs[nodes[49].relay]
	nodes[49].index[31] ^= 1
	mark := nodes[49].index
	var renamed [32]byte
	for i := range p.mds.entries {
		if p.mds.entries[i].ed25519 == c.HSDirs[3].Ed25519 {
			p.mds.entries[i].ed25519[0] ^= 1
			renamed = p.mds.entries[i].ed25519
		}
	}
	net.ValidAfter, net.FreshUntil = net.ValidAfter.Add(time.Hour), net.FreshUntil.Add(time.Hour)
	c2, err := p.Parse(first(net.documents()), second(net.documents()), false)
	if err != nil {
		t.Fatal(err)
	}
	if c2.HSDirs[3].Ed25519 != renamed {
		t.Error("a microdescriptor was read again")
	}
	r := mustRing(t, c2, FirstRole)
	at := slices.IndexFunc(r.nodes, func(n node) bool { return n.index == mark })
	if marked != c.HSDirs[3] && (at < 0 || r.relays[r.nodes[at].relay] != marked) {
		t.Error("an index was computed again")
	}
}

func TestForgetsOldMicrodescriptors(t *testing.T) {
	p := new(Parser)
	for round := range 40 {
		net := randomNetwork(100, uint64(round), publicNoon)
		c, err := p.Parse(first(net.documents()), second(net.documents()), false)
		if err != nil || len(c.HSDirs) != 100 {
			t.Fatalf("round %d: %v, %v", round, c, err)
		}
	}
	if n := len(p.mds.entries); n > 1200 || n != len(p.mds.byText) || n != len(p.mds.byDigest) {
		t.Errorf("%d entries, %d texts, %d digests remembered", n, len(p.mds.byText), len(p.mds.byDigest))
	}
}
