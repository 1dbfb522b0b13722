package daemon

import (
	"context"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/config"
	"onionbalancer/internal/relayset"
	"onionbalancer/internal/tor"
	"onionbalancer/testnet/sim"
)

func TestFamiliesOfConfig(t *testing.T) {
	one, two := "family:"+strings.Repeat("11", 20), "family:"+strings.Repeat("22", 20)
	cfg := &config.Config{Services: []config.Service{
		{Balancing: config.Balancing{Points: config.Points{Avoid: []string{two, "{de}"}, Prefer: []string{one}}}},
		{Balancing: config.Balancing{Points: config.Points{Avoid: []string{one}}}},
		{},
	}}
	if list := families(cfg); len(list) != 2 || list[0][0] != 0x11 || list[1][0] != 0x22 {
		t.Errorf("%x", list)
	}
}

// TestCheckRules: check says when tor knows no countries, and how many points of an
// instance are avoided.
func TestCheckRules(t *testing.T) {
	onSimTor(t, 2*time.Minute, func(ctx context.Context, net *sim.Network, c *checker, conn *tor.Tor, last *Finding) {
		consensus := c.checkConsensus(ctx, conn)
		if consensus == nil {
			t.Fatal(last)
		}
		relay := consensus.HSDirs[0]
		set := func(entries ...string) relayset.Set {
			s, err := relayset.ParseSet(entries)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		point := func(fingerprint [20]byte) descriptor.IntroductionPoint {
			return descriptor.IntroductionPoint{LinkSpecifiers: []descriptor.LinkSpecifier{{Type: descriptor.LinkRSA, Data: fingerprint[:]}}}
		}
		d := new(descriptor.Descriptor)
		d.IntroductionPoints = []descriptor.IntroductionPoint{point(relay.Fingerprint), point([20]byte{1})}
		for entry, want := range map[string]int{relay.Hex(): 1, "flag:Running": 1, "{de}": 0, "flag:BadExit": 0} {
			if n := avoided(ctx, conn, consensus, balance.Config{Avoid: set(entry)}, d); n != want {
				t.Errorf("%s avoids %d, want %d", entry, n, want)
			}
		}
		*last = Finding{}
		c.services = []balance.Config{{}, {Avoid: set(relay.Hex())}}
		if c.checkGeoIP(ctx, conn); last.What != "" {
			t.Errorf("without a country: %+v", last)
		}
		c.services[0].Prefer = set("{de}")
		if c.checkGeoIP(ctx, conn); last.Level != LevelWarning || !strings.Contains(last.Detail, "GeoIP") {
			t.Errorf("with a tor that knows none: %+v", last)
		}
		if note := avoidedNote(2, 2); !strings.Contains(note, "no clients") {
			t.Error(note)
		}
		if none, some := avoidedNote(0, 2), avoidedNote(1, 2); none != "" || !strings.Contains(some, "1 introduction point ") {
			t.Errorf("%q, %q", none, some)
		}
	})
}
