package hsdir

import (
	"encoding/hex"
	"strings"
	"testing"

	"onionbalancer/descriptor"
)

// pointAt is an introduction point at a relay of a test.
func pointAt(r testRelay) *descriptor.IntroductionPoint {
	return &descriptor.IntroductionPoint{LinkSpecifiers: []descriptor.LinkSpecifier{{Type: descriptor.LinkRSA, Data: r.Fingerprint[:]}}}
}

func print40(r testRelay) string { return "$" + strings.ToUpper(hex.EncodeToString(r.Fingerprint[:])) }

func TestRelayFlags(t *testing.T) {
	net := randomNetwork(3, 4, publicNoon)
	net.Relays[0].Flags = []string{"Exit", "Running", "V2Dir"}
	net.Relays[1].Flags = []string{"BadExit", "Guard", "Running"}
	c := net.parse(t, false)
	for n, want := range []string{"Exit", "BadExit", "HSDir"} {
		info, ok := c.Relay(pointAt(net.Relays[n]))
		if !ok || info.Fingerprint() != net.Relays[n].Fingerprint || info.Address().String() != "127.0.0.1" {
			t.Fatal(n, ok, info)
		}
		for _, flag := range []string{"Exit", "BadExit", "HSDir", "Bad", "exit", ""} {
			if got := info.HasFlag(flag); got != (flag == want) {
				t.Errorf("relay %d, flag %q: %t", n, flag, got)
			}
		}
	}
	if _, ok := c.Relay(pointAt(testRelay{})); ok {
		t.Error("a relay that is not there")
	}
}

// TestFamilies: a family is mutual, by fingerprint or nickname, or by a common ID.
func TestFamilies(t *testing.T) {
	net := randomNetwork(9, 5, publicNoon)
	r := net.Relays
	of := func(lines ...string) string { return strings.Join(lines, "\n") }
	r[0].Padding = of("family "+print40(r[0])+" "+print40(r[1])+" "+print40(r[2])+"=relay2 relay3 "+print40(r[5]), "family-ids ed25519:one other")
	r[1].Padding = of("family " + print40(r[0]) + " " + print40(r[8]))
	r[2].Padding = of("family " + strings.ToLower(print40(r[0])) + "~relay0")
	r[3].Padding = of("family RELAY0")
	r[4].Padding = of("family " + print40(r[0])) // which 0 does not list
	r[5].Padding = of("family "+print40(r[1]), "family-idea x ed25519:one")
	r[6].Padding = of("family-ids other2 ed25519:one")
	r[7].Padding = of("family-ids ed25519:on ed25519:one2")
	r[8].Padding = of("family " + print40(r[1]))
	consensus, microdescs := net.documents()
	p := new(Parser)
	without, err := p.Parse(consensus, microdescs, false)
	if err != nil {
		t.Fatal(err)
	}
	p.Families([][20]byte{r[0].Fingerprint, r[1].Fingerprint, {1}})
	c, err := p.Parse(consensus, microdescs, false)
	if err != nil || c == without {
		t.Fatal(err, "the same")
	}
	for n := range r {
		info, _ := c.Relay(pointAt(r[n]))
		if got, want := info.InFamily(r[0].Fingerprint), n < 4 || n == 6; got != want {
			t.Errorf("relay %d in the family of 0: %t", n, got)
		}
		if got, want := info.InFamily(r[1].Fingerprint), n < 2 || n == 8; got != want {
			t.Errorf("relay %d in the family of 1: %t", n, got)
		}
		if info.InFamily([20]byte{1}) {
			t.Errorf("relay %d is in the family of none", n)
		}
		if info, _ := without.Relay(pointAt(r[n])); info.InFamily(r[0].Fingerprint) != (n == 0) {
			t.Errorf("relay %d: families that nobody asked for", n)
		}
	}
	if p.Families([][20]byte{r[0].Fingerprint, r[1].Fingerprint, {1}}) || p.last != c {
		t.Error("asking again for the same forgets what was parsed")
	}
}
