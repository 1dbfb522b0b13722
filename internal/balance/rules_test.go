package balance

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/relayset"
	"onionbalancer/internal/status"
	"onionbalancer/selection"
	"onionbalancer/testnet/sim"
)

// testRelays is a consensus of the relays of testPoint 1 to 9, of which the odd ones
// are exits. Relay 9 is not in it.
func testRelays(t *testing.T) *hsdir.Consensus {
	var b bytes.Buffer
	b.WriteString("network-status-version 3 microdesc\nvote-status consensus\nvalid-after 2026-11-26 10:00:00\nfresh-until 2026-11-26 11:00:00\nvalid-until 2026-11-26 13:00:00\n")
	for n := byte(1); n < 9; n++ {
		flags := []string{"Running Valid", "Exit Running Valid"}[n%2]
		fingerprint := base64.RawStdEncoding.EncodeToString(append(make([]byte, 19), n))
		fmt.Fprintf(&b, "r relay%d %s 2038-01-01 00:00:00 192.0.2.%[1]d 9001 0\ns %[3]s\npr HSDir=2\n", n, fingerprint, flags)
	}
	b.WriteString("directory-footer\n")
	c, err := new(hsdir.Parser).Parse(b.Bytes(), nil, false)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func relays(t *testing.T, entries string) relayset.Set {
	t.Helper()
	s, err := relayset.ParseSet(strings.Fields(entries))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ofCountry says that the relays 1 and 2 are German, asks about 3 for the first time,
// and knows no other.
func ofCountry(a netip.Addr) (string, bool) {
	n := a.As4()[3]
	return map[byte]string{1: "de", 2: "de"}[n], n == 3
}

func TestRules(t *testing.T) {
	c := testRelays(t)
	first := "$" + strings.Repeat("0", 39) + "1"
	silent := testMember("s", 1, 2)
	silent.Renewed = testNow.Add(-backend.SilentAfter - 1)
	for _, test := range []struct {
		what, avoid string
		in          []*member
		want        string
		lifted      bool
		left        string // of instance a
	}{
		{"no rules", "", []*member{testMember("a", 1, 2)}, "a1a2", false, ""},
		{"a fingerprint", first, []*member{testMember("a", 1, 2)}, "a2", false, "points.avoid has its relay, by " + first},
		{"a family", "family:" + first, []*member{testMember("a", 1, 2)}, "a2", false, "by family:" + first},
		{"a flag", "flag:Exit", []*member{testMember("a", 1, 2, 3), testMember("b", 4)}, "a2b4", false, "by flag:Exit"},
		{"a country", "{de}", []*member{testMember("a", 1, 2, 4)}, "a4", false, "by {de}"},
		{"an instance with none left gets no clients", "flag:Exit", []*member{testMember("a", 1, 3), testMember("b", 4)}, "b4", false, "by flag:Exit"},
		{"a relay that nobody knows", "flag:Exit", []*member{testMember("a", 1, 9)}, "a9", false, "by flag:Exit"},
		{"none is left: the rule is lifted", "flag:Exit", []*member{testMember("a", 1, 3), testMember("b", 5)}, "a1a3b5", true, ""},
		{"a country that is being looked up waits", "{fr}", []*member{testMember("a", 3, 4)}, "a4", false, "looked up"},
		{"but not if nothing else is left", "{de}", []*member{testMember("a", 3, 1)}, "a3", false, "by {de}"},
		{"no country is of interest", "flag:Guard", []*member{testMember("a", 3, 4)}, "a3a4", false, ""},
		{"what is avoided is better than what is dead", first, []*member{testMember("a", 1), silent}, "a1", true, ""},
		{"also of the last known", first, []*member{silent}, "s2", false, ""},
		{"nothing to avoid", "{de}", nil, "", false, ""},
	} {
		v := testView(8, test.in...)
		v.Relay, v.Country, v.Config.Avoid = c.Relay, ofCountry, relays(t, test.avoid)
		got := gather(v)
		if names(got.candidates) != test.want || got.lifted != test.lifted {
			t.Errorf("%s: %q, lifted %t; want %q", test.what, names(got.candidates), got.lifted, test.want)
		}
		if left := strings.Join(got.left["a"], "\n"); !strings.Contains(left, test.left) || (left == "") != (test.left == "") {
			t.Errorf("%s: left out are %q, want %q", test.what, left, test.left)
		}
		if p := makePlan(v, State{}); p.Lifted != test.lifted {
			t.Errorf("%s: the plan says %t", test.what, p.Lifted)
		}
	}
}

// TestPrefer: earlier entries count more, and nobody is left out.
func TestPrefer(t *testing.T) {
	v := testView(8, testMember("a", 1, 2, 3, 4, 9))
	v.Relay, v.Country, v.Config.Prefer = testRelays(t).Relay, ofCountry, relays(t, "{de} flag:Exit")
	want := map[byte]int{1: 2, 2: 2, 3: 1, 4: 0, 9: 0}
	list := gather(v).candidates
	if len(list) != len(want) {
		t.Errorf("candidates %q", names(list))
	}
	for _, c := range list {
		if n := c.Point.AuthKey[0]; c.Preferred != want[n] {
			t.Errorf("point %d is preferred %d, want %d", n, c.Preferred, want[n])
		}
	}
}

// TestAskCountries: they are asked for before a plan needs them, and only if one does.
func TestAskCountries(t *testing.T) {
	c := testRelays(t)
	for rule, want := range map[string]int{"flag:Exit": 0, "{de}": 3} {
		asked := map[netip.Addr]bool{}
		v := testView(8, testMember("a", 1, 2, 9), testMember("b", 5))
		v.Relay, v.Config.Prefer = c.Relay, relays(t, rule)
		v.askCountries() // with nobody to ask
		v.Country = func(a netip.Addr) (string, bool) { asked[a] = true; return "", true }
		if v.askCountries(); len(asked) != want {
			t.Errorf("%s: asked about %v", rule, asked)
		}
	}
}

// The families of both lists are asked for.
func TestConfigFamilies(t *testing.T) {
	family := "family:" + strings.Repeat("0", 39)
	c := Config{Avoid: relays(t, family+"1 {de}"), Prefer: relays(t, family+"2")}
	if got := fmt.Sprint(c.Families()); got != fmt.Sprint([][20]byte{{19: 1}, {19: 2}}) {
		t.Error(got)
	}
}

// TestAvoidAtReload: a published point whose relay is avoided from now on leaves the
// descriptors, and the status says why.
func TestAvoidAtReload(t *testing.T) {
	onScene(t, sim.Config{Seed: 44, Relays: 60}, func(t *testing.T, s *scene) {
		s.settle(2 * time.Minute)
		chosen := func() []selection.Candidate {
			s.service.mu.Lock()
			defer s.service.mu.Unlock()
			return s.service.plan.Chosen
		}
		var fingerprint string
		for _, l := range chosen()[0].Point.LinkSpecifiers {
			if l.Type == descriptor.LinkRSA {
				fingerprint = fmt.Sprintf("$%X", l.Data)
			}
		}
		cfg := s.config()
		cfg.Avoid = relays(t, fingerprint)
		s.service.Reconfigure(cfg)
		s.settle(2 * time.Minute)
		got := s.want("with a rule", status.StateOK)
		c, err := s.watcher.Consensus()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range chosen() {
			if relay, known := c.Relay(p.Point); !known || cfg.Avoid.Find(relay, "") >= 0 {
				t.Errorf("a point of %s is at %s still", p.Instance, p.Point.Relay())
			}
		}
		said := ""
		for _, i := range got.Instances {
			said += strings.Join(i.Warnings, "\n")
		}
		if got.Descriptors[0].Points != 8 || !strings.Contains(said, "points.avoid has its relay, by "+fingerprint) {
			t.Errorf("%d points; said %q", got.Descriptors[0].Points, said)
		}
		cfg.Avoid = relays(t, "flag:Running")
		s.service.Reconfigure(cfg)
		s.settle(10 * time.Minute)
		if got = s.want("with a rule that leaves nothing", status.StateDegraded); !warned(got, liftedWarning) {
			t.Errorf("warnings %q", got.Warnings)
		}
	})
}
