package strictmodes

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"onionbalancer/internal/owner"
)

// TestMain lets this binary be a program that another user runs on a path.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "look" {
		fmt.Print(look(os.Args[2]))
		return
	}
	if len(os.Args) == 3 && os.Args[1] == "mount" {
		fmt.Print(mounted(os.Args[2]))
		return
	}
	os.Exit(m.Run())
}

// look returns what is wrong with a secret, and with its path.
func look(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		return Current().Denied(path)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return errors.Join(Current().Secret(path, f), Current().Check(path))
}

// A user with a number that nobody has, in a group that nothing else has.
const (
	stranger      = 10042
	strangerGroup = 54321
)

// place is a directory that everybody may enter, with this program in it.
func place(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can be other users")
	}
	dir, err := os.MkdirTemp("", "strictmodes-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	program, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	copied, err := os.OpenFile(filepath.Join(dir, "program"), os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = io.Copy(copied, program); err == nil {
		err = errors.Join(copied.Close(), os.Chmod(dir, 0o755))
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// looked is what a user without rights finds out about path.
func looked(t *testing.T, dir, path string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(dir, "program"), "look", path)
	cmd.Dir, cmd.Env = "/", []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: stranger, Gid: 0, Groups: []uint32{strangerGroup}}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// file makes a file of root's.
func file(t *testing.T, path string, gid int, mode fs.FileMode) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(path, []byte("a secret"), 0o600), os.Chown(path, 0, gid), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
	return path
}

// acl gives a file an access list, as systemd does: of user's right to read.
func acl(t *testing.T, path string, user int, other uint16) {
	t.Helper()
	entry := func(tag, perms uint16, id uint32) []byte {
		return []byte{byte(tag), 0, byte(perms), 0, byte(id), byte(id >> 8), byte(id >> 16), byte(id >> 24)}
	}
	const none = ^uint32(0)
	list := slices.Concat([]byte{aclVersion, 0, 0, 0}, entry(aclUserObject, 4, none), entry(aclUser, 4, uint32(user)),
		entry(aclGroupObject, 0, none), entry(aclMask, 4, none), entry(aclOther, other, none))
	err := unix.Setxattr(path, aclAttribute, list, 0)
	if errors.Is(err, unix.ENOTSUP) {
		t.Skip("the file system has no access lists")
	}
	if err != nil {
		t.Fatal(err)
	}
}

const nothing = "<nil>"

// TestContainerSecrets: what Kubernetes and systemd give to a service is taken,
// and what others can read is refused, with advice that helps there.
func TestContainerSecrets(t *testing.T) {
	dir := place(t)
	pod := filepath.Join(dir, "secret")
	file(t, filepath.Join(pod, "..now", "key"), strangerGroup, 0o440)
	file(t, filepath.Join(pod, "..now", "open"), strangerGroup, 0o444)
	if err := errors.Join(os.Symlink("..now", filepath.Join(pod, "..data")), os.Symlink("..data/key", filepath.Join(pod, "key")),
		os.Symlink("..data/open", filepath.Join(pod, "open")), os.Chmod(pod, fs.ModeSticky|0o777)); err != nil {
		t.Fatal(err)
	}
	ours, theirs, everybodys := file(t, filepath.Join(dir, "ours"), 0, 0o400), file(t, filepath.Join(dir, "theirs"), 0, 0o400), file(t, filepath.Join(dir, "everybodys"), 0, 0o400)
	acl(t, ours, stranger, 0)
	acl(t, everybodys, stranger, 4)
	acl(t, theirs, stranger, 0)
	own := file(t, filepath.Join(dir, "own"), 0, 0o640)
	if err := os.Chown(own, stranger, 4); err != nil { // adm
		t.Fatal(err)
	}
	closed := file(t, filepath.Join(dir, "closed", "front", "key"), 0, 0o600)
	if err := os.Chmod(filepath.Dir(closed), 0o700); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(pod, "key"):  nothing,
		filepath.Join(pod, "open"): "set defaultMode: 0400",
		ours:                       nothing,
		everybodys:                 "(mode 0444, everybody): run as root: chown 10042 " + everybodys + " && chmod 600 " + everybodys,
		file(t, filepath.Join(dir, "rootgroup"), 0, 0o440):         nothing,
		file(t, filepath.Join(dir, "roots"), 0, 0o600):             "who may not read it: run as root: chown 10042 " + filepath.Join(dir, "roots"),
		file(t, filepath.Join(dir, "group"), strangerGroup, 0o460): "mode 0460, its group",
		own:    "(mode 0640, the group adm): run: chmod 600 " + own,
		closed: "may not enter " + filepath.Dir(closed) + ": run as root: chown -R 10042 " + filepath.Dir(closed),
	} {
		if got := looked(t, dir, path); got != want && (want == nothing || !strings.Contains(got, want)) {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// TestDenied: a relative path is told whole.
func TestDenied(t *testing.T) {
	t.Chdir(t.TempDir())
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := Current().Denied("a/../key").Error(), "who may not read it: run as root: chown "+owner.Name(os.Geteuid())+" "+filepath.Join(dir, "key"); !strings.HasSuffix(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// mounted makes dir a read-only volume of Kubernetes, and looks at what is in it.
func mounted(dir string) error {
	if err := unix.Mount("none", dir, "tmpfs", 0, "mode=0777"); err != nil {
		return err
	}
	config := filepath.Join(dir, "config")
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "..now"), 0o755), os.Symlink("..now", filepath.Join(dir, "..data")),
		os.WriteFile(filepath.Join(dir, "..now", "config"), nil, 0o644), os.Symlink("..data/config", config),
		os.Mkdir(filepath.Join(dir, "plain"), 0o755), os.WriteFile(filepath.Join(dir, "plain", "key"), nil, 0o644)); err != nil {
		return err
	}
	if err := Current().Check(config); err == nil {
		return errors.New("a volume that can be written is fine")
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return err
	}
	if err := Current().Check(config); err != nil {
		return err
	}
	return look(filepath.Join(dir, "plain", "key"))
}

// TestVolume: what Kubernetes mounts read-only nobody can write to, whatever its
// mode; and no command that writes is given there.
func TestVolume(t *testing.T) {
	dir := place(t)
	cmd := exec.Command(filepath.Join(dir, "program"), "mount", t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, fs.ErrPermission) || string(out) == unix.EPERM.Error() {
		t.Skip("mounting is not allowed here")
	}
	if want := "(mode 0644, everybody): it is on a file system that is mounted read-only here"; err != nil || !strings.Contains(string(out), want) {
		t.Errorf("%v: %s, want %q", err, out, want)
	}
}

func TestGroups(t *testing.T) {
	dir := t.TempDir()
	passwd, group := filepath.Join(dir, "passwd"), filepath.Join(dir, "group")
	if err := errors.Join(os.WriteFile(passwd, []byte("root:x:0:0::/:\nme:x:1000:1000::/:\nyou:x:1001:1001::/:\nbroken\nguest:x:1002:7000::/:\n"), 0o600),
		os.WriteFile(group, []byte("root:x:0:\nme:x:1000:root,me\nyou:x:1001:\nshared:x:2000:me,you\nempty:x:3000:\nusers:x:100:\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	u := User{UID: 1000, Groups: []int{1000, 2000, 100, 54321, 7000}, passwd: passwd, group: group}
	for _, test := range []struct {
		gid           int
		joined, alone string // what others are in it, if u has to be too, and if not
	}{
		{0, "the group root", ""},
		{1000, "", ""},
		{1001, "the group you, in which you is", "the group you, in which you is"},
		{2000, "the group shared, in which you is", "the group shared, in which you is"},
		{3000, "the group empty", ""},
		{100, "the group users", "the group users"},
		{54321, "", ""},
		{54322, "the group 54322", "the group 54322"},
		{7000, "the group 7000, in which guest is", "the group 7000, in which guest is"},
	} {
		if got := u.groupStranger(test.gid, true); got != test.joined {
			t.Errorf("in group %d with us: %q, want %q", test.gid, got, test.joined)
		}
		if got := u.groupStranger(test.gid, false); got != test.alone {
			t.Errorf("in group %d: %q, want %q", test.gid, got, test.alone)
		}
	}
}

// TestCheck changes one thing at a time on the way to a file.
func TestCheck(t *testing.T) {
	top := t.TempDir()
	below := filepath.Join(top, "etc", "front")
	key, link := filepath.Join(below, "key"), filepath.Join(top, "link")
	if err := errors.Join(os.MkdirAll(below, 0o755), os.WriteFile(key, nil, 0o600), os.Symlink("etc/../etc/front", link)); err != nil {
		t.Fatal(err)
	}
	u := Current()
	good := func() {
		t.Helper()
		for _, path := range []string{key, link, filepath.Join(link, "key"), below, filepath.Join(below, "none", "at all")} {
			if err := u.Check(path); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
	good()
	for _, path := range []string{key, below, filepath.Dir(below)} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
		for _, named := range []string{key, filepath.Join(link, "key")} {
			err := u.Check(named)
			if want := "can be written by everybody (mode 0777): run: chmod go-w " + path; err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s, named as %s: %v, want %q", path, named, err, want)
			}
		}
		if path != key {
			if err := os.Chmod(path, fs.ModeSticky|0o777); err != nil {
				t.Fatal(err)
			}
			good()
		}
		if err := os.Chmod(path, info.Mode()); err != nil {
			t.Fatal(err)
		}
	}
	good()
	loop := filepath.Join(top, "loop")
	if err := os.Symlink("loop", loop); err != nil {
		t.Fatal(err)
	}
	if err := u.Check(loop); err == nil || !strings.Contains(err.Error(), "too many") {
		t.Errorf("a loop: %v", err)
	}
	if os.Geteuid() != 0 {
		return
	}
	owned := func(path, want string) {
		t.Helper()
		if err := os.Lchown(path, stranger, -1); err != nil {
			t.Fatal(err)
		}
		if err := u.Check(filepath.Join(link, "key")); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s is another user's: %v, want %q", path, err, want)
		}
		if err := (User{UID: stranger}).Check(key); err != nil {
			t.Errorf("%s is the user's: %v", path, err)
		}
		if err := os.Lchown(path, 0, -1); err != nil {
			t.Fatal(err)
		}
	}
	owned(key, "belongs to user 10042, who can change it: run as root: chown root "+key)
	owned(below, "on the way to "+filepath.Join(link, "key")+", belongs to user 10042")
	owned(link, "") // in a directory where its owner cannot make another
	if err := os.Chmod(top, fs.ModeSticky|0o777); err != nil {
		t.Fatal(err)
	}
	owned(link, "is a link of user 10042, who can lead it elsewhere: run: rm "+link)
}

// TestOwner: root looks at a directory as the user whose it is.
func TestOwner(t *testing.T) {
	dir := t.TempDir()
	if u, err := Owner(dir); err != nil || u.UID != os.Geteuid() || len(u.Groups) == 0 {
		t.Errorf("%+v, %v", u, err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(dir, stranger, -1); err != nil {
			t.Fatal(err)
		}
		if u, err := Owner(dir); err != nil || u.UID != stranger || len(u.Groups) > 0 {
			t.Errorf("%+v, %v", u, err)
		}
	}
	if _, err := Owner(filepath.Join(dir, "none")); err == nil {
		t.Error("nobody owns what is not there")
	}
}

// FuzzACL: no access list makes the parser panic, or gives the owner's entry.
func FuzzACL(f *testing.F) {
	f.Add([]byte("\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\x3a\x27\x00\x00\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, list []byte) {
		grants, err := parseACL(list, 7)
		if err != nil {
			return
		}
		if len(grants) > len(list)/aclEntry {
			t.Fatalf("%d grants in %d bytes", len(grants), len(list))
		}
		for _, g := range grants {
			if g.perms > 7 {
				t.Fatalf("permissions of %o", g.perms)
			}
		}
	})
}

// TestMend: where a command cannot help, what can is said.
func TestMend(t *testing.T) {
	u := User{UID: stranger}
	for path, want := range map[string]string{
		"/run/secrets/front":                         `set mode: 0400 and uid: "10042"`,
		"/run/credentials/balancer.service/front":    "LoadCredential= in this service's own unit",
		"/run/credentials.old/front":                 "the command",
		filepath.Join(t.TempDir(), "secrets", "key"): "the command",
	} {
		if got := fix(path, "the command", u); !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// TestRemembering: a directory that passed is not looked at again, and one that did not is.
func TestRemembering(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(mode fs.FileMode) {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
	}
	u := Current().Remembering()
	open(0o777)
	if err := u.Check(path); err == nil || !strings.Contains(err.Error(), dir) {
		t.Fatalf("in a directory that is open to all: %v", err)
	}
	open(0o700)
	if err := u.Check(path); err != nil {
		t.Fatalf("after it was closed: %v", err)
	}
	open(0o777)
	if err := u.Check(path); err != nil {
		t.Errorf("a directory that passed was looked at again: %v", err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := u.Check(path); err == nil {
		t.Error("the file itself was not looked at")
	}
	if err := Current().Check(path); err == nil {
		t.Error("another user remembers")
	}
}
