package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"onionbalancer/descriptor"
	"onionbalancer/internal/config"
)

// The documentation's examples are executed here, so that none goes stale.

const repository = "../.."

// block is a fenced code block of a Markdown file.
type block struct {
	file     string
	language string
	lines    []string
}

func (b block) text() string { return strings.Join(b.lines, "\n") + "\n" }

func readDoc(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(repository, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// docFiles lists the Markdown files that are written for people who run us.
func docFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(repository, "doc", "*.md"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no doc/*.md: %v", err)
	}
	names := []string{"README.md"}
	for _, f := range files {
		names = append(names, filepath.Join("doc", filepath.Base(f)))
	}
	return names
}

// blocks returns the fenced blocks in a language, without their indentation.
// It fails if there are fewer than least.
func blocks(t *testing.T, language string, least int) []block {
	t.Helper()
	var found []block
	for _, name := range docFiles(t) {
		var open *block
		indent := ""
		for line := range strings.Lines(readDoc(t, name)) {
			line = strings.TrimSuffix(line, "\n")
			before, after, fence := strings.Cut(line, "```")
			switch {
			case fence && open == nil:
				open, indent = &block{file: name, language: after}, before
			case fence:
				if open.language == language {
					found = append(found, *open)
				}
				open = nil
			case open != nil:
				open.lines = append(open.lines, strings.TrimPrefix(line, indent))
			}
		}
		if open != nil {
			t.Errorf("%s: a block of %q is not closed", name, open.language)
		}
	}
	if len(found) < least {
		t.Fatalf("%d blocks of %q, want at least %d", len(found), language, least)
	}
	return found
}

func TestDocsConfigurations(t *testing.T) {
	for _, b := range blocks(t, "toml", 2) {
		if _, err := config.Parse([]byte(b.text()), "/etc/balancer/balancer.toml"); err != nil {
			t.Errorf("%s: %v in\n%s", b.file, err, b.text())
		}
	}
}

// findCommand resolves a command line, from the word after "balancer" on, and
// checks its flags.
func findCommand(t *testing.T, where string, words []string) *cobra.Command {
	t.Helper()
	root := newRootCommand()
	root.InitDefaultCompletionCmd()
	cmd, rest, err := root.Find(words)
	if err != nil || cmd == root {
		t.Errorf("%s: balancer %s: no such command (%v)", where, strings.Join(words, " "), err)
		return nil
	}
	if err := cmd.ParseFlags(rest); err != nil {
		t.Errorf("%s: balancer %s: %v", where, strings.Join(words, " "), err)
		return nil
	}
	return cmd
}

// checkCommand checks the arguments of a whole command line as well.
func checkCommand(t *testing.T, where string, words []string) {
	t.Helper()
	cmd := findCommand(t, where, words)
	if cmd == nil {
		return
	}
	if cmd.HasSubCommands() {
		t.Errorf("%s: balancer %s: needs a subcommand", where, strings.Join(words, " "))
		return
	}
	if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
		t.Errorf("%s: balancer %s: %v", where, strings.Join(words, " "), err)
	}
}

func TestDocsCommands(t *testing.T) {
	seen := 0
	for _, b := range blocks(t, "sh", 5) {
		for _, line := range b.lines {
			line, _, _ = strings.Cut(line, " > ")
			line, _, _ = strings.Cut(line, " #")
			words := strings.Fields(strings.TrimPrefix(strings.TrimPrefix(line, "runuser -u balancer -- "), "bin/"))
			if len(words) > 0 && words[0] == "balancer" {
				checkCommand(t, b.file, words[1:])
				seen++
			}
		}
	}
	if seen < 10 {
		t.Errorf("%d command lines seen, want at least 10", seen)
	}
}

// TestDocsMentions: what stands within a text as `balancer …` exists; it may
// leave out arguments.
func TestDocsMentions(t *testing.T) {
	mention := regexp.MustCompile("`balancer\\s([^`]+)`")
	for _, name := range docFiles(t) {
		for _, m := range mention.FindAllStringSubmatch(readDoc(t, name), -1) {
			if words := strings.Fields(m[1]); words[0] != "…" {
				findCommand(t, name, words)
			}
		}
	}
}

func TestDocsUnit(t *testing.T) {
	unit := readDoc(t, "doc/balancer.service")
	commands := regexp.MustCompile(`(?m)^Exec\w+=/usr/local/bin/balancer (.*)$`).FindAllStringSubmatch(unit, -1)
	if len(commands) != 1 {
		t.Fatalf("%d commands of ours, want 1", len(commands))
	}
	for _, c := range commands {
		checkCommand(t, "doc/balancer.service", strings.Fields(c[1]))
	}
	for _, line := range []string{"Type=exec", "ExecReload=/bin/kill -HUP $MAINPID", "User=balancer", "KillMode=mixed"} {
		if !strings.Contains(unit, "\n"+line+"\n") {
			t.Errorf("no line %q", line)
		}
	}
}

// TestDocsUnitSecurity: the unit leaves a broken daemon little to do, and what
// must be is in it.
func TestDocsUnitSecurity(t *testing.T) {
	unit := readDoc(t, "doc/balancer.service")
	for _, line := range []string{"Restart=always", "StartLimitIntervalSec=0", "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK"} {
		if !strings.Contains(unit, "\n"+line+"\n") {
			t.Errorf("no line %q", line)
		}
	}
	if strings.Contains(unit, "\nPrivateUsers=yes") {
		t.Error("PrivateUsers hides who is at the other end of a socket")
	}
	const most = 1.5
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "security", "--offline=true", "--no-pager",
		filepath.Join(repository, "doc/balancer.service")).CombinedOutput()
	m := regexp.MustCompile(`Overall exposure level for balancer\.service: ([0-9.]+)`).FindSubmatch(out)
	if err != nil || m == nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if exposure, err := strconv.ParseFloat(string(m[1]), 64); err != nil || exposure > most {
		t.Errorf("the exposure is %s, want at most %v (%v)\n%s", m[1], most, err, out)
	}
}

// TestDocsTorrc has a real tor verify every torrc, with the ob_config that the
// README gives.
func TestDocsTorrc(t *testing.T) {
	var masters string
	for _, b := range blocks(t, "ob_config", 2) {
		masters = b.text()
		for _, line := range b.lines {
			keyword, address, _ := strings.Cut(line, " ")
			if _, err := descriptor.ParseAddress(address); err != nil || keyword != "MasterOnionAddress" {
				t.Errorf("%s: ob_config line %q: %v", b.file, line, err)
			}
		}
	}
	serviceDir := regexp.MustCompile(`(?m)^HiddenServiceDir (/var/lib/tor/(\w+))$`)
	for _, b := range blocks(t, "torrc", 3) {
		dir := t.TempDir()
		text := b.text()
		for _, m := range serviceDir.FindAllStringSubmatch(text, -1) {
			service := filepath.Join(dir, m[2])
			if err := os.Mkdir(service, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(service, "ob_config"), []byte(masters), 0o600); err != nil {
				t.Fatal(err)
			}
			text = strings.Replace(text, m[1], service, 1)
		}
		verifyTorrc(t, b.file, dir, text)
	}
}

func verifyTorrc(t *testing.T, where, dir, text string) {
	t.Helper()
	torrc, none := filepath.Join(dir, "torrc"), filepath.Join(dir, "defaults")
	for path, content := range map[string]string{torrc: text, none: ""} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "tor", "--verify-config", "-f", torrc, "--defaults-torrc", none,
		"--DataDirectory", filepath.Join(dir, "data")).CombinedOutput()
	said := string(out)
	if err != nil || !strings.Contains(said, "Configuration was valid") {
		t.Errorf("%s: tor refuses (%v)\n%s\n%s", where, err, text, said)
	}
	registered := strings.Contains(said, "MasterOnionAddress") && strings.Contains(said, "registered")
	if strings.Contains(text, "HiddenServiceOnionBalanceInstance 1") != registered {
		t.Errorf("%s: public address registered: %v\n%s", where, registered, said)
	}
}

// TestDocsLinks: what is linked to is there.
func TestDocsLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#\s]*)(#[^)\s]*)?\)`)
	heading := regexp.MustCompile(`(?m)^#+ (.*)$`)
	for _, name := range docFiles(t) {
		for _, m := range link.FindAllStringSubmatch(readDoc(t, name), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			target := name
			if m[1] != "" {
				target = filepath.Join(filepath.Dir(name), m[1])
			}
			text := readDoc(t, target)
			anchors := []string{""}
			for _, h := range heading.FindAllStringSubmatch(text, -1) {
				anchors = append(anchors, "#"+anchor(h[1]))
			}
			if !slices.Contains(anchors, m[2]) {
				t.Errorf("%s: no heading for %s%s", name, m[1], m[2])
			}
		}
	}
}

// anchor makes a heading's anchor as the usual renderers do.
func anchor(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
			return unicode.ToLower(r)
		case r == ' ':
			return '-'
		}
		return -1
	}, heading)
}

// TestDocsMake: every "make TARGET" that the documentation tells people to type
// is in the Makefile.
func TestDocsMake(t *testing.T) {
	makefile := readDoc(t, "Makefile")
	target := regexp.MustCompile("(?m)(?:^ *|`)make ([a-z]+)")
	for _, name := range docFiles(t) {
		for _, m := range target.FindAllStringSubmatch(readDoc(t, name), -1) {
			if !strings.Contains(makefile, "\n"+m[1]+":") {
				t.Errorf("%s: the Makefile has no target %q", name, m[1])
			}
		}
	}
}

// TestDocsGoTest: the packages and tests named in "go test" lines exist.
func TestDocsGoTest(t *testing.T) {
	seen := 0
	for _, name := range docFiles(t) {
		for line := range strings.Lines(readDoc(t, name)) {
			line, _, _ = strings.Cut(line, "#")
			words := strings.Fields(line)
			if len(words) < 3 || words[0] != "go" || words[1] != "test" {
				continue
			}
			seen++
			dir := ""
			for i, word := range words {
				if strings.HasPrefix(word, "./") {
					dir = word
					if _, err := os.Stat(filepath.Join(repository, dir)); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				}
				if word == "-run" || word == "-fuzz" {
					checkTestExists(t, dir, words[i+1])
				}
			}
		}
	}
	if seen < 3 {
		t.Errorf("%d lines with \"go test\", want at least 3", seen)
	}
}

func checkTestExists(t *testing.T, dir, name string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(repository, dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(raw), "\nfunc "+name+"(") {
			return
		}
	}
	t.Errorf("%s has no %s", dir, name)
}
