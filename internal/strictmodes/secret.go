package strictmodes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"onionbalancer/internal/owner"
	"onionbalancer/internal/shell"
)

// Secret reports whether anyone other than root and u can read or change the
// open file f, which path names: by its mode, its access list or by owning it.
// A group may read it that u is in and no one else, as far as the machine's
// files of accounts tell: that is how containers get their secrets. Root may use
// anybody's file. The error says what fixes it, and leaves the path to the
// caller.
func (u User) Secret(path string, f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if uid := owner.Of(info); u.UID != 0 && !u.trusts(uid) {
		return fmt.Errorf("the file belongs to user %s, who can read and replace it, and this program runs as user %s: %s",
			owner.Name(uid), owner.Name(u.UID), fix(path, "run as root: chown "+owner.Name(u.UID)+" "+shell.Quote(path), u))
	}
	list, err := grants(info, func(b []byte) (int, error) { return unix.Fgetxattr(int(f.Fd()), aclAttribute, b) })
	if err != nil {
		return fmt.Errorf("reading its access list: %w", err)
	}
	for _, g := range list {
		if g.perms == 0 {
			continue
		}
		stranger := u.stranger(g, true)
		if stranger == "" && g.to == toGroup && g.perms != mayRead {
			stranger = "its group"
		}
		if stranger != "" {
			command := "run: chmod 600 " + shell.Quote(path)
			if owner.Of(info) != u.UID && u.UID != 0 {
				command = fmt.Sprintf("run as root: chown %s %s && chmod 600 %[2]s", owner.Name(u.UID), shell.Quote(path))
			}
			return fmt.Errorf("others than its owner can use the file (mode %04o, %s): %s", info.Mode().Perm(), stranger, fix(path, command, u))
		}
	}
	return nil
}

// Denied says how to fix it that u, the user of this process, may not open the
// file at path.
func (u User) Denied(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	name, quoted := owner.Name(u.UID), shell.Quote(path)
	command := "run as root: chown " + name + " " + quoted
	for dir := "/"; dir != filepath.Dir(path); {
		rest, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(path, dir), "/"), "/")
		dir = filepath.Join(dir, rest)
		if !errors.Is(unix.Faccessat(unix.AT_FDCWD, dir, unix.X_OK, unix.AT_EACCESS), fs.ErrPermission) {
			continue
		}
		info, err := os.Stat(dir)
		if err == nil && owner.Of(info) == 0 && dir == filepath.Dir(path) && strings.Count(dir, "/") > 2 {
			command = "run as root: chown -R " + name + " " + shell.Quote(dir)
		} else {
			command = fmt.Sprintf("run it as the user that balancer runs as (runuser -u USER -- balancer …), or copy the file to where this one may go, as root: install -o %s -m 600 %s DIRECTORY", name, quoted)
		}
		return fmt.Errorf("this program runs as user %s, who may not enter %s: %s", name, dir, fix(path, command, u))
	}
	return fmt.Errorf("this program runs as user %s, who may not read it: %s", name, fix(path, command, u))
}

// fix returns the command that fixes the mode or the owner of a secret, or what
// fixes it where no command can.
func fix(path, command string, u User) string {
	dir := filepath.Dir(path)
	switch {
	case volume(dir):
		return "in the pod's volume of this secret set defaultMode: 0400, and in its securityContext fsGroup to a group that nothing else has"
	case strings.HasPrefix(dir, "/run/credentials/"):
		return "it is systemd's: LoadCredential= in this service's own unit places it so that the service alone can read it"
	case strings.HasPrefix(dir+"/", "/run/secrets/"):
		return fmt.Sprintf("where the container gets this secret, set mode: 0400 and uid: %q; of one that is a file of the host, change that file", fmt.Sprint(u.UID))
	case readOnly(path):
		return "it is on a file system that is mounted read-only here; where it comes from, give it to user " + fmt.Sprint(u.UID) + " alone, with mode 0400"
	}
	return command
}

// volume tells whether a directory is a volume of Kubernetes, with a secret or a
// configuration in it.
func volume(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, "..data"))
	return err == nil
}

// readOnly tells whether a file is on a mount of its own that is read-only: not
// on the one of /, which systemd makes read-only for a service alone.
func readOnly(path string) bool {
	var root, at unix.Stat_t
	var fs unix.Statfs_t
	return unix.Stat("/", &root) == nil && unix.Stat(path, &at) == nil && at.Dev != root.Dev &&
		unix.Statfs(path, &fs) == nil && fs.Flags&unix.ST_RDONLY != 0
}
