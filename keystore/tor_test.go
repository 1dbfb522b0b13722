package keystore

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// runTor lets a real tor load the onion service in dir, without a network, and
// returns once it has read its configuration and keys.
func runTor(t *testing.T, dir string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tor := exec.CommandContext(ctx, "tor", "--torrc-file", os.DevNull, "--defaults-torrc", os.DevNull, "--ignore-missing-torrc",
		"--DataDirectory", t.TempDir(), "--DisableNetwork", "1", "--SocksPort", "0", "--Log", "notice stdout",
		"--HiddenServiceDir", dir, "--HiddenServicePort", "80 127.0.0.1:9")
	out, err := tor.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	tor.Stderr = tor.Stdout
	if err := tor.Start(); err != nil {
		t.Fatalf("this test needs tor: %v", err)
	}
	defer func() {
		cancel()
		_ = tor.Wait()
	}()
	var log strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		log.WriteString(lines.Text() + "\n")
		// The first thing tor says when its options, and with them the keys of
		// its services, have been taken.
		if strings.Contains(lines.Text(), "Bootstrapped 0%") {
			return
		}
	}
	t.Fatalf("tor did not take %s:\n%s", dir, log.String())
}

// TestTorTakesOurKeys: tor takes a directory that we wrote as it is, and makes
// the same public files from our secret key.
func TestTorTakesOurKeys(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "front")
	fresh := newKey(t)
	if err := fresh.WriteTor(dir); err != nil {
		t.Fatal(err)
	}
	written := readDir(t, dir)
	runTor(t, dir)
	after := readDir(t, dir)
	for name, content := range written {
		if after[name] != content {
			t.Errorf("tor changed %s", name)
		}
	}
	for _, name := range []string{torPublicFile, torHostnameFile} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	runTor(t, dir)
	after = readDir(t, dir)
	for name, content := range written {
		if after[name] != content {
			t.Errorf("tor made another %s than we did", name)
		}
	}
}

// TestOpenTorsKeys: we open the directory of a service that tor made.
func TestOpenTorsKeys(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made by tor")
	runTor(t, dir)
	key, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if hostname := readDir(t, dir)[torHostnameFile]; key.Address().String() != strings.TrimSpace(hostname) {
		t.Errorf("address %s, tor says %s", key.Address(), hostname)
	}
}

// TestTorTakesAnyScalar: tor makes the host name that we read out of a key whose
// scalar is not clamped.
func TestTorTakesAnyScalar(t *testing.T) {
	k := someKey(t)
	for name, scalar := range map[string][]byte{"reduced": reduce(t, k.expanded[:32]), "all bits": bytes.Repeat([]byte{0xff}, 32)} {
		dir := writeDir(t, map[string][]byte{torSecretFile: slices.Concat(torHeader(torSecretTag), scalar, k.expanded[32:])})
		runTor(t, dir)
		key, err := Open(dir) // which compares it with tor's public key and host name
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if hostname := readDir(t, dir)[torHostnameFile]; key.Address().String() != strings.TrimSpace(hostname) {
			t.Errorf("%s: address %s, tor says %s", name, key.Address(), hostname)
		}
	}
}
