package filelock

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestTryLock(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "lock")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, dir} {
		open := func() *os.File {
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
			return f
		}
		first, second := open(), open()
		if err := TryLock(first); err != nil {
			t.Fatal(err)
		}
		if err := TryLock(second); !errors.Is(err, ErrLocked) {
			t.Errorf("locked twice: %v", err)
		}
		first.Close()
		if err := TryLock(second); err != nil {
			t.Errorf("after the holder closed it: %v", err)
		}
		second.Close()
		if err := TryLock(second); err == nil || errors.Is(err, ErrLocked) {
			t.Errorf("a closed file: %v", err)
		}
	}
}
