package pin

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"onionbalancer/internal/locked/lockedtest"
)

func mustParse(t *testing.T, s string) Source {
	t.Helper()
	source, err := Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return source
}

func write(t *testing.T, path, text string, mode fs.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// wantPIN reads the PIN and compares it; want empty means an error with text.
func wantPIN(t *testing.T, s Source, want, text string) {
	t.Helper()
	pin, err := s.Read(t.Context(), "test")
	switch {
	case want == "" && (err == nil || !strings.Contains(err.Error(), text)):
		t.Errorf("%s: error %v, want %q", s, err, text)
	case want == "" && (strings.Contains(err.Error(), "4711")):
		t.Errorf("%s: the error shows the PIN: %v", s, err)
	case want != "" && err != nil:
		t.Errorf("%s: %v", s, err)
	case want != "" && string(lockedtest.Bytes(pin)) != want:
		t.Errorf("%s: %q, want %q", s, lockedtest.Bytes(pin), want)
	}
}

func TestParse(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "prompt": "prompt", "fd:0": "fd:0", "fd:17": "fd:17", "credential:pin": "credential:pin",
		"/etc/pin": "file:/etc/pin", "file:/etc/pin": "file:/etc/pin", "file:///etc/pin": "file:/etc/pin",
		"pin": "file:pin", "file:pin": "file:pin", "./a:b": "file:./a:b", "/a:b": "file:/a:b", "file:a:b": "file:a:b",
		"//etc/pin": "file:/etc/pin", "///etc//pin": "file:/etc//pin", "file:////etc/pin": "file:/etc/pin", "//etc:a/pin": "file:/etc:a/pin",
	} {
		source := mustParse(t, in)
		if source.String() != want || (source == Source{}) != (in == "") {
			t.Errorf("%q is read as %q", in, source)
		}
		if again := mustParse(t, source.String()); again != source {
			t.Errorf("%q is read again as %q", source, again)
		}
	}
	for in, want := range map[string]string{
		"|echo 4711": "a command", "4711:x": "unknown scheme", "https://4711/": "unknown scheme", "fd:": "fd:3", "fd:-1": "fd:3",
		"fd:07": "fd:3", "fd:4711x": "fd:3", "fd:99999999": "fd:3", "credential:": "no slash", "credential:a/4711": "no slash", "credential:..": "no slash",
		"file:": "no file", "/etc/": "no file", "file://host/4711": "another host", "a\nb": "control characters",
	} {
		if _, err := Parse(in); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "4711") {
			t.Errorf("%q: error %v, want %q", in, err, want)
		}
	}
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]string{
		"4711": "4711", "4711\n": "4711", " 47 11 \n": " 47 11 ", "pässwörd": "pässwörd", strings.Repeat("x", 256) + "\n": strings.Repeat("x", 256),
	} {
		wantPIN(t, mustParse(t, write(t, filepath.Join(dir, "pin"), text, 0o400)), want, "")
		os.Remove(filepath.Join(dir, "pin"))
	}
	for text, want := range map[string]string{
		"": "empty", "\n": "empty", "4711\n\n": "more than one line", "4711\nx": "more than one line", "4711\r\n": "control characters",
		"\x7fELF4711": "control characters", strings.Repeat("x", 257): "more than 256 bytes", strings.Repeat("x", 5000): "more than 256 bytes",
	} {
		wantPIN(t, mustParse(t, write(t, filepath.Join(dir, "bad"), text, 0o600)), "", want)
	}
	path := write(t, filepath.Join(dir, "changes"), "one", 0o600)
	wantPIN(t, mustParse(t, path), "one", "")
	write(t, path, "two", 0o600)
	wantPIN(t, mustParse(t, "file:"+path), "two", "")
	wantPIN(t, mustParse(t, "changes").Resolve(dir), "two", "")

	for _, mode := range []fs.FileMode{0o604, 0o620, 0o666} {
		wantPIN(t, mustParse(t, write(t, filepath.Join(dir, "open"), "4711", mode)), "", "chmod 600")
	}
	wantPIN(t, mustParse(t, filepath.Join(dir, "none")), "", "no such file")
	wantPIN(t, mustParse(t, dir), "", "not a regular file")
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantPIN(t, mustParse(t, filepath.Join(dir, "pipe")), "", "not a regular file")
	if pin, err := (Source{}).Read(t.Context(), "test"); pin != nil || err != nil {
		t.Errorf("no source: %v, %v", pin, err)
	}
}

func TestCredential(t *testing.T) {
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	wantPIN(t, mustParse(t, "credential:pin"), "", "LoadCredential=pin:PATH")
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	path := write(t, filepath.Join(dir, "pin"), "4711\n", 0o400)
	wantPIN(t, mustParse(t, "credential:pin"), "4711", "")
	wantPIN(t, mustParse(t, "credential:none"), "", "no such file")
	if isCredential(dir+"/../elsewhere") || isCredential(dir+"x/pin") || !isCredential(path) {
		t.Error("what is a credential?")
	}
}

// inheritedFrom returns a copy of a descriptor that, unlike Go's own, would pass
// on to a child, as if this program were one. What was read under its number
// before is forgotten.
func inheritedFrom(t *testing.T, f *os.File) int {
	t.Helper()
	fd, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	claimed.Clear()
	clear(remembered)
	return fd
}

func TestDescriptor(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	inherited := inheritedFrom(t, r)
	source := Source{kindDescriptor, strconv.Itoa(inherited)}
	source.Claim()
	if flags, _, _ := syscall.Syscall(syscall.SYS_FCNTL, uintptr(inherited), syscall.F_GETFD, 0); flags&syscall.FD_CLOEXEC == 0 {
		t.Error("children would inherit the descriptor")
	}
	go func() {
		time.Sleep(20 * time.Millisecond)
		_, _ = w.WriteString("47")
		time.Sleep(20 * time.Millisecond)
		_, _ = w.WriteString("11\n")
		w.Close()
	}()
	for range 3 {
		wantPIN(t, source, "4711", "")
	}
	if err := syscall.Close(inherited); !errors.Is(err, syscall.EBADF) {
		t.Errorf("it was not closed after reading: %v", err)
	}
	wantPIN(t, mustParse(t, "fd:"+strconv.Itoa(int(r.Fd()))), "", "no such descriptor was handed")
	wantPIN(t, mustParse(t, "fd:60000"), "", "no such descriptor was handed")
	r.Close()
}

// TestDescriptorWithoutEnd gives up when the context ends.
func TestDescriptorWithoutEnd(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	inherited := inheritedFrom(t, r)
	defer syscall.Close(inherited)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := (Source{kindDescriptor, strconv.Itoa(inherited)}).Read(ctx, "test"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

// TestWaiting makes sure that who waits behind another question can give up.
func TestWaiting(t *testing.T) {
	getting <- struct{}{}
	defer func() { <-getting }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := mustParse(t, "prompt").Read(ctx, "test"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}
