package daemon

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"onionbalancer/descriptor"
)

// TestOpenMany opens a hundred keys, of which one is missing and one can be replaced by
// others: these fail, each by itself.
func TestOpenMany(t *testing.T) {
	dir := t.TempDir()
	refs, want := make([]string, 100), make([]descriptor.Address, 100)
	for n := range refs {
		refs[n] = filepath.Join(dir, fmt.Sprint(n))
		want[n] = writeKey(t, refs[n], byte(n))
	}
	if err := os.RemoveAll(refs[7]); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(refs[8], 0o777); err != nil {
		t.Fatal(err)
	}
	log := new(bytes.Buffer)
	for n, o := range openMany(t.Context(), refs, dir, slog.New(slog.NewTextHandler(log, nil))) {
		switch {
		case n == 7 || n == 8:
			if o.err == nil || !strings.Contains(o.err.Error(), refs[n]) {
				t.Errorf("key %d: error %v", n, o.err)
			}
		case o.err != nil:
			t.Errorf("key %d: %v", n, o.err)
		default:
			if got := o.keys.Custodian.Address(); got != want[n] || o.keys.Where != signingMemory || !strings.HasPrefix(o.keys.Reference, refs[n]) {
				t.Errorf("key %d is of %s, with signing keys in %s, reference %q", n, got, o.keys.Where, o.keys.Reference)
			}
			if err := o.keys.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	if text := log.String(); !strings.Contains(text, "keys=98 failed=2") {
		t.Errorf("logged: %s", text)
	}
}
