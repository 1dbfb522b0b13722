package main

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"onionbalancer/keystore/token"
)

// TestBinaryIsHardened looks at the program that make built: its text is placed
// at random, and the loader's tables are read-only once it runs.
func TestBinaryIsHardened(t *testing.T) {
	path := os.Getenv("BALANCER_BINARY")
	if path == "" {
		t.Skip("BALANCER_BINARY does not name the program that make built; make test sets it")
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Type != elf.ET_DYN {
		t.Errorf("it is no position-independent executable: %v", f.Type)
	}
	segments := make(map[elf.ProgType]elf.ProgFlag)
	for _, p := range f.Progs {
		segments[p.Type] |= p.Flags
		if p.Type == elf.PT_LOAD && p.Flags&(elf.PF_W|elf.PF_X) == elf.PF_W|elf.PF_X {
			t.Errorf("a segment at %#x can be written and executed", p.Vaddr)
		}
	}
	if _, relro := segments[elf.PT_GNU_RELRO]; !relro {
		t.Error("no part of it becomes read-only after relocation (RELRO)")
	}
	if flags, there := segments[elf.PT_GNU_STACK]; !there || flags&elf.PF_X != 0 {
		t.Error("its stack can be executed")
	}
	flags, err := f.DynValue(elf.DT_FLAGS)
	if err != nil || len(flags) == 0 || elf.DynFlag(flags[0])&elf.DF_BIND_NOW == 0 {
		t.Errorf("its symbols are bound late, which leaves their table writable: %v, %v", flags, err)
	}
	if text, err := f.DynValue(elf.DT_TEXTREL); err != nil || len(text) > 0 {
		t.Errorf("its text is relocated: %v, %v", text, err)
	}
	out, err := exec.CommandContext(t.Context(), path, "version").Output()
	if err != nil || !strings.HasPrefix(string(out), "balancer ") {
		t.Errorf("it does not run: %q, %v", out, err)
	}
}

// TestEveryCommandIsProtected: what protects the memory is at the root, and no
// command takes its place. The helper of tokens has its own, which is tested
// there.
func TestEveryCommandIsProtected(t *testing.T) {
	seen := 0
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		seen++
		own := cmd.PersistentPreRun != nil || cmd.PersistentPreRunE != nil
		if own != (!cmd.HasParent() || cmd.Name() == token.HelperArgument) {
			t.Errorf("%s: runs something of its own instead of what protects the memory: %v", cmd.CommandPath(), own)
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newRootCommand())
	if seen < 20 {
		t.Errorf("only %d commands", seen)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	if code := run([]string{"key"}); code != exitDone {
		t.Fatalf("exit status %d", code)
	}
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil || dumpable != 0 {
		t.Errorf("PR_GET_DUMPABLE is %d, %v", dumpable, err)
	}
	var core unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &core); err != nil || core != (unix.Rlimit{}) {
		t.Errorf("RLIMIT_CORE is %v, %v", core, err)
	}
}

// asNobody returns a function that runs balancer as a user without rights, in
// two groups, and the directory of a key and of a configuration that user can
// reach. Both are root's.
func asNobody(t *testing.T) (dir string, balancer func(args ...string) string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can be other users")
	}
	dir, err := os.MkdirTemp("", "balancer-permissions-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	// By its name, this binary is the command.
	path := filepath.Join(dir, "balancer")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(path, program, 0o755), os.Chmod(path, 0o755)); err != nil {
		t.Fatal(err)
	}
	if code := run([]string{"key", "new", filepath.Join(dir, "front")}); code != 0 {
		t.Fatalf("key new: exit status %d", code)
	}
	return dir, func(args ...string) string {
		cmd := exec.Command(path, args...)
		cmd.Dir, cmd.Env = dir, []string{"CREDENTIALS_DIRECTORY=" + dir, "TMPDIR=" + os.TempDir()}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 10042, Gid: 0, Groups: []uint32{54321}}}
		out, err := cmd.CombinedOutput()
		return fmt.Sprintf("%s%v", out, err)
	}
}

// TestSecretsOfContainers: a key is taken as Kubernetes and systemd place it.
func TestSecretsOfContainers(t *testing.T) {
	dir, balancer := asNobody(t)
	hostname, err := os.ReadFile(filepath.Join(dir, "front", "hostname"))
	if err != nil {
		t.Fatal(err)
	}
	secret, now := filepath.Join(dir, "secret"), filepath.Join(dir, "secret", "..now")
	key, credential := filepath.Join(now, "hs_ed25519_secret_key"), filepath.Join(dir, "cred")
	raw, err := os.ReadFile(filepath.Join(dir, "front", "hs_ed25519_secret_key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(now, 0o755), os.WriteFile(key, raw, 0o400), os.Chown(key, 0, 54321), os.Chmod(key, 0o440),
		os.Symlink("..now", filepath.Join(secret, "..data")), os.Symlink("..data/hs_ed25519_secret_key", filepath.Join(secret, "hs_ed25519_secret_key")),
		os.WriteFile(credential, raw, 0o400)); err != nil {
		t.Fatal(err)
	}
	// user::r--, user:10042:r--, group::---, mask::r--, other::---
	list := "\x02\x00\x00\x00\x01\x00\x04\x00\xff\xff\xff\xff\x02\x00\x04\x00\x3a\x27\x00\x00\x04\x00\x00\x00\xff\xff\xff\xff" +
		"\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff"
	refs := []string{secret, filepath.Join(secret, "hs_ed25519_secret_key")}
	if err := unix.Setxattr(credential, "system.posix_acl_access", []byte(list), 0); err == nil {
		refs = append(refs, credential, "credential:cred")
	} else if !errors.Is(err, unix.ENOTSUP) {
		t.Fatal(err)
	}
	for _, ref := range refs {
		if got := balancer("key", "show", ref); !strings.Contains(got, strings.TrimSpace(string(hostname))) {
			t.Errorf("%s: %s", ref, got)
		}
	}
	if err := os.Chmod(key, 0o444); err != nil {
		t.Fatal(err)
	}
	if got := balancer("key", "show", secret); !strings.Contains(got, "set defaultMode: 0400") || strings.Contains(got, "chmod") {
		t.Errorf("a secret that everybody can read: %s", got)
	}
}

// TestRootsKey: a daemon whose key is still root's is told the command.
func TestRootsKey(t *testing.T) {
	dir, balancer := asNobody(t)
	path := filepath.Join(dir, "balancer.toml")
	text := "state_dir = \"/tmp/none\"\n[tor]\ncontrol = \"127.0.0.1:1\"\n[[service]]\nkey = \"front\"\n[[service.instance]]\naddress = \"zkorpcleemqj5fkprbp7k7no4sio4qrrmy72zwixbn7dhhwruajlcqid.onion\"\n"
	if err := errors.Join(os.WriteFile(path, []byte(text), 0o644), os.Chmod(path, 0o644)); err != nil {
		t.Fatal(err)
	}
	front := filepath.Join(dir, "front")
	if got, want := balancer("run", "--config", path), "who may not enter "+front+": run as root: chown -R 10042 "+front; !strings.Contains(got, want) {
		t.Errorf("a directory of root's: %s", got)
	}
	if err := os.Chmod(front, 0o755); err != nil {
		t.Fatal(err)
	}
	want := "permission denied: this program runs as user 10042, who may not read it: run as root: chown 10042 " + filepath.Join(front, "hs_ed25519_secret_key")
	if got := balancer("run", "--config", path); !strings.Contains(got, want) {
		t.Errorf("a file of root's: %s", got)
	}
}
