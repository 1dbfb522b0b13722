package config

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBadFiles reads every file of testdata/bad. Its comments "# want: PART"
// say what the error has to say; a part that begins with a line number must
// follow the file's name. No error repeats what is marked as a SECRET.
func TestBadFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.toml")
	if err != nil || len(files) < 50 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, path := range files {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Load(path)
		if err == nil {
			t.Errorf("%s: no error", path)
			continue
		}
		var wants int
		for line := range strings.Lines(string(content)) {
			part, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "# want: ")
			if !ok {
				continue
			}
			wants++
			if part[0] >= '0' && part[0] <= '9' {
				part = filepath.Base(path) + ":" + part
			}
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: want %q in:\n%v", path, part, err)
			}
		}
		if wants == 0 {
			t.Errorf("%s: says not what it wants", path)
		}
		if strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: the error shows a secret: %v", path, err)
		}
		if first := (&Error{}); !errors.As(err, &first) {
			t.Errorf("%s: %T is no *Error", path, err)
		}
	}
}

func TestUnreadable(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string][]byte{
		"latin1": []byte("# one\n# two\nstate_dir = \"\xe9\"\n"),
		"large":  bytes.Repeat([]byte("#"), maxSize+1),
		"nul":    []byte("state_dir = \"a\x00\"\n"),
		"empty":  nil,
		"binary": {0x7f, 'E', 'L', 'F', 0xff, 0xfe},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"latin1": "latin1:3: is not UTF-8", "large": "larger than", "nul": "nul:1", "empty": "no [[service]]",
		"binary": "binary:1: is not UTF-8", ".": "is a directory", "absent": "no such file",
	} {
		_, err := Load(filepath.Join(dir, name))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

// TestDeep: nesting as deep as the size allows ends in an error.
func TestDeep(t *testing.T) {
	for _, open := range []string{"[", "{a=", "a."} {
		text := "x = " + strings.Repeat(open, (maxSize-10)/len(open))
		if open == "a." {
			text = strings.Repeat(open, (maxSize-10)/len(open)) + "a=1"
		}
		if _, err := Parse([]byte(text), "/deep"); err == nil {
			t.Errorf("%q in %q is taken", open, text[:20])
		}
	}
}
