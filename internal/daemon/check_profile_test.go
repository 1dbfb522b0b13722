package daemon

import (
	"strings"
	"testing"

	"onionbalancer/descriptor"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/health"
	"onionbalancer/selection"
)

// anonymous is a custodian that has nothing but an address.
type anonymous struct{ credential.Custodian }

func (anonymous) Address() descriptor.Address { return descriptor.Address{1} }

// TestCheckProfile: what the profile needs and costs follows from how many instances
// and points there are.
func TestCheckProfile(t *testing.T) {
	for _, test := range []struct {
		instances, points, offered int
		change                     func(*balance.Config)
		want                       []string // in this order
	}{
		{3, 3, 9, nil, []string{"ok profile", "3 introduction points, the same at all HSDirs ->", "ok service", "none in common"}},
		{10, 3, 30, nil, []string{": 3 of 10 instances serve at a time", "ok service"}},
		{3, 8, 16, nil, []string{"warning", "3 instances for 8 introduction points", "use 8 instances", "warning", "offer 6 introduction points or more", "NumIntroductionPoints 6", "ok service"}},
		{2, 3, 5, nil, []string{"2 instances for 3", "warning service", "offer 5 introduction points, and two descriptors of 3 need 6: the two descriptors have points in common", "NumIntroductionPoints 3"}},
		{3, 3, 2, nil, []string{"warning service", "descriptors have 2 in place of 3, and the two"}},
		{3, 3, 9, func(c *balance.Config) { c.Instances[1].Check.Kind = health.TCP }, []string{"checks find dead is replaced at once"}},
		{3, 3, 9, func(c *balance.Config) { c.CAA = make([]descriptor.CAA, 1) }, []string{"warning", "no tor publishes CAA records"}},
	} {
		cfg := balance.Config{
			Keys: credential.Keys{Custodian: anonymous{}}, Ordinary: true, Strategy: selection.Spread{},
			Room: selection.Room{Points: test.points, PerInstance: 3}, Instances: make([]balance.Instance, test.instances),
		}
		for n := range cfg.Instances {
			cfg.Instances[n].Check.Kind = health.None
		}
		if test.change != nil {
			test.change(&cfg)
		}
		var found findings
		c := &checker{tell: found.tell}
		c.checkProfile(cfg)
		c.checkLimit("service "+shortName(cfg), cfg, test.instances, test.offered)
		rest := found.String()
		for _, part := range test.want {
			_, after, said := strings.Cut(rest, part)
			if !said {
				t.Errorf("%d instances, %d points of %d: no %q in\n%s", test.instances, test.points, test.offered, part, found)
				break
			}
			rest = after
		}
		if warned := strings.Contains(found.String(), "warning"); warned != strings.Contains(strings.Join(test.want, " "), "warning") && test.instances > 2 {
			t.Errorf("%d instances, %d points of %d: a warning is %t in\n%s", test.instances, test.points, test.offered, warned, found)
		}
	}
	cfg := balance.Config{Strategy: selection.Spread{}}
	var found findings
	(&checker{tell: found.tell}).checkProfile(cfg)
	if len(found) > 0 {
		t.Errorf("of a balanced service: %s", found)
	}
}
