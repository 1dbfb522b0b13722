package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
)

// checkCAA has the records in text, one a line and none if it is empty, signed, and
// checks the signature as RFC 9799 says.
func checkCAA(t *testing.T, address descriptor.Address, text string, args ...string) (expiry time.Time) {
	t.Helper()
	out, err := exec.Command("balancer", append([]string{"key", "caa"}, args...)...).Output()
	if err != nil {
		t.Fatalf("%q: %v\n%s", args, err, stderrOf(err))
	}
	var made struct {
		OnionCAA map[string]struct {
			CAA       *string
			Expiry    int64
			Signature string
		} `json:"onionCAA"`
	}
	if err := json.Unmarshal(out, &made); err != nil {
		t.Fatal(err)
	}
	set := made.OnionCAA[address.String()]
	var lines string
	if text != "" {
		lines = "caa " + strings.ReplaceAll(text, "\n", "\ncaa ")
	}
	if len(made.OnionCAA) != 1 || (set.CAA == nil) != (text == "") || set.CAA != nil && *set.CAA != lines {
		t.Errorf("%q: %s", args, out)
	}
	signature, err := base64.RawURLEncoding.DecodeString(set.Signature)
	if err != nil || !ed25519.Verify(address[:], fmt.Appendf(nil, "onion-caa|%d|%s", set.Expiry, lines), signature) {
		t.Errorf("%q: the signature does not verify: %v", args, err)
	}
	return time.Unix(set.Expiry, 0)
}

func stderrOf(err error) string {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return string(exit.Stderr)
	}
	return ""
}

// TestKeyCAA signs with keys on disk, for records of the configuration and of the
// command line. (TestKeyCSRToken does so with keys of tokens.)
func TestKeyCAA(t *testing.T) {
	dir := t.TempDir()
	addresses := map[string]descriptor.Address{}
	for _, name := range []string{"front", "second.pem"} {
		shown, err := makeKey(filepath.Join(dir, name))
		if err == nil {
			addresses[name], err = descriptor.ParseAddress(shown.Address)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	front, second := filepath.Join(dir, "front"), filepath.Join(dir, "second.pem")
	instance := fmt.Sprintf("  [[service.instance]]\n  address = %q\n", "zkorpcleemqj5fkprbp7k7no4sio4qrrmy72zwixbn7dhhwruajlcqid.onion")
	one, two := filepath.Join(dir, "one.toml"), filepath.Join(dir, "two.toml")
	text := "[[service]]\nkey = \"front\"\ncaa = ['128 issue \"ca.example; validationmethods=onion-csr-01\"', '0 iodef mailto:a@example']\n" + instance
	for path, text := range map[string]string{one: text, two: text + "[[service]]\nkey = \"second.pem\"\n" + instance} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	records := "128 issue \"ca.example; validationmethods=onion-csr-01\"\n0 iodef \"mailto:a@example\""
	in := func(what string, got time.Time, want time.Duration) {
		t.Helper()
		if left := time.Until(got); left > want || left < want-5*time.Minute {
			t.Errorf("%s: it is valid for %s", what, left)
		}
	}
	in("by default", checkCAA(t, addresses["front"], records, "--config", one), time.Hour)
	in("--for", checkCAA(t, addresses["second.pem"], `0 issue ";"`, "--caa", `0 issue ";"`, "--for", "8h", second), 8*time.Hour)
	at := time.Now().Add(2 * time.Hour).Truncate(time.Second)
	for _, text := range []string{at.UTC().Format(time.RFC3339), fmt.Sprint(at.Unix())} {
		if got := checkCAA(t, addresses["front"], "", "--none", "--expiry", text, front); !got.Equal(at) {
			t.Errorf("--expiry %s: until %s", text, got)
		}
	}
	checkCAA(t, addresses["second.pem"], "", "--config", two, "--service", addresses["second.pem"].String())
	checkCAA(t, addresses["front"], records, "--config", two, "--service", addresses["front"].String(), filepath.Join(front, torKeyName))

	for want, args := range map[string][]string{
		"say which records":               {front},
		"say which records: ":             {"--config", one, "--none"},
		"say which records: --config":     {"--caa", "0 issue a", "--none", front},
		"name the KEY":                    {"--none"},
		"at most 8h0m0s are allowed":      {"--none", "--for", "8h1m", front},
		"they would have expired":         {"--none", "--expiry", "1", front},
		"--expiry: ":                      {"--none", "--expiry", "tomorrow", front},
		"say the same":                    {"--none", "--expiry", "1", "--for", "1h", front},
		"has 2 services":                  {"--config", two},
		"has no service with the address": {"--config", one, "--service", addresses["second.pem"].String()},
		"the records are those of":        {"--config", one, second},
		"reading a CAA record":            {"--caa", "issue ca.example", front},
	} {
		said, err := exec.Command("balancer", append([]string{"key", "caa"}, args...)...).CombinedOutput()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != exitMisuse || !strings.Contains(string(said), want) {
			t.Errorf("%q: %v, want %q in\n%s", args, err, want, said)
		}
	}
}
