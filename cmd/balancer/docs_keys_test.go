package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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
		publicAddress, strings.TrimSpace(string(hostname)))
	script, typed := typeKeysDoc(t, here, etc)
	if typed < 25 {
		t.Fatalf("%d commands, want at least 25", typed)
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-c", script)
	cmd.Dir = keys
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "GORACE=atexit_sleep_ms=0")
	out, err := typePINs(t, cmd)
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// pinPrompt is what asks for a PIN at the end of what is on the screen.
var pinPrompt = regexp.MustCompile(`(SO|[Uu]ser) PIN[^\n]*: ?$`)

// typePINs runs cmd on a terminal, as the programs want that ask for PINs, types
// them, and returns what was on the screen.
func typePINs(t *testing.T, cmd *exec.Cmd) (screen []byte, err error) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	if err := unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(ours.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	answered := 0
	for chunk := make([]byte, 4096); ; {
		n, err := ours.Read(chunk)
		screen = append(screen, chunk[:n]...)
		if err != nil {
			return screen, cmd.Wait() // the last program has closed the terminal
		}
		asked := pinPrompt.FindSubmatch(screen[answered:])
		if asked == nil {
			continue
		}
		answered = len(screen)
		// What is typed before the echo is off is thrown away with that.
		for echo := true; echo; time.Sleep(5 * time.Millisecond) {
			mode, err := unix.IoctlGetTermios(int(ours.Fd()), unix.TCGETS)
			if err != nil {
				t.Fatal(err)
			}
			echo = mode.Lflag&unix.ECHO != 0
		}
		typed := "271828\n"
		if string(asked[1]) == "SO" {
			typed = "314159\n"
		}
		if _, err := ours.WriteString(typed); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDocsKeepPINs: no line of the documentation has a PIN on a command line or
// in the environment, where other users and all child processes see it.
func TestDocsKeepPINs(t *testing.T) {
	given := regexp.MustCompile(`--(so-|new-)?pin[ =]|\benv:\w*PIN|export \w*PIN|(^|\s)\w*PIN=\S|(echo|printf) +['"]?\d+['"]? *>`)
	for _, bad := range []string{"softhsm2-util --pin 271828", "pkcs11-tool --so-pin=1", "--pin env:PIN", "export PIN=$(cat pin)", "PIN=1 pkcs11-tool", "printf 271828 > pin"} {
		if !given.MatchString(bad) {
			t.Errorf("%q would pass", bad)
		}
	}
	for _, name := range docFiles(t) {
		for line := range strings.Lines(readDoc(t, name)) {
			if given.MatchString(line) {
				t.Errorf("%s gives a PIN away: %s", name, line)
			}
		}
	}
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
			out.WriteString(consented(line) + "\n")
		}
	}
	return out.String(), typed
}

// consented is a command line, with the fingerprints of the requests if it signs some.
func consented(line string) string {
	rest, signs := strings.CutPrefix(line, "balancer ceremony sign ")
	if !signs {
		return line
	}
	requests, _, _ := strings.Cut(rest, " --")
	for request := range strings.FieldsSeq(requests) {
		line += fmt.Sprintf(` --yes "$(balancer ceremony show %s | grep -oE '[a-z2-7]{4}(-[a-z2-7]{4}){5}')"`, request)
	}
	return line
}
