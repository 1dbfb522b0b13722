package openfile

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	file, link, pipe := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "pipe")
	if err := os.WriteFile(file, []byte("content"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Symlink("file", link), unix.Mkfifo(pipe, 0o600)); err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func(string) (*os.File, fs.FileInfo, error){"Regular": Regular, "Secret": Secret} {
		for _, path := range []string{file, link} {
			f, info, err := open(path)
			if err != nil {
				t.Fatal(err)
			}
			content, err := io.ReadAll(f)
			if err != nil || string(content) != "content" || info.Mode() != 0o640 {
				t.Errorf("%s of %s: %q of mode %s, %v", name, path, content, info.Mode(), err)
			}
			f.Close()
		}
		for path, want := range map[string]string{pipe: "not a regular file but p", dir: "not a regular file but d", filepath.Join(dir, "none"): "no such file"} {
			_, _, err := open(path)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s of %s: error %v, want %q", name, path, err, want)
			}
			if tells := strings.Contains(err.Error(), dir); tells != (name == "Regular") {
				t.Errorf("%s of %s: error %v", name, path, err)
			}
		}
	}
}
