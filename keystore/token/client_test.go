package token_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"onionbalancer/keystore/pkcs11uri"
	"onionbalancer/keystore/token"
)

const argClient = "client-that-dies"

// module is the directory of a fake module.
type fakeModule struct {
	t   testing.TB
	dir string
}

func newFake(t testing.TB) fakeModule {
	t.Helper()
	m := fakeModule{t, t.TempDir()}
	t.Setenv(envFake, "1")
	m.write("right", "right-1234")
	m.write("pin", "right-1234\n")
	return m
}

func (m fakeModule) write(name, text string) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, name), []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m fakeModule) uri() string {
	return fmt.Sprintf("pkcs11:token=fake?module-path=%s&pin-source=%s/pin", m.dir, m.dir)
}

// count returns how often call was made.
func (m fakeModule) count(call string) (n int) {
	m.t.Helper()
	log, err := os.ReadFile(filepath.Join(m.dir, "log"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		m.t.Fatal(err)
	}
	for line := range strings.Lines(string(log)) {
		if strings.HasPrefix(line, call+" ") {
			n++
		}
	}
	return n
}

func wantCode(t testing.TB, err error, code token.Code, text string) {
	t.Helper()
	if !errors.Is(err, &token.Error{Code: code}) || !strings.Contains(err.Error(), text) {
		t.Errorf("error %v, want one of code %q with %q", err, code, text)
	}
	if err != nil && strings.Contains(err.Error(), "1234") {
		t.Errorf("an error shows the PIN: %v", err)
	}
}

// gone fails t if the process is still there, be it as a zombie.
func gone(t testing.TB, pid int) {
	t.Helper()
	for range 100 {
		if err := unix.Kill(pid, 0); errors.Is(err, unix.ESRCH) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("process %d is still there", pid)
}

func TestFake(t *testing.T) {
	m := newFake(t)
	tok := open(t, m.uri())
	if pid := token.HelperPID(tok); pid != 0 || m.count("load") != 0 {
		t.Error("a helper was started before it was needed")
	}
	key := newIdentity(t)
	o := token.Object{Label: "wrap"}
	checkIdentity(t, tok, o, sealBy(t, tok, o, key), key)
	checkSigning(t, tok)
	pid := token.HelperPID(tok)
	if m.count("load") != 1 || m.count("open") != 1 || pid == 0 {
		t.Errorf("%d loads, %d logins", m.count("load"), m.count("open"))
	}
	tok.Close()
	gone(t, pid)
	if _, err := tok.Info(t.Context()); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("after Close: %v", err)
	}
	if n := token.Helpers(); n != 0 {
		t.Errorf("%d helpers are left", n)
	}
}

// TestSituation looks at the process that has the secrets.
func TestSituation(t *testing.T) {
	m := newFake(t)
	t.Setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")
	t.Setenv("GODEBUG", "madvdontneed=1")
	info, err := open(t, m.uri()).Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got situation
	if err := json.Unmarshal([]byte(info.Firmware), &got); err != nil {
		t.Fatal(err)
	}
	if strings.Join(got.Args, " ") != "balancer pkcs11-helper" {
		t.Errorf("arguments %q", got.Args)
	}
	env := strings.Join(got.Env, "\n")
	if !strings.Contains(env, "GLIBC_TUNABLES=glibc.malloc.arena_max=1:glibc.malloc.perturb=165:glibc.malloc.tcache_count=0") {
		t.Error("no tunables of the C library")
	}
	if !strings.Contains(env, "GODEBUG=madvdontneed=1,asyncpreemptoff=1") {
		t.Error("nothing keeps registers from being saved")
	}
	if strings.Contains(env, "1234") {
		t.Error("the PIN is in the environment")
	}
	if got.Dumpable != 0 || got.Core != 0 || got.Group != got.PID {
		t.Errorf("%+v", got)
	}
	sockets := 0
	for _, file := range got.Files {
		if strings.Contains(file, "socket:") {
			sockets++
		}
		if strings.HasPrefix(file, "0 ") && file != "0 /dev/null" {
			t.Errorf("standard input is %s", file)
		}
	}
	if sockets != 1 {
		t.Errorf("%d sockets among %q", sockets, got.Files)
	}
}

// TestParentDies makes sure that no helper outlives who started it.
func TestParentDies(t *testing.T) {
	m := newFake(t)
	cmd := exec.Command(os.Args[0], argClient)
	cmd.Env = append(os.Environ(), "URI="+m.uri())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || pid == 0 {
		t.Fatalf("helper %q: %v", line, err)
	}
	if err := unix.Kill(pid, 0); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	gone(t, pid)
}

// clientThatDies has a helper hang, so that it does not look at its socket. It
// protects its memory as the daemon does, which must not keep it from executing
// itself.
func clientThatDies() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return err
	}
	u, err := pkcs11uri.Parse(os.Getenv("URI"))
	if err != nil {
		return err
	}
	tok, err := token.Open(u)
	if err != nil {
		return err
	}
	ctx, cancel := contextFor(time.Minute)
	defer cancel()
	if _, err := tok.Info(ctx); err != nil {
		return err
	}
	pid := token.HelperPID(tok)
	if err := os.WriteFile(filepath.Join(u.ModulePath, "hang-keys"), nil, 0o600); err != nil {
		return err
	}
	go func() {
		time.Sleep(200 * time.Millisecond)
		fmt.Println(pid)
	}()
	_, err = tok.SigningKeys(ctx, "")
	return err
}

// TestImports makes sure that no code of a module's, nor C, gets into who asks.
func TestImports(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "-f", "{{.ImportPath}} {{len .CgoFiles}}", ".")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// The standard library's own, which are there for looking up names.
	standard := map[string]bool{"net": true, "os/user": true, "runtime/cgo": true}
	listed := 0
	for line := range strings.Lines(string(out)) {
		path, cgo, _ := strings.Cut(strings.TrimSpace(line), " ")
		listed++
		if strings.Contains(path, "pkcs11") && path != "onionbalancer/keystore/pkcs11uri" || strings.HasPrefix(path, "onionbalancer/keystore/token/module") || cgo != "0" && !standard[path] {
			t.Errorf("imports %s, of %s C files", path, cgo)
		}
	}
	if listed < 50 {
		t.Fatalf("only %d packages are listed", listed)
	}
}
