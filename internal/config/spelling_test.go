package config

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
)

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
	for s, want := range map[string]string{
		"tcp://127.0.0.1:9051": "127.0.0.1:9051", "http://localhost:9051/": "localhost:9051", "127.0.0.1:9051/": "127.0.0.1:9051",
		"/run/tor/control": "unix:/run/tor/control", "file:///run/x": "unix:/run/x", "UNIX:///run/x": "unix:/run/x",
		"localhost 9051": "localhost:9051", "9051": "127.0.0.1:9051", ":9051": "127.0.0.1:9051", "*:9051": "127.0.0.1:9051",
		"tcp:9051": "127.0.0.1:9051", "::1:9051": "[::1]:9051", "localhost": "localhost:9051",
		"ControlPort 9052": "127.0.0.1:9052", "ControlSocket /run/x": "unix:/run/x",
	} {
		_, err := controlTarget("/etc", s)
		if want := "write " + write("control", want); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%q: %v, want %s", s, err, want)
		}
		if _, err := controlTarget("/etc", want); err != nil {
			t.Errorf("%q for %q: %v", want, s, err)
		}
	}
	for _, s := range []string{"unix:///run/tor/control", "unix:/run/tor/control", "localhost:9051", "[::1]:9051"} {
		if _, err := controlTarget("/etc", s); err != nil {
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

// FuzzSpellings: every line that people are told to write is TOML, and is taken
// as it is.
func FuzzSpellings(f *testing.F) {
	for _, s := range []string{"http://" + addressA + ".onion/", "tcp://127.0.0.1:9051", "localhost 9051", "::1:9051", "/run/tor/control",
		"ControlSocket /x", "key = front # mine", "name: “web1”", "weight 3", "level = 'x", "a.b = c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) {
			return // refused before
		}
		lines := map[string]string{}
		if _, err := readAddress(s); err != nil {
			_, lines["address"], _ = strings.Cut(err.Error(), "; write address = ")
		}
		if _, err := controlTarget("/etc", s); err != nil {
			_, lines["control"], _ = strings.Cut(err.Error(), "; write control = ")
		}
		for key, line := range lines {
			var got map[string]string
			if line == "" {
				continue
			}
			if _, err := toml.Decode(key+" = "+line, &got); err != nil {
				t.Fatalf("%q: %s = %s: %v", s, key, line, err)
			}
			_, err := readAddress(got[key])
			if key == "control" {
				_, err = controlTarget("/etc", got[key])
			}
			if err != nil {
				t.Fatalf("%q: %s = %s: %v", s, key, line, err)
			}
		}
		line, _, _ := strings.Cut(s, "\n")
		if _, fixed := fixLine(line); fixed != "" {
			if _, err := toml.Decode(fixed, new(map[string]any)); err != nil {
				t.Fatalf("%q: %s: %v", line, fixed, err)
			}
		}
	})
}
