package offline

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"onionbalancer/descriptor"
)

// TestOwner: what root does in the balancer user's directory, that user can use.
func TestOwner(t *testing.T) {
	m := newManager(t, "front")
	user := os.Geteuid()
	if user == 0 {
		user = 4711
		if err := os.Chown(filepath.Dir(m.dir), user, user); err != nil {
			t.Fatal(err)
		}
	}
	m.dir = filepath.Join(m.dir, "below")
	m.ceremony(noon, current, 1)
	for _, name := range []string{"..", ".", KeysFile, BundleFile} {
		info, err := os.Stat(filepath.Join(m.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if owner := int(info.Sys().(*syscall.Stat_t).Uid); owner != user {
			t.Errorf("%s belongs to user %d, want %d", name, owner, user)
		}
	}
	info, err := os.Stat(filepath.Join(m.dir, KeysFile))
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, "another user", checkPrivate("/a key", info, user+1), "chown", "'/a key'")
	if err := checkPrivate("/key", info, user); err != nil {
		t.Error(err)
	}
}

// TestBusy: while somebody else changes the files, retiring fails at once and
// changes nothing, and reading works.
func TestBusy(t *testing.T) {
	m := newManager(t, "front")
	m.ceremony(noon, current, 3)
	c := m.open()
	unlock, err := lock(m.dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, m.dir)
	_, err = lock(m.dir, 30*time.Millisecond)
	wantError(t, "waiting in vain", err, "another program is changing what is in it")
	wantError(t, "busy", c.Retire(t.Context(), []descriptor.Period{Public.Period(current + 1)}), "locking")
	if _, err := certify(t, c, current); err != nil || snapshot(t, m.dir) != before {
		t.Errorf("certifying meanwhile: %v", err)
	}
	installed := make(chan error, 1)
	go func() {
		raw, err := ReadFile(filepath.Join(m.dir, BundleFile))
		if err == nil {
			var b *Bundle
			if b, err = ParseBundle(raw); err == nil {
				_, err = Install([]string{m.dir}, []*Bundle{b}, noon)
			}
		}
		installed <- err
	}()
	select {
	case err := <-installed:
		t.Errorf("did not wait, and gave %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	unlock()
	if err := <-installed; err != nil {
		t.Error(err)
	}
	if err := c.Retire(t.Context(), []descriptor.Period{Public.Period(current + 1)}); err != nil {
		t.Error(err)
	}
}

// TestWriteNew: nothing is overwritten, not even through a link.
func TestWriteNew(t *testing.T) {
	dir := t.TempDir()
	path, link, elsewhere := filepath.Join(dir, "a"), filepath.Join(dir, "link"), filepath.Join(dir, "elsewhere")
	if err := errors.Join(Creatable(path, link), WriteNew(path, []byte("first")), os.Symlink(elsewhere, link)); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, link} {
		if err := Creatable(p); !errors.Is(err, os.ErrExist) {
			t.Errorf("%s: %v", p, err)
		}
		if err := WriteNew(p, []byte("second")); !errors.Is(err, os.ErrExist) {
			t.Errorf("%s: %v", p, err)
		}
	}
	if raw, err := os.ReadFile(path); err != nil || string(raw) != "first" {
		t.Errorf("%q, %v", raw, err)
	}
	wantError(t, "a file in place of a directory", makeDir(path), "not a directory")
	wantError(t, "a file in place of a parent", makeDir(filepath.Join(path, "below")), "not a directory")
	if _, err := os.Lstat(elsewhere); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("written through a link: %v", err)
	}
	if err := Creatable(filepath.Join(path, "below a file")); err == nil || errors.Is(err, os.ErrExist) {
		t.Errorf("a path that cannot be: %v", err)
	}
	for what, p := range map[string]string{"a directory": dir, "a device": "/dev/zero", "nothing": filepath.Join(dir, "no")} {
		if _, err := ReadFile(p); err == nil {
			t.Errorf("read %s", what)
		}
	}
}
