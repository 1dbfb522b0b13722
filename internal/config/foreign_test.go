package config

import (
	"errors"
	"path/filepath"
	"strings"
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

// TestSpellings: what people write for an address or a control port is answered
// with the line that they mean, and that line is taken.
func TestSpellings(t *testing.T) {
	for _, s := range []string{"http://A.onion/", "HTTPS://www.A.ONION:443/x?y", " A.onion", "'A.onion'", "user@A.onion.", "A.onion:80", "<A>"} {
		s = strings.ReplaceAll(s, "A", addressA)
		_, err := readAddress(s)
		if want := "is not just an onion address; write " + write("address", addressA+".onion"); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%q: %v, want %s", s, err, want)
		}
	}
	for _, s := range []string{addressA, strings.ToUpper(addressA) + ".ONION", addressA + ".onion"} {
		if _, err := readAddress(s); err != nil {
			t.Error(err)
		}
	}
	typed := strings.ReplaceAll(addressA, "l", "1")
	for s, want := range map[string]string{
		typed:                    "has a 0, 1 or 8, and no onion address has one; write address = \"" + addressA,
		"expyuzz4wqqyqhjn.onion": "version 2",
		"web1.example.com":       "is no onion address; write the one in the hostname file",
		"10.0.0.5:80":            "is no onion address",
		addressA[1:]:             "55 characters before",
		"b" + addressA[1:]:       "checksum",
		"":                       "0 characters before",
	} {
		if _, err := readAddress(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", s, err, want)
		}
	}
	dir := &table{dir: "/etc"}
	for s, want := range map[string]string{
		"tcp://127.0.0.1:9051": "127.0.0.1:9051", "http://localhost:9051/": "localhost:9051", "127.0.0.1:9051/": "127.0.0.1:9051",
		"/run/tor/control": "unix:/run/tor/control", "file:///run/x": "unix:/run/x", "UNIX:///run/x": "unix:/run/x",
		"localhost 9051": "localhost:9051", "9051": "127.0.0.1:9051", ":9051": "127.0.0.1:9051", "*:9051": "127.0.0.1:9051",
		"tcp:9051": "127.0.0.1:9051", "::1:9051": "[::1]:9051", "localhost": "localhost:9051",
		"ControlPort 9052": "127.0.0.1:9052", "ControlSocket /run/x": "unix:/run/x",
	} {
		_, err := controlTarget(dir, s)
		if want := "write " + write("control", want); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%q: %v, want %s", s, err, want)
		}
		if _, err := controlTarget(dir, want); err != nil {
			t.Errorf("%q for %q: %v", want, s, err)
		}
	}
	for _, s := range []string{"unix:///run/tor/control", "unix:/run/tor/control", "localhost:9051", "[::1]:9051"} {
		if _, err := controlTarget(dir, s); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// TestSyntaxErrors: every line that is no TOML is named, with what it should be.
func TestSyntaxErrors(t *testing.T) {
	text := "[[service]\nkey = front # mine\n\n[[service.instance]]\naddress: “" + addressA + "”\nname = 'web1\nweight 3\n[tor]]\nbinary =\nlevel = \"x\n"
	_, err := Parse([]byte(text), "/b.toml")
	want := []string{
		"/b.toml:1: the brackets do not fit together: write [[service]]",
		`/b.toml:2: the value must be in quotes: write key = "front"`,
		`/b.toml:5: key and value are joined by "=": write address = "` + addressA + `"`,
		`/b.toml:6: the quotes are not closed, or something follows them: write name = "web1"`,
		`/b.toml:7: key and value are joined by "=": write weight = 3`,
		`/b.toml:8: the brackets do not fit together: write [tor]`,
		`/b.toml:9: the key has no value; give it one, or leave the line out`,
		`/b.toml:10: the quotes are not closed, or something follows them: write level = "x"`,
	}
	if got := strings.Join(want, "\n"); err == nil || err.Error() != got {
		t.Errorf("got\n%v\nwant\n%s", err, got)
	}
	_, err = Parse([]byte("[[service]]\nkey = \"a\"\nkey = \"b\"\nstrategy = x\n"), "/b.toml")
	if err == nil || !strings.Contains(err.Error(), "/b.toml:3: Key 'service.key' has already been defined.\n/b.toml:4: ") {
		t.Errorf("a key given twice: %v", err)
	}
	for _, text := range []string{"a = [\nb\nc = ]", "a = \"\"\"\nb\n", "a = {b = 1\nc", "\x01", "= 1", "[]", "[a", "a.b."} {
		if err := syntaxErrors(text, "/b.toml"); err == nil || len(Each(err)) > 3 {
			t.Errorf("%q: %v", text, err)
		}
	}
}
