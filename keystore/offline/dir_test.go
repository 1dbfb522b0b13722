package offline

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"onionbalancer/descriptor"
	"onionbalancer/internal/owner"
)

// TestOwner: root makes and changes nothing in the balancer user's directory.
func TestOwner(t *testing.T) {
	m := newManager(t, "front")
	m.ceremony(noon, current, 1)
	bundle := sign(t, m.request(noon, current, 2), noon, m.key)
	keys := filepath.Join(m.dir, KeysFile)
	user := os.Geteuid()
	if user == 0 {
		user = 4711
		if err := errors.Join(os.Chown(m.dir, user, user), os.Chown(keys, user, user)); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can give directories away")
	}
	before := snapshot(t, m.dir)
	_, installed := Install([]string{m.dir}, []*Bundle{bundle}, noon)
	p := Preparation{Dir: m.dir, Address: m.key.Address(), Schedule: Public, First: current, Count: 3}
	_, prepared := Prepare(t.Context(), p)
	p.Dir = filepath.Join(m.dir, "below")
	_, below := Prepare(t.Context(), p)
	for what, err := range map[string]error{"installing": installed, "preparing": prepared, "preparing below": below} {
		if theirs := new(owner.Error); !errors.As(err, &theirs) || theirs.UID != user {
			t.Errorf("%s: %v", what, err)
		}
	}
	if snapshot(t, m.dir) != before {
		t.Error("something changed")
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
	wantError(t, "timed out", err, "another program is changing its contents")
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

// TestForbidden: what root copied off a stick is not the balancer's to read, and
// the line that gives it over is told.
func TestForbidden(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a bundle.json")
	if err := WriteNew(path, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		// This thread looks at files as nobody does.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := unix.Setfsuid(65534); err != nil {
			t.Fatal(err)
		}
		defer unix.Setfsuid(0)
	} else if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	_, err := ReadFile(path)
	wantError(t, "another's file", err, "permission denied: this program runs as user ", "as root: ", "'"+path+"'")
}
