//go:build cgo

package token_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"onionbalancer/internal/locked/lockedtest"
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
				_, _, err := tok.Certify(t.Context(), o, s.file, period, public, hours)
				return err
			}},
			{"certify together", func() error {
				var group errgroup.Group
				for range 20 {
					group.Go(func() error {
						_, _, err := tok.Certify(t.Context(), o, s.file, period, public, hours)
						return err
					})
				}
				return group.Wait()
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
				path := false
				for name, where := range found {
					if strings.HasPrefix(name, "module path") {
						path = true
					} else {
						t.Errorf("%s is found in %s", name, where)
					}
				}
				if !path {
					t.Error("the search does not even find the path of the module")
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

// search looks into the memory of a process, when that allows it.
func search(t *testing.T, pid int, secrets map[string][]byte) map[string]string {
	t.Helper()
	found, err := lockedtest.NewNeedles(secrets).Search(strconv.Itoa(pid))
	for err != nil && errors.Is(err, fs.ErrPermission) && t.Context().Err() == nil {
		time.Sleep(time.Millisecond)
		found, err = lockedtest.NewNeedles(secrets).Search(strconv.Itoa(pid))
	}
	if err != nil {
		t.Fatal(err)
	}
	return found
}
