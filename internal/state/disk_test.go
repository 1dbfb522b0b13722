package state_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"onionbalancer/internal/state"
)

// child runs this test again in a process of its own, and reports whether this is
// that process.
func child(t *testing.T, prepare func(*exec.Cmd)) bool {
	t.Helper()
	const name = "STATE_TEST_CHILD"
	if os.Getenv(name) == t.Name() {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), name+"="+t.Name())
	if prepare != nil {
		prepare(cmd)
	}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS") {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// limitFiles limits the size of this process's files, as a full disk would.
func limitFiles(t *testing.T, size uint64) (lift func()) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	small := limit
	small.Cur = size
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &small); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			t.Fatal(err)
		}
	}
}

// A full disk loses nothing that was stored, and when there is room again the next
// Swap succeeds.
func TestFullDisk(t *testing.T) {
	if !child(t, nil) {
		return
	}
	dir := t.TempDir()
	d, _ := open(t, dir)
	first, err := d.Swap(t.Context(), state.Change{Key: "k", Value: []byte("old")})
	if err != nil {
		t.Fatal(err)
	}
	fill := func(n int) error {
		_, err := d.Swap(t.Context(), state.Change{Key: state.Key(fmt.Sprint("large/", n)), Value: make([]byte, 100_000)},
			state.Change{Key: state.Key(fmt.Sprint("small/", n)), Value: []byte("x")})
		return err
	}
	lift := limitFiles(t, 500_000)
	stored := 0
	for err = nil; err == nil && stored < 100; stored++ {
		err = fill(stored)
	}
	stored--
	if !errors.Is(err, syscall.EFBIG) && (err == nil || !strings.Contains(err.Error(), "file too large")) {
		t.Fatalf("after %d: %v", stored, err)
	}
	if value, version, err := d.Get("k"); string(value) != "old" || version != first[0] || err != nil {
		t.Fatalf("reading with a full disk: %q, %d, %v", value, version, err)
	}
	for range 3 {
		if err := fill(stored); err == nil {
			t.Fatal("the disk is not full")
		}
	}
	lift()
	if err := fill(stored); err != nil {
		t.Fatalf("with room again: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d, log := open(t, dir)
	if list, err := d.List(""); len(list) != 3+2*stored || err != nil || log != "" {
		t.Fatalf("%d records after %d, %v, %s", len(list), stored, err, log)
	}
}

// A disk that is full when the state of an earlier version is to be carried over.
func TestFullDiskAtTheStart(t *testing.T) {
	if !child(t, nil) {
		return
	}
	dir := oldState(t)
	lift := limitFiles(t, 1000)
	d, log := open(t, dir)
	if !strings.Contains(log, "the state cannot be stored") {
		t.Errorf("the log says %s", log)
	}
	checkCarriedOver(t, "with a full disk", d)
	first := parse(t, oldFirst)
	s, version, err := d.Service(first)
	if err != nil {
		t.Fatal(err)
	}
	s.Owner = "me"
	if _, err := d.SwapService(t.Context(), first, version, s); !errors.Is(err, syscall.EFBIG) {
		t.Errorf("storing: %v", err)
	}
	checkCarriedOver(t, "with a full disk", d)
	lift()
	// The version that was read is still the one to swap.
	if _, err := d.SwapService(t.Context(), first, version, s); err != nil {
		t.Errorf("with room again: %v", err)
	}
	if s, _, err := d.Service(first); err != nil || s.Owner != "me" {
		t.Errorf("%+v, %v", s, err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("left behind: %v", entries)
	}
}

// A real full file system, on which a mapped file may not have all its pages.
func TestFullFileSystem(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("mounting a small file system takes root:", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	d, _ := open(t, dir)
	version := uint64(0)
	for n := range 20 {
		v, err := d.Swap(t.Context(), state.Change{Key: "k", Version: version, Value: bytes.Repeat([]byte{byte(n)}, 50_000)})
		if err != nil {
			t.Fatal(err)
		}
		version = v[0]
	}
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the file system is not full: %v", err)
	}
	for n := range 20 {
		_, err := d.Swap(t.Context(), state.Change{Key: state.Key(fmt.Sprint(n)), Value: make([]byte, 100_000)})
		if n > 2 && !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("with a full file system: %v", err)
		}
		if value, got, err := d.Get("k"); len(value) != 50_000 || got != version || err != nil {
			t.Fatalf("reading with a full file system: %d bytes, %d, %v", len(value), got, err)
		}
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Swap(t.Context(), state.Change{Key: "after", Value: make([]byte, 100_000)}); err != nil {
		t.Fatalf("with room again: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d, log := open(t, dir)
	if value, got, err := d.Get("k"); len(value) != 50_000 || got != version || err != nil || log != "" {
		t.Fatalf("opened again: %d bytes, %d, %v, %s", len(value), got, err, log)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// asNobody has a child run as a user who is not root.
func asNobody(dirs ...string) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) {
		cmd.Env = append(cmd.Env, "STATE_TEST_DIRS="+strings.Join(dirs, ":"))
		if os.Getuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			cmd.Path, cmd.Args[0] = "/proc/self/exe", os.Args[0]
			cmd.Dir = "/"
		}
	}
}

// A directory that cannot be written can be read, and written as soon as it may be.
func TestUnwritableDirectory(t *testing.T) {
	if os.Getenv("STATE_TEST_CHILD") == "" {
		dir := t.TempDir()
		d, _ := open(t, dir)
		_, err := d.Swap(t.Context(), state.Change{Key: "k", Value: []byte("v")})
		if err := errors.Join(err, d.Close(), os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(filepath.Join(dir, state.File), 0o444)); err != nil {
			t.Fatal(err)
		}
		child(t, asNobody(dir))
		return
	}
	dir := os.Getenv("STATE_TEST_DIRS")
	d, log := open(t, dir)
	if !strings.Contains(log, "the state cannot be stored") || !strings.Contains(log, "permission denied") {
		t.Errorf("the log says %s", log)
	}
	value, version, err := d.Get("k")
	if string(value) != "v" || version == 0 || err != nil {
		t.Errorf("reading: %q, %v", value, err)
	}
	_, err = d.Swap(t.Context(), state.Change{Key: "k", Version: version, Value: []byte("w")})
	if !errors.Is(err, os.ErrPermission) || os.Getuid() == 65534 && !strings.Contains(err.Error(), "it belongs to user 0, and this program runs as user 65534: run as root: chown -R 65534 "+dir) {
		t.Errorf("storing: %v", err)
	}
}

// Old files that cannot be read are not passed over: their floors would be lost.
func TestUnreadableOldFiles(t *testing.T) {
	if os.Getenv("STATE_TEST_CHILD") == "" {
		dir := oldState(t)
		if err := errors.Join(os.Chmod(dir, 0o777), os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(filepath.Join(dir, "services"), 0)); err != nil {
			t.Fatal(err)
		}
		if child(t, asNobody(dir)); os.Getuid() != 0 {
			return
		}
		if err := os.Chmod(filepath.Join(dir, "services"), 0o700); err != nil {
			t.Fatal(err)
		}
		d, _ := open(t, dir)
		checkCarriedOver(t, "once they can be read", d)
		return
	}
	dir := os.Getenv("STATE_TEST_DIRS")
	d, log := open(t, dir)
	if !strings.Contains(log, "the state cannot be stored") || !strings.Contains(log, "looking for the state of an earlier version") {
		t.Errorf("the log says %s", log)
	}
	if _, err := d.Swap(t.Context(), state.Change{Key: "k", Value: []byte("w")}); !errors.Is(err, os.ErrPermission) {
		t.Errorf("storing: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, state.File)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a store was made: %v", err)
	}
}

// A path that is no directory.
func TestNoDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d, _ := open(t, file)
	if _, err := d.Swap(t.Context(), state.Change{Key: "k", Value: []byte("v")}); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("storing: %v", err)
	}
	if _, version, err := d.Get("k"); version != 0 || err != nil {
		t.Errorf("reading: %d, %v", version, err)
	}
	if err := errors.Join(os.Remove(file), os.Mkdir(file, 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Swap(t.Context(), state.Change{Key: "k", Value: []byte("v")}); err != nil {
		t.Errorf("in a directory: %v", err)
	}
}

// Events that a full disk has no room for do not keep a record from being stored
// that waits with them.
func TestFullDiskOfEvents(t *testing.T) {
	if !child(t, nil) {
		return
	}
	d, _ := open(t, t.TempDir())
	if _, err := d.Swap(t.Context(), state.Change{Key: "k", Value: []byte("first")}); err != nil {
		t.Fatal(err)
	}
	defer limitFiles(t, 500_000)()
	records, events := d.CommitTogether([]state.Change{{Key: "counter", Value: []byte("7")}}, [][]byte{make([]byte, 1_000_000)})
	if records != nil || events == nil {
		t.Errorf("storing the record: %v; the event: %v", records, events)
	}
	if value, _, err := d.Get("counter"); string(value) != "7" || err != nil {
		t.Errorf("stored %q, %v", value, err)
	}
}
