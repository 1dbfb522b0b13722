package hosting

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"onionbalancer/keystore"
)

// hidden makes a HiddenServiceDir.
func hidden(t *testing.T, dir string, n byte) {
	t.Helper()
	fresh, err := keystore.New(bytes.NewReader(bytes.Repeat([]byte{n}, 64)))
	if err == nil {
		err = fresh.WriteTor(dir)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// write makes files.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), privateDir), os.WriteFile(path, []byte(text), privateFile)); err != nil {
			t.Fatal(err)
		}
	}
}

// summary is what was found, each on a line.
func summary(found []Found) string {
	var text strings.Builder
	for _, f := range found {
		fmt.Fprintf(&text, "%s %v %q %v %v\n", f.Name, f.Ports, f.Options, f.Address != [32]byte{}, f.Refused)
	}
	return text.String()
}

// TestFind reads a host with many onion services, some of which cannot be customers.
func TestFind(t *testing.T) {
	host := t.TempDir()
	for n, name := range []string{"shop", "blog", "club", "backend", "two words"} {
		hidden(t, filepath.Join(host, name), byte(n))
	}
	write(t, host, map[string]string{
		"club/authorized_clients/a.auth": "descriptor:x25519:AAAA",
		"backend/ob_config":              "MasterOnionAddress x.onion",
		"old/private_key":                "-----BEGIN RSA PRIVATE KEY-----",
		"notes.txt":                      "",
		"torrc": `# the host's
DataDirectory /var/lib/tor
%include /etc/torrc.d/*.conf
HiddenServiceNonAnonymousMode 0
HiddenServiceDir shop
HiddenServicePort 80 127.0.0.1:8001
HiddenServicePort 443 \
  unix:/run/shop.sock
HiddenServiceMaxStreams 10

hiddenservicedir "` + host + `/blog"  # in quotes
+HiddenServicePort 80
HiddenServiceVersion 3
HiddenServiceDir ` + host + `/backend
HiddenServiceOnionBalanceInstance 1
HiddenServiceDir ` + host + `/club/
HiddenServiceDir ` + host + `/absent
HiddenServiceDir ` + host + `/old
HiddenServiceVersion 2
SocksPort 0
`})
	found, notes, err := Find(filepath.Join(host, "torrc"))
	if err != nil || len(notes) != 1 || !strings.Contains(notes[0], "line 3: %include /etc/torrc.d/*.conf is not followed") {
		t.Fatalf("%q, %v", notes, err)
	}
	want := []string{
		`shop [80 127.0.0.1:8001 443 unix:/run/shop.sock] ["HiddenServiceMaxStreams 10"] true <nil>`,
		`blog [80 127.0.0.1:80] [] true <nil>`,
		`backend [] [] false it is a backend of an onion balancer`,
		`club [] [] false only the clients in its authorized_clients can find it`,
		`absent [] [] false there is no key`,
		`old [] [] false it is of version 2, which Tor has given up`,
	}
	if got := strings.Split(summary(found), "\n"); len(got) != len(want)+1 {
		t.Errorf("%q", got)
	} else {
		for i := range want {
			if !strings.HasPrefix(got[i], want[i]) {
				t.Errorf("%q, want %q", got[i], want[i])
			}
		}
	}
	found, _, err = Find(host)
	got := summary(found)
	for _, want := range []string{"shop [] [] true <nil>\n", "blog [] [] true <nil>\n", "two words [] [] false this is no name for a customer: \"two words\"", "old [] [] false it has a version 2 address"} {
		if err != nil || !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s%v", want, got, err)
		}
	}
	if found, _, err := Find(filepath.Join(host, "shop")); err != nil || len(found) != 1 || found[0].Name != "shop" || found[0].Refused != nil {
		t.Errorf("%+v, %v", found, err)
	}
}

func TestFindNothing(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"torrc": "SocksPort 0\n", "before": "HiddenServicePort 80\nHiddenServiceDir a\n", "quotes": "HiddenServiceDir \"a\n", "port": "HiddenServiceDir a\nHiddenServicePort eighty\n"})
	for path, want := range map[string]string{
		"torrc": "none in", "before": "line 1: HiddenServicePort stands before any HiddenServiceDir", "quotes": "line 1: HiddenServiceDir: the quotes are not closed",
		"port": "line 2: HiddenServicePort: \"eighty\" is no port", "": "none in", "absent": "no such file",
	} {
		if found, _, err := Find(filepath.Join(dir, path)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v, want %q", path, found, err, want)
		}
	}
}

// FuzzTorrc: whatever a torrc has, what is found of it are services with a directory line each.
func FuzzTorrc(f *testing.F) {
	f.Add([]byte("HiddenServiceDir a\nHiddenServicePort 80 unix:/b\n"))
	f.Add(Torrc("s1", "web1", "/d", []Port{DefaultPort}))
	f.Add([]byte("%include \\\n#\nHiddenServiceDir \"\\x41\""))
	f.Fuzz(func(t *testing.T, text []byte) {
		found, _, err := readTorrc(text)
		if lines := bytes.Count(bytes.ToLower(text), []byte("hiddenservicedir")); err == nil && len(found) > lines {
			t.Errorf("%d services in %d lines", len(found), lines)
		}
		for _, service := range found {
			for _, p := range service.Ports {
				if again, err := readPort(p.String()); err != nil || again != p {
					t.Errorf("%s is read as %s, %v", p, again, err)
				}
			}
		}
	})
}
