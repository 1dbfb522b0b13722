package advice

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// script writes a program that nobody can run, too, and returns its path.
func script(t *testing.T, body string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "advice")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "program")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755)); err != nil {
		t.Fatal(err)
	}
	return path
}

// gone waits until there is no process of that number any more.
func gone(pid int) bool {
	for range 500 {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) || err == nil && bytes.Contains(status, []byte(") Z ")) {
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}

var question = Example(map[string]float64{"web1": 1, "web2": 2}, time.Unix(1_800_000_000, 0))

func TestRun(t *testing.T) {
	id := question.Instances[0].Points[0].ID
	// It finds the ID in the question, and a nice shell hands it over.
	a, err := Run(t.Context(), script(t, `grep -q '"example":true.*"`+id+`"' && echo '{"weights": {"web1": 2.5, "web9": 1}, "prefer": {"`+id+`": 3}}'`), question)
	if err != nil || a.Weights["web1"] != 2.5 || a.Prefer[id] != 3 || a.Unknown() == nil || !strings.Contains(a.Unknown().Error(), "web9") {
		t.Errorf("%+v, %v, %v", a, err, a.Unknown())
	}
	if a, err := Run(t.Context(), script(t, "echo '{}'"), question); err != nil || a.Unknown() != nil {
		t.Errorf("no opinion: %+v, %v", a, err)
	}
	// A question that is larger than a pipe, to one who does not read it.
	large := question
	large.Slots = slices.Repeat(question.Slots, 1000)
	for _, body := range []string{"exec <&-; echo '{}'", "echo '{}'", "head -c 10 >/dev/null; echo '{}'"} {
		if _, err := Run(t.Context(), script(t, body), large); err != nil {
			t.Errorf("%s: %v", body, err)
		}
	}
	large.Instances = []Instance{{Name: strings.Repeat("x", maxQuestion)}}
	if _, err := Run(t.Context(), script(t, "echo '{}'"), large); err == nil || !strings.Contains(err.Error(), "the question has ") {
		t.Errorf("too large a question: %v", err)
	}
}

// TestBadPrograms: whatever a program does, it ends in an error.
func TestBadPrograms(t *testing.T) {
	for body, want := range map[string]string{
		"exit 1": "exit status 1",
		"echo 'no  database' >&2; echo more >&2; exit 3": "exit status 3: no  database",
		`printf '\033[2J\033]0;x' >&2; exit 1`:           `exit status 1: \x1b[2J`,
		"yes >&2 & exec yes":                             "more than 1048576 bytes",
		"yes '{}'":                                       "more than 1048576 bytes",
		"true":                                           "no JSON object",
		"echo hello":                                     "no JSON object",
		"echo null":                                      "no JSON object",
		"echo '[]'":                                      "no JSON object",
		`echo '{"weights": '`:                            "unexpected EOF",
		`echo '{"weight": {"web1": 1}}'`:                 "unknown field",
		`echo '{"weights": {"web1": "1"}}'`:              "cannot unmarshal",
		`echo '{"weights": {"web1": -1}}'`:               "out of range",
		`echo '{"weights": {"web1": 1e300}}'`:            "out of range",
		`echo '{"weights": {"web1": 1e999}}'`:            "cannot unmarshal",
		`echo '{"weights": {"web1": NaN}}'`:              "invalid character",
		`echo '{"prefer": {"x": 1}}'`:                    "no introduction point",
		`echo '{} {}'`:                                   "more behind",
		"head -c 100000 /dev/zero | tr '\\0' '['":        "no JSON object",
		"kill -9 $$":                                     "signal: killed",
		"sleep 1000 & exit 0":                            "left processes behind",
	} {
		if _, err := Run(t.Context(), script(t, body), question); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", body, err, want)
		}
	}
	if _, err := Run(t.Context(), "/no/such/program", question); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := Run(t.Context(), script(t, "\x00"), question); err == nil {
		t.Error("an answer of what is no script")
	}
}

// TestHangingProgram: a program that hangs is killed with all that it started, also
// what ignores signals.
func TestHangingProgram(t *testing.T) {
	for _, body := range []string{
		"echo $$ >&2; exec sleep 1000",
		"trap '' TERM INT HUP; sleep 1000 & echo $! >&2; wait; wait",
		"(sleep 1000; sleep 1000) & echo $! >&2; cat; sleep 1000",
		"sleep 1000 >/dev/null 2>&1 & echo $! >&2; echo '{}'; exec >&-; sleep 1000",
	} {
		path := script(t, body)
		_, err := call(t.Context(), path, []byte("{}\n"), 300*time.Millisecond)
		if err == nil || !strings.Contains(err.Error(), "no answer within 300ms") {
			t.Errorf("%s: %v", body, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	if _, err := Run(ctx, script(t, "exec sleep 1000"), question); !errors.Is(err, context.Canceled) {
		t.Errorf("when balancer stops: %v", err)
	}
}

// TestManyPrograms: few run at once, however many services ask, and those that wait
// end with their context.
func TestManyPrograms(t *testing.T) {
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	path := script(t, "touch "+dir+"/$$; exec sleep 1000")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	errs := make(chan error, 3*atOnce)
	for range cap(errs) {
		go func() {
			_, err := call(ctx, path, nil, time.Minute)
			errs <- err
		}()
	}
	started := func() int {
		list, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	for started() < atOnce {
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(100 * time.Millisecond) // for more, which there should not be
	if n := started(); n > atOnce {
		t.Errorf("%d programs run at once", n)
	}
	cancel()
	for range cap(errs) {
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

// TestNothingLeft: what a program started ends with it, however it ends.
func TestNothingLeft(t *testing.T) {
	number := regexp.MustCompile(`pid ([0-9]+)`)
	for _, body := range []string{
		"sleep 1000 & echo pid $! >&2; exit 1",
		"sleep 1000 >/dev/null 2>&1 & echo pid $! >&2; exit 1",
		"(trap '' TERM; sleep 1000; sleep 1000) & echo pid $! >&2; exit 1",
	} {
		_, err := Run(t.Context(), script(t, body), question)
		m := number.FindStringSubmatch(fmt.Sprint(err))
		if m == nil {
			t.Fatalf("%s: %v", body, err)
		}
		if pid, _ := strconv.Atoi(m[1]); !gone(pid) {
			t.Errorf("%s: process %d is left", body, pid)
		}
	}
	out, err := call(t.Context(), script(t, "sleep 1000 >/dev/null 2>&1 & echo $!"), nil, time.Minute)
	if pid, _ := strconv.Atoi(strings.TrimSpace(string(out))); err != nil || pid == 0 || !gone(pid) {
		t.Errorf("process %d is left: %v", pid, err)
	}
}

// TestBare: a program gets nothing of ours.
func TestBare(t *testing.T) {
	t.Setenv("SECRET", "x")
	leak, err := syscall.Open("/dev/null", syscall.O_RDONLY, 0) // left open for programs
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(leak)
	run := func(body string) string {
		t.Helper()
		out, err := call(t.Context(), script(t, body), []byte("in\n"), time.Minute)
		if err != nil {
			t.Error(body, err)
		}
		return strings.TrimSpace(string(out))
	}
	if out := run("exec env -u PWD -u OLDPWD -u SHLVL -u _"); out != "PATH="+os.Getenv("PATH") {
		t.Errorf("environment %q", out)
	}
	if out := run("pwd; cat; echo $#"); out != "/\nin\n0" {
		t.Errorf("directory, input and arguments %q", out)
	}
	// ls has the directory open.
	if out := run("exec ls /proc/self/fd"); out != "0\n1\n2\n3" {
		t.Errorf("open files: %s", run("exec ls -l /proc/self/fd"))
	}
	want := "0"
	if os.Geteuid() == 0 {
		c := unprivileged()
		want = fmt.Sprintf("%d %d %[2]d", c.Uid, c.Gid)
		if c.Uid == 0 || c.Gid == 0 {
			t.Error("nobody is root")
		}
	} else {
		want = fmt.Sprint(os.Geteuid(), os.Getegid())
	}
	if out := run("echo $(id -u) $(id -g) $(id -G)"); !strings.HasPrefix(out, want) || os.Geteuid() == 0 && out != want {
		t.Errorf("it runs as %q, want %q", out, want)
	}
	if os.Geteuid() == 0 {
		secret := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(secret, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := call(t.Context(), script(t, "cat "+secret), nil, time.Minute); err == nil {
			t.Error("it can read what is ours")
		}
	}
}

func TestCheckFile(t *testing.T) {
	dir := t.TempDir()
	plain, fifo := filepath.Join(dir, "plain"), filepath.Join(dir, "fifo")
	if err := errors.Join(os.WriteFile(plain, nil, 0o644), syscall.Mkfifo(fifo, 0o755)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{dir: "no regular file", fifo: "no regular file", plain: "not executable", filepath.Join(dir, "none"): "no such file"} {
		if err := CheckFile(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	if err := CheckFile(script(t, "true")); err != nil {
		t.Error(err)
	}
}
