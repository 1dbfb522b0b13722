package hosting

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
)

// verify has a real tor verify the files of a replica, and returns what it says.
func verify(t *testing.T, torrc, lines []byte) (said string, err error) {
	t.Helper()
	dir := t.TempDir()
	service := filepath.Join(dir, "service")
	text := strings.Replace(string(torrc), "/var/lib/tor/s1", service, 1)
	if err := errors.Join(os.Mkdir(service, privateDir), os.WriteFile(filepath.Join(service, LinesFile), lines, privateFile),
		os.WriteFile(filepath.Join(dir, "torrc"), []byte(text), privateFile), os.WriteFile(filepath.Join(dir, "none"), nil, privateFile)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "tor", "--verify-config", "-f", filepath.Join(dir, "torrc"), "--defaults-torrc", filepath.Join(dir, "none"),
		"--DataDirectory", filepath.Join(dir, "data"))
	cmd.Dir = dir // where it leaves what it has to say of a crash
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestTorTakesFiles: a real tor takes what is written for a replica, every line of it.
func TestTorTakesFiles(t *testing.T) {
	torrc := Torrc("s1", "web1", torDir("s1"), []Port{{80, "127.0.0.1:8080"}, {443, "[::1]:8443"}, {8080, "unix:/run/web.sock"}})
	for _, n := range []int{1, 275} {
		lines, err := FormatLines("s1", numbered(n))
		if err != nil {
			t.Fatal(err)
		}
		said, err := verify(t, torrc, lines)
		if got := strings.Count(said, ".onion registered"); err != nil || got != n {
			t.Errorf("of %d lines tor registers %d, %v\n%s", n, got, err, said)
		}
	}
}

// TestTorAgrees: what is taken here as an ob_config is taken by a real tor, and what that one
// refuses, or crashes on, is refused here.
func TestTorAgrees(t *testing.T) {
	torrc := Torrc("s1", "web1", torDir("s1"), []Port{DefaultPort})
	a := numbered(1)[0]
	same, stricter := linesCases(a)
	for _, text := range append(same, stricter...) {
		_, refused := ParseLines([]byte(text))
		said, err := verify(t, torrc, []byte(text))
		if strict := slices.Contains(stricter, text); strict && (err != nil || refused == nil) || !strict && (err != nil) != (refused != nil) {
			t.Errorf("%q: here %v, by tor %v\n%s", text, refused, err, said)
		}
	}
}

// linesCases are texts that an ob_config may have: those of which tor and this package have the
// same opinion, and those that tor takes, to a different effect than was meant.
func linesCases(a descriptor.Address) (same, stricter []string) {
	line := masterLine + " " + a.String()
	same = []string{
		"", "\n", "# " + line + "\n", line, line + "\n" + line + "\n", strings.ToLower(masterLine) + " " + a.String() + "\n", line + " # one\n",
		masterLine + " \"" + a.String() + "\"\n", masterLine + " \\\n" + a.String() + "\n", masterLine + "\n", masterLine + " " + a.Label() + "\n",
		line + "x\n", line + " " + a.String() + "\n", masterLine + " \"" + a.String() + "\n",
	}
	return same, []string{"HiddenServiceDir /d\n" + line + "\n", masterLine + " " + strings.Repeat("a", 56) + ".onion\n", "Master " + a.String() + "\n"}
}
