package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// elsewhere are commands of doc/keys.md that are about the whole machine: its
// packages, its users, its units, and a balancer that runs on it.
var elsewhere = regexp.MustCompile(`^(apt-get|install|systemctl|runuser|mkdir -p /etc/systemd|printf '\[Service\]|balancer status) ?`)

// TestDocsKeys types what doc/keys.md has an operator type, from top to bottom,
// with the configurations that stand between, in a directory instead of /etc and
// /var/lib, on SoftHSM.
func TestDocsKeys(t *testing.T) {
	dir := t.TempDir()
	bin, keys, etc := filepath.Join(dir, "bin"), filepath.Join(dir, "keys"), filepath.Join(dir, "etc")
	for _, d := range []string{bin, keys, etc, filepath.Join(dir, "stick")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(bin, "balancer")); err != nil {
		t.Fatal(err)
	}
	if code := run([]string{"key", "new", filepath.Join(etc, "front")}); code != exitDone {
		t.Fatalf("key new: exit status %d", code)
	}
	hostname, err := os.ReadFile(filepath.Join(etc, "front", "hostname"))
	if err != nil {
		t.Fatal(err)
	}
	here := strings.NewReplacer(
		"/var/lib/balancer/keys", keys, "/etc/balancer", etc, "/media/stick", filepath.Join(dir, "stick"),
		`state_dir = "/var/lib/balancer"`, fmt.Sprintf("state_dir = %q", filepath.Join(dir, "state")),
		publicAddress, strings.TrimSpace(string(hostname)), "--key front ", "--key "+filepath.Join(etc, "front")+" ")
	script, typed := typeKeysDoc(t, here, etc)
	if typed < 25 {
		t.Fatalf("%d commands, want at least 25", typed)
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-c", script)
	cmd.Dir = keys
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "GORACE=atexit_sleep_ms=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// publicAddress is the service's in the documentation's examples.
const publicAddress = "a4mnoi57zvf7lxotwtwipgbdphcc2jc26e5ksepubhhzvwewpv7unjid.onion"

// typeKeysDoc makes a script of doc/keys.md that stops at the first error: its
// commands, and its configurations as balancer.toml in etc.
func typeKeysDoc(t *testing.T, here *strings.Replacer, etc string) (script string, typed int) {
	t.Helper()
	var out strings.Builder
	out.WriteString("set -eux\n")
	fence := regexp.MustCompile("(?ms)^( *)```(sh|toml)\n(.*?)^ *```$")
	for _, m := range fence.FindAllStringSubmatch(readDoc(t, "doc/keys.md"), -1) {
		text := strings.ReplaceAll(here.Replace("\n"+m[3]), "\n"+m[1], "\n")
		if m[2] == "toml" {
			fmt.Fprintf(&out, "cat > %s/balancer.toml <<'END'%sEND\n", etc, text)
			continue
		}
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			if line == "" || elsewhere.MatchString(line) || strings.HasPrefix(line, "cd /") {
				continue
			}
			typed++
			if strings.HasPrefix(line, "balancer check ") {
				line += " --offline"
			}
			if request, signs := strings.CutPrefix(line, "balancer ceremony sign "); signs {
				request, _, _ = strings.Cut(request, " ")
				line += fmt.Sprintf(` --yes "$(balancer ceremony show %s | grep -oE '[a-z2-7]{4}(-[a-z2-7]{4}){5}')"`, request)
			}
			out.WriteString(line + "\n")
		}
	}
	return out.String(), typed
}
