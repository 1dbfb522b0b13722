package process

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// readings are torrc files, each way in which tor puts a line together.
var readings = []string{
	"ConnectionPadding 0\r\n",
	"\ufeffConnectionPadding 0\r\nNumCPUs 2\r\n",
	"# a comment\n\n  NumCPUs 2 # another\nContactInfo a b#c\n\t \v\n#\n",
	"ContactInfo a\\\nb\\\n c\\\r\n# within\nd # and e\\\n f\nNumCPUs 2",
	"ContactInfo \\\n  spaces\n",
	"ContactInfo \\\n\"in quotes\"\nNumCPUs\\\n2\n",
	"ContactInfo \"a # b\\\"c\\\\\" # the end\nContactInfo \"\\x41\\101\"\n",
	"contactinfo a\\b\\\\\nContactInfo ends in \\",
	"+ReachableAddresses *:80\n+ReachableAddresses *:443\n/EntryNodes x\n",
	"NumCPUs#3\nContactInfo\nContactInfo \"\"\n",
	"UseBridges 1\nBridge 192.0.2.1:443 0123456789ABCDEF0123456789ABCDEF01234567\n",
}

// TestReadsAsTor: what the file says to tor, and what our lines say to it, is
// the same.
func TestReadsAsTor(t *testing.T) {
	for _, text := range readings {
		list, problems := parseTorrc([]byte(text))
		if len(problems) > 0 {
			t.Errorf("%q: %v", text, problems[0])
			continue
		}
		var lines strings.Builder
		for _, o := range list {
			lines.WriteString(o.String() + "\n")
		}
		got, want := dumpConfig(t, lines.String()), dumpConfig(t, strings.TrimPrefix(text, "\ufeff"))
		if len(list) == 0 || got != want {
			t.Errorf("%q is %q, which tor reads as\n%s, want\n%s", text, lines.String(), got, want)
		}
	}
}

// dumpConfig returns what tor makes of a torrc file.
func dumpConfig(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	torrc, none := filepath.Join(dir, "torrc"), filepath.Join(dir, "defaults")
	for path, content := range map[string]string{torrc: text, none: ""} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.CommandContext(t.Context(), "tor", "-f", torrc, "--defaults-torrc", none, "--dump-config", "short",
		"--DataDirectory", "/nonexistent", "--hush").Output()
	if err != nil {
		t.Fatalf("tor refuses %q: %v\n%s", text, err, out)
	}
	return string(out)
}

// TestRefused: no way of writing a refused option gets past, and the complaint
// has its line.
func TestRefused(t *testing.T) {
	for text, want := range map[string]string{
		"# give to tor.torrc\nRunAsDaemon 1\n": "t:2: RunAsDaemon: balancer would take a tor in the background",
		"\r\nrunasdaemon 0\r\n":                "t:2: runasdaemon: ",
		"NumCPUs 2\\\n\n+SocksPort 9050":       "t:3: +SocksPort: this tor serves balancer alone",
		"/Log":                                 "t:1: /Log: balancer reads tor's log",
		"RunAsDae 1":                           "t:1: RunAsDae: tor may take it for RunAsDaemon, which must not be here",
		"H /x":                                 "t:1: H: tor may take it for ",
		"ControlPortLines 1":                   "t:1: ControlPortLines: ",
		"ControlSocket \"/x\"":                 "t:1: ControlSocket: ",
		"__ControlPort 9051":                   "t:1: __ControlPort: it is for the program that controls tor",
		"_ 1":                                  "t:1: _: ",
		"%include /etc/tor/torrc":              "t:1: %include: ",
		"+%include /etc/tor/torrc":             "t:1: +%include: ",
		"ContactInfo me\\\n# RunAsDaemon\nUser\\\nroot": "",
		"\nUser\\\nroot":        "t:2: User: ",
		"ContactInfo \"a":       "t:1: ContactInfo: the quotes are not closed in their line",
		"ContactInfo \"a\" b":   "t:1: ContactInfo: something follows",
		"ContactInfo \"a\\":     "t:1: ContactInfo: the quotes are not closed",
		"\\\nx":                 "t:1: tor has no option of that name",
		"NumCPUs\\#2":           "t:1: NumCPUs\\: tor has no option of that name",
		"NumCPUs 2\nB\x00ridge": "t:2: is no plain text",
		"\xff\xfeS\x00o\x00":    "t:1: is no plain text",
	} {
		_, problems := parseTorrc([]byte(text))
		switch {
		case want == "" && len(problems) == 0:
		case want == "" || len(problems) == 0:
			t.Errorf("%q: %v", text, problems)
		default:
			problems[0].File = "t"
			if got := problems[0].Error(); !strings.HasPrefix(got, want) {
				t.Errorf("%q: %q, want %q", text, got, want)
			}
		}
	}
	_, problems := parseTorrc([]byte("User a\nUseBridges 1\nSandbox 1\nContactInfo \"\n"))
	var at []int
	for _, p := range problems {
		at = append(at, p.Line)
	}
	if !slices.Equal(at, []int{1, 3, 4}) {
		t.Errorf("complaints about lines %d, want all three", at)
	}
}

// TestRefusedAreOptions: the rules name options that tor has, each whole option
// that begins another one is known as such, and what bridges, proxies and
// private networks need stays allowed.
func TestRefusedAreOptions(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "tor", "--list-torrc-options").Output()
	if err != nil {
		t.Fatal(err)
	}
	options := strings.Fields(string(out))
	if len(options) < 200 {
		t.Fatalf("tor has only %d options", len(options))
	}
	for _, r := range refused {
		for pattern := range strings.FieldsSeq(r.names) {
			stem, open := strings.CutSuffix(pattern, "*")
			if pattern != "%include" && !slices.ContainsFunc(options, func(o string) bool {
				return o == stem || open && strings.HasPrefix(o, stem)
			}) {
				t.Errorf("tor has no option %s", pattern)
			}
		}
	}
	for _, option := range options {
		if err := refusal(option); err != nil && strings.Contains(err.Error(), "may take it for") {
			t.Errorf("%s is an option itself: %v", option, err)
		}
	}
	for _, option := range []string{"UseBridges", "Bridge", "ClientTransportPlugin", "Socks5Proxy", "HTTPSProxy", "ReachableAddresses",
		"TestingTorNetwork", "DirAuthority", "EntryNodes", "ExcludeNodes", "ConnectionPadding", "BandwidthRate", "ClientUseIPv6", "MetricsPort"} {
		if err := refusal(option); err != nil || !slices.Contains(options, option) {
			t.Errorf("%s: %v", option, err)
		}
	}
}

// TestOurLinesAreRefused: whatever we write into torrc, nobody overrules.
func TestOurLinesAreRefused(t *testing.T) {
	f := &files{dir: "/d", socket: "/d/s"}
	text, err := f.render(Config{}, 1)
	if err != nil {
		t.Fatal(err)
	}
	list, syntax := scanTorrc(text)
	if syntax != nil || len(list) < 10 {
		t.Fatalf("%d options, %v", len(list), syntax)
	}
	for _, o := range list {
		if refusal(o.key) == nil {
			t.Errorf("%s may be overruled", o.key)
		}
	}
}

func TestReadLines(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "torrc")
	for _, bad := range []string{dir, path} {
		if _, err := ReadLines(bad); err == nil {
			t.Errorf("%s is read", bad)
		}
	}
	if err := os.WriteFile(path, []byte("UseBridges 1\nSandbox 1\nUser x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := ReadLines(path)
	problem := (*TorrcError)(nil)
	if !errors.As(err, &problem) || strings.Count(err.Error(), path) != 2 {
		t.Errorf("got %v", err)
	}
}

// FuzzTorrcLines: what is read means the same when it is written in one line
// each, and nothing refused gets past.
func FuzzTorrcLines(f *testing.F) {
	for _, text := range readings {
		f.Add([]byte(text))
	}
	f.Add([]byte("User\\\nroot\n+Log \"notice\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, problems := parseTorrc(text)
		if len(problems) > 0 {
			return
		}
		var lines strings.Builder
		for _, o := range list {
			if line := o.String(); strings.ContainsAny(line, "\r\n\x00") || strings.HasSuffix(line, `\`) {
				t.Fatalf("%q is no line", line)
			}
			lines.WriteString(o.String() + "\n")
		}
		again, problems := parseTorrc([]byte(lines.String()))
		if len(problems) > 0 || len(again) != len(list) {
			t.Fatalf("%q becomes %q: %d options, were %d (%v)", text, lines.String(), len(again), len(list), problems)
		}
		for i, o := range again {
			if o.key != list[i].key || o.value != list[i].value {
				t.Fatalf("%q becomes %q", list[i], o)
			}
		}
	})
}

func TestOptions(t *testing.T) {
	got, err := Options([]byte("\ufeff# one\nHiddenServiceDir \"/var/lib/a b\\\\\\\"\\x41\\101\\n\"  # two\r\n+HiddenServicePort 80 \\\n# three\n  127.0.0.1:81\nlast"))
	want := []Option{{2, "HiddenServiceDir", "/var/lib/a b\\\"AA\n"}, {3, "+HiddenServicePort", "80   127.0.0.1:81"}, {6, "last", ""}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for text, want := range map[string]string{
		"a \"b":       "line 1: a: the quotes are not closed",
		"\na \"\\q\"": "line 2: a: \"\\\\q\" is no escape",
		"a \"\\x4\"":  "no escape",
		"a \"\\xzz\"": "no escape",
		"a \"\\777\"": "no escape",
		"a \"b\" c":   "something follows",
	} {
		if got, err := Options([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v, want %q", text, got, err, want)
		}
	}
}

// FuzzOptions: what is quoted is read as it was.
func FuzzOptions(f *testing.F) {
	f.Add("/var/lib/tor", []byte("a \"\\x4\"\nb"))
	f.Add("a\\\"\r\n", []byte("a \\\n#\n b"))
	f.Fuzz(func(t *testing.T, value string, text []byte) {
		if !strings.ContainsAny(value, "\x00\r") {
			got, err := Options([]byte("key " + quote(value)))
			if err != nil || len(got) != 1 || got[0] != (Option{1, "key", value}) {
				t.Errorf("%q is read as %+v, %v", value, got, err)
			}
		}
		_, _ = Options(text)
	})
}
