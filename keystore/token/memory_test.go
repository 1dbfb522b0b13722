//go:build cgo

package token_test

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"onionbalancer/keystore/token"
	"onionbalancer/keystore/token/tokentest"
)

// TestMemory searches the memory of a helper for all that is secret in a
// certification, and for what can be computed from it only, after each request
// that needs it.
func TestMemory(t *testing.T) {
	defer token.Program(buildHelper(t))()
	hsm := tokentest.New(t)
	hsm.Make(t, tokentest.AES, "aes", "01")
	hsm.Make(t, tokentest.RSA, "rsa", "02")
	hsm.Make(t, tokentest.P256, "ec", "03")
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, label := range []string{"aes", "rsa", "ec"} {
		o := token.Object{Label: label}
		tok := open(t, hsm.URI(""))
		s := newSecrets(t, tok, o)
		for _, step := range []struct {
			name    string
			request func() error
		}{
			{"wrap", func() error { return nil }}, // done by newSecrets
			{"certify", func() error {
				_, _, err := tok.Certify(t.Context(), o, s.file, period, public, expires)
				return err
			}},
			{"unseal", func() error {
				key, err := tok.Unseal(t.Context(), o, s.file)
				if err == nil {
					key.Wipe()
				}
				return err
			}},
			{"sign-identity", func() error {
				_, err := tok.SignIdentity(t.Context(), o, s.file, []byte("m"))
				return err
			}},
		} {
			t.Run(label+" "+step.name, func(t *testing.T) {
				if err := step.request(); err != nil {
					t.Fatal(err)
				}
				found := search(t, token.HelperPID(tok), s.needles)
				if found["module path"] == 0 {
					t.Error("the search does not even find the path of the module")
				}
				delete(found, "module path")
				for _, name := range slices.Sorted(maps.Keys(found)) {
					t.Errorf("%s is found %d times", name, found[name])
				}
			})
		}
		tok.Close()
	}
}

// buildHelper builds the helper with runtime/secret, without the race detector,
// which has much memory of its own.
func buildHelper(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "helper")
	cmd := exec.Command("go", "build", "-o", path, "./testdata/helper")
	cmd.Env = append(os.Environ(), "GOEXPERIMENT=runtimesecret", "CGO_ENABLED=1", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the helper: %v\n%s", err, out)
	}
	return path
}

// search counts in the writable memory of a process every eighth part of what
// it looks for, eight bytes at a time, so that half of a secret is found too.
func search(t *testing.T, pid int, needles map[string][]byte) map[string]int {
	t.Helper()
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	for range 100 { // until the helper of the test allows it
		if err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
		memory, err = os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	}
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	list, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer list.Close()
	found := make(map[string]int)
	searched := 0
	lines := bufio.NewScanner(list)
	for lines.Scan() {
		var from, to uint64
		var mode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(mode, "rw") {
			continue
		}
		content := make([]byte, to-from)
		n, err := memory.ReadAt(content, int64(from))
		if err != nil && n == 0 {
			continue // a device's
		}
		searched += n
		for name, secret := range needles {
			for i := 0; i+8 <= len(secret); i += 8 {
				if count := bytes.Count(content[:n], secret[i:i+8]); count > 0 {
					found[name] += count
					t.Logf("%s, bytes %d to %d: %d times in %s", name, i, i+7, count, lines.Text())
				}
			}
		}
	}
	if searched < 1<<20 {
		t.Fatalf("only %d bytes could be read", searched)
	}
	return found
}
