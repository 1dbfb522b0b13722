//go:build cgo

package keystore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"onionbalancer/descriptor"
	"onionbalancer/keystore/token"
	"onionbalancer/keystore/token/tokentest"
)

// TestSealNew makes keys by each kind of wrapping key, and has all certify.
func TestSealNew(t *testing.T) {
	hsm := tokentest.New(t)
	for _, kind := range []tokentest.Kind{tokentest.AES, tokentest.RSA, tokentest.P256} {
		label := "seal " + string(kind[len(kind)-5:])
		hsm.Make(t, kind, label, "01")
		dir := filepath.Join(t.TempDir(), "shard", ".pending")
		addresses, err := SealNew(t.Context(), mustURI(t, hsm.URI(label)), 70, func(a descriptor.Address) string {
			return filepath.Join(dir, a.String()[:12], "key.sealed")
		})
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 70 || len(addresses) != 70 {
			t.Errorf("%s: %d addresses, %d directories, %v", kind, len(addresses), len(entries), err)
		}
		wrapped := map[string]bool{}
		for _, a := range addresses {
			path := filepath.Join(dir, a.String()[:12], "key.sealed")
			file, err := ReadSealed(path)
			if err != nil || file.Address() != a {
				t.Fatalf("%s: %v", path, err)
			}
			_, key := file.Wrapped()
			wrapped[string(key)] = true
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v, %v", path, info.Mode(), err)
			}
		}
		if len(wrapped) != 1 {
			t.Errorf("%s: %d data keys", kind, len(wrapped))
		}
		ref := hsm.URI(label) + "&x-sealed=" + filepath.Join(dir, addresses[69].String()[:12], "key.sealed")
		if err := VerifySealed(t.Context(), mustURI(t, ref)); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// TestSealNewFails: whatever goes wrong, nothing is left behind, and nothing is overwritten.
func TestSealNewFails(t *testing.T) {
	hsm := tokentest.New(t)
	hsm.Make(t, tokentest.AES, "seal", "01")
	for name, path := range map[string]func(dir string, n int) string{
		"taken":        func(dir string, n int) string { return filepath.Join(dir, "one", "key.sealed") },
		"no directory": func(dir string, n int) string { return filepath.Join(dir, []string{"good", "file"}[n%2], "key.sealed") },
	} {
		dir := writeDir(t, map[string][]byte{"file": []byte("mine")})
		n := 0
		_, err := SealNew(t.Context(), mustURI(t, hsm.URI("seal")), 5, func(descriptor.Address) string { n++; return path(dir, n) })
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 1 || readDir(t, dir)["file"] != "mine" {
			t.Errorf("%s: left are %v, %v", name, left, err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := SealNew(ended, mustURI(t, hsm.URI("seal")), 5, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
	hsm.Remove(t)
	if _, err := SealNew(t.Context(), mustURI(t, hsm.URI("seal")), 5, nil); !errors.Is(err, &token.Error{Code: token.CodeAbsent}) {
		t.Errorf("without the token: %v", err)
	}
}
