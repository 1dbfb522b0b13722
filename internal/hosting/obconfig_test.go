package hosting

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"onionbalancer/descriptor"
)

// numbered returns n addresses, sorted.
func numbered(n int) (list []descriptor.Address) {
	for i := range n {
		seed := make([]byte, ed25519.SeedSize)
		seed[0], seed[1] = byte(i), byte(i>>8)
		list = append(list, descriptor.Address(ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)))
	}
	return sorted(list...)
}

// torsLines reads an ob_config line by line, as someone would who knows only what is in one that
// balancer writes: the independent look at it.
func torsLines(t *testing.T, text []byte) (labels []string) {
	t.Helper()
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		label, is := strings.CutPrefix(line, "MasterOnionAddress ")
		label, ends := strings.CutSuffix(label, ".onion\n")
		if !is || !ends || len(label) != 56 {
			t.Errorf("a bad line: %q", line)
		}
		labels = append(labels, label)
	}
	return labels
}

func TestLines(t *testing.T) {
	for _, n := range []int{1, 2, 275, 1000} {
		want := numbered(n)
		text, err := FormatLines("s1\nMasterOnionAddress x", want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseLines(text)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%d addresses are read as %d, %v", n, len(got), err)
		}
		for i, label := range torsLines(t, text) {
			if label != want[i].Label() {
				t.Errorf("line %d is of %s, want %s", i, label, want[i].Label())
			}
		}
	}
	if _, err := FormatLines("s1", nil); !errors.Is(err, ErrNoLines) {
		t.Errorf("of no addresses: %v", err)
	}
}

// TestParseLines: what tor refuses, or crashes on, is refused.
func TestParseLines(t *testing.T) {
	a := numbered(1)[0]
	for text, want := range map[string]string{
		"": ErrNoLines.Error(),
		"# MasterOnionAddress " + a.String() + "\n":                ErrNoLines.Error(),
		"MasterOnionAddress " + a.Label() + "\n":                   `line 1: "` + a.Label() + `" lacks ".onion"`,
		"\nMasterOnionAddress " + a.String() + "x":                 "line 2: ",
		"MasterOnionAddress " + a.String() + " " + a.String():      "line 1: ",
		"HiddenServiceDir /d\nMasterOnionAddress " + a.String():    `line 1: "HiddenServiceDir" does not belong here`,
		"MasterOnionAddress " + strings.Repeat("a", 56) + ".onion": "line 1: ",
		"MasterOnionAddress\n":                                     "line 1: ",
		"MasterOnionAddress \"" + a.String():                       "not closed",
		"MasterOnionAddress \"" + a.String() + "\"\n":              "",
		"masterOnionAddress \\\n" + a.String() + "\r\n# two\n":     "",
		"MasterOnionAddress " + a.String() + " # one\n\n\n":        "",
	} {
		got, err := ParseLines([]byte(text))
		if want == "" && (err != nil || !slices.Equal(got, []descriptor.Address{a})) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
		if want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, %v, want %q", text, got, err, want)
		}
	}
}

// FuzzParseLines: what is read can be written, and is read as the same.
func FuzzParseLines(f *testing.F) {
	text, err := FormatLines("s1", numbered(3))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("MasterOnionAddress \"\\\n#"))
	f.Fuzz(func(t *testing.T, text []byte) {
		first, err := ParseLines(text)
		if err != nil {
			return
		}
		again, err := FormatLines("s1", first)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := ParseLines(again); err != nil || !slices.Equal(first, second) {
			t.Errorf("%v and %v, %v", first, second, err)
		}
	})
}

// TestLinesOfDir: every key that is not removed has its line, wherever it is.
func TestLinesOfDir(t *testing.T) {
	d := newDir(t)
	a, b, c := d.newKey(t, 1), d.newKey(t, 2), d.newKey(t, 3)
	if _, _, err := d.Install(); err != nil {
		t.Fatal(err)
	}
	e := d.newKey(t, 4)
	if err := errors.Join(d.Take(a, "shop"), d.Take(b, "gone"), d.Retire("gone", b)); err != nil {
		t.Fatal(err)
	}
	got, err := d.Lines()
	if want := sorted(a, c, e); err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	if err := os.WriteFile(filepath.Join(d.path, "shop", torKey), []byte("damaged"), privateFile); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Lines(); err == nil {
		t.Errorf("with a key that cannot be read, which would lose its line: %v", got)
	}
}

// TestWriteLines: the file of a replica is replaced as a whole, and never by an empty one.
func TestWriteLines(t *testing.T) {
	d := newDir(t)
	if _, err := d.Written("web1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before: %v", err)
	}
	for _, step := range []struct {
		addresses []descriptor.Address
		changed   bool
		err       error
		left      int
	}{
		{numbered(3), true, nil, 3},
		{numbered(3), false, nil, 3},
		{nil, false, ErrNoLines, 3},
		{[]descriptor.Address{{1}}, false, descriptor.ErrAddress, 3}, // of low order
		{numbered(5), true, nil, 5},
	} {
		changed, err := d.WriteLines("s1", "web1", step.addresses)
		if changed != step.changed || !errors.Is(err, step.err) {
			t.Errorf("%d addresses: %t, %v, want %t, %v", len(step.addresses), changed, err, step.changed, step.err)
		}
		if left, err := d.Written("web1"); err != nil || len(left) != step.left {
			t.Errorf("%d addresses: %d are written, %v", len(step.addresses), len(left), err)
		}
	}
	dir, _ := d.ReplicaDir("web1")
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left in %s: %v, %v", dir, entries, err)
	}
	if info, err := os.Stat(filepath.Join(dir, LinesFile)); err != nil || info.Mode().Perm() != privateFile {
		t.Errorf("mode %v, %v", info, err)
	}
	if _, err := d.WriteLines("s1", "../web1", numbered(1)); err == nil {
		t.Error("a replica is written elsewhere")
	}
	if names, err := d.Replicas(); err != nil || !slices.Equal(names, []string{"web1"}) {
		t.Errorf("replicas %q, %v", names, err)
	}
}

func TestReplica(t *testing.T) {
	d := newDir(t)
	ports := []Port{{80, "127.0.0.1:8080"}, {443, "unix:/run/web.sock"}}
	first, err := d.MakeReplica("web1")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := d.MakeReplica("web1"); err != nil || again != first {
		t.Errorf("again: %v, %v, want %v", again, err, first)
	}
	if other, err := d.MakeReplica("web2"); err != nil || other == first {
		t.Errorf("two replicas have one address: %v, %v", other, err)
	}
	if err := errors.Join(d.WriteTorrc("s1", "web1", ports), d.WriteTorrc("s1", "web1", nil)); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Ports("web1"); err != nil || !slices.Equal(got, ports) {
		t.Errorf("the torrc has %v, %v, want %v", got, err, ports)
	}
	text, err := os.ReadFile(filepath.Join(d.path, replicasDir, "web1", TorrcFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"SocksPort 0", "HiddenServiceDir /var/lib/tor/s1", "HiddenServicePort 80 127.0.0.1:8080", "HiddenServicePort 443 unix:/run/web.sock",
		"HiddenServiceOnionBalanceInstance 1", "HiddenServiceEnableIntroDoSDefense 1", "HiddenServiceEnableIntroDoSRatePerSec 25",
		"HiddenServiceEnableIntroDoSBurstPerSec 50", "HiddenServicePoWDefensesEnabled 0",
	} {
		if !bytes.Contains(text, []byte("\n"+line+"\n")) {
			t.Errorf("no %q in\n%s", line, text)
		}
	}
}

func TestParsePort(t *testing.T) {
	for s, want := range map[string]string{
		"80:127.0.0.1:8080": "80 127.0.0.1:8080", "80": "80 127.0.0.1:80", "443:8443": "443 127.0.0.1:8443", "80:10.0.0.1": "80 10.0.0.1:80",
		"80:[::1]:8080": "80 [::1]:8080", "80:::1": "80 [::1]:80", "80:unix:/run/web.sock": "80 unix:/run/web.sock", "80:web:8080": "80 web:8080",
		"": "", "0": "", "65536": "", "http": "", "80:": "", "80:127.0.0.1:": "", "80:127.0.0.1:0": "", "80:unix:run": "", "80:unix:/a b": "", "80:a b:1": "",
		"80:a\nHiddenServicePort 22:1": "",
	} {
		p, err := ParsePort(s)
		if want == "" && err == nil || want != "" && (err != nil || p.String() != want) {
			t.Errorf("%q: %q, %v, want %q", s, p, err, want)
		}
	}
}

// TestPorts: what a torrc of ours says is read as it was.
func TestPorts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ports := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Port {
			p := Port{uint16(rapid.IntRange(1, 65535).Draw(t, "virtual")), rapid.StringMatching(`(127\.0\.0\.1|\[::1\]|web-1):[1-9][0-9]{0,3}|unix:/[a-z/.]{1,20}`).Draw(t, "target")}
			if _, err := readPort(p.String()); err != nil {
				t.Fatalf("%s: %v", p, err)
			}
			return p
		}), 1, 5).Draw(t, "ports")
		found, notes, err := readTorrc(Torrc("s1", "web1", "/var/lib/tor/s1", ports))
		if err != nil || len(notes) > 0 || len(found) != 1 || !found[0].instance || found[0].Dir != "/var/lib/tor/s1" || !slices.Equal(found[0].Ports, ports) {
			t.Errorf("%v is read as %+v, %q, %v", ports, found, notes, err)
		}
	})
}

// TestInstallWritten: a key that was made after the files were written is not taken for one
// that the replicas know.
func TestInstallWritten(t *testing.T) {
	d := newDir(t)
	a := d.newKey(t, 1)
	for _, replica := range []string{"web1", "web2"} {
		if _, err := d.WriteLines("s1", replica, []descriptor.Address{a}); err != nil {
			t.Fatal(err)
		}
	}
	b := d.newKey(t, 2)
	if spares, _, err := d.Install(); err != nil || !slices.Equal(spares, []descriptor.Address{a}) {
		t.Errorf("installed %v, %v", spares, err)
	}
	if pending, err := d.Pending(); err != nil || !slices.Equal(pending, []descriptor.Address{b}) {
		t.Errorf("pending %v, %v", pending, err)
	}
	if _, err := d.WriteLines("s1", "web1", sorted(a, b)); err != nil {
		t.Fatal(err)
	}
	if spares, _, err := d.Install(); err != nil || len(spares) > 0 {
		t.Errorf("installed what one replica knows: %v, %v", spares, err)
	}
	if missing, err := d.Unwritten([]descriptor.Address{a, b}); err != nil || !slices.Equal(missing, []descriptor.Address{b}) {
		t.Errorf("missing %v, %v", missing, err)
	}
}
