package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestWriteNew(t *testing.T) {
	dir := t.TempDir()
	path, link, elsewhere := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "elsewhere")
	if err := errors.Join(WriteNew(path, []byte("first"), 0o600), os.Symlink(elsewhere, link), SyncDir(dir)); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, link} {
		if err := WriteNew(p, []byte("second"), 0o600); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s was overwritten: %v", p, err)
		}
	}
	if _, err := os.Stat(elsewhere); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a link was followed: %v", err)
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != "first" {
		t.Errorf("%q, %v", got, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// TestAbsent: there is no directory.
func TestAbsent(t *testing.T) {
	if err := WriteNew(filepath.Join(t.TempDir(), "absent", "file"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a directory: %v", err)
	}
	if err := SyncDir(filepath.Join(t.TempDir(), "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("syncing what is not there: %v", err)
	}
}

// TestReplaceChecked: a new file is seen before it takes the place of the old one.
func TestReplaceChecked(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "new", "file")
	bad := errors.New("bad")
	for _, step := range []struct {
		content string
		err     error
		want    string
	}{{"one", nil, "one"}, {"two", bad, "one"}, {"three", nil, "three"}} {
		err := ReplaceChecked(path, []byte(step.content), func(written string) error {
			if got, err := os.ReadFile(written); err != nil || string(got) != step.content || written == path {
				t.Errorf("%s has %q, %v", written, got, err)
			}
			return step.err
		})
		got, _ := os.ReadFile(path)
		if !errors.Is(err, step.err) || string(got) != step.want {
			t.Errorf("%q: %v, the file has %q", step.content, err, got)
		}
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}
