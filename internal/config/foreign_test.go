package config

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/BurntSushi/toml"
)

const onionBalanceFile = `# OnionBalance
services:
- key: front.key
  instances:
  - address: ` + addressA + `.onion
    name: node1
  - address: ` + addressB + `
- key: /etc/onionbalance/second.key
  instances: [{address: ` + addressC + `.onion, name: node2}]
`

// TestOnionBalance: what is printed for OnionBalance's file is the same for us.
func TestOnionBalance(t *testing.T) {
	_, err := Parse([]byte(onionBalanceFile), "/etc/onionbalance/config.yaml")
	bad := (*Error)(nil)
	if !errors.As(err, &bad) || bad.Instead == "" {
		t.Fatalf("got %v", err)
	}
	c := parse(t, bad.Instead)
	if len(c.Services) != 2 || c.Services[0].Key != "/etc/onionbalance/front.key" || c.Services[1].Key != "/etc/onionbalance/second.key" ||
		len(c.Services[0].Instances) != 2 || c.Services[0].Instances[0].Name != "node1" ||
		c.Services[0].Instances[1].Address != address(t, addressB) || c.Services[1].Instances[0].Name != "node2" {
		t.Errorf("it is converted to\n%s", bad.Instead)
	}
	for _, other := range []string{"", "a: b", "services: 1", "services: []", "- services", "\t:"} {
		if converted := fromOnionBalance([]byte(other), "/"); converted != "" {
			t.Errorf("%q becomes %q", other, converted)
		}
	}
}

// FuzzOnionBalance: whatever is converted is TOML with as many services, and
// their keys.
func FuzzOnionBalance(f *testing.F) {
	f.Add([]byte(onionBalanceFile))
	f.Add([]byte("services:\n- key: \"\\u0007\\\"'\"\n  instances:\n  - {address: x, name: \"\\n[[\"}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		converted := fromOnionBalance(data, "/etc")
		if converted == "" {
			return
		}
		var got struct {
			Service []struct {
				Key      string
				Instance []struct{ Name, Address string }
			}
		}
		if _, err := toml.Decode(converted, &got); err != nil || len(got.Service) == 0 {
			t.Fatalf("%q becomes %q: %v", data, converted, err)
		}
		for _, s := range got.Service {
			if s.Key != "" && !filepath.IsAbs(s.Key) {
				t.Fatalf("%q becomes %q", data, converted)
			}
		}
	})
}
