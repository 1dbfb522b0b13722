// Package strictmodes checks who besides root and one user can change files that
// decide about code and keys, or read a secret. It is like ssh's option
// of this name, with two differences: it reads access lists, and a group
// with no other member counts as the user.
package strictmodes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"onionbalancer/internal/owner"
	"onionbalancer/internal/shell"
)

// User is who may own files and directories besides root.
type User struct {
	UID    int
	Groups []int // numbers of the groups that the user's process is in

	passwd, group string    // files of accounts
	approved      *sync.Map // whether a directory that passed has the sticky bit, by its path; nil to look each time
}

// Remembering returns u, whose Check looks at a directory on the way but once: to check
// thousands of files within moments, not for longer, since modes change.
func (u User) Remembering() User {
	u.approved = new(sync.Map)
	return u
}

// Current returns the user of this process.
func Current() User {
	groups, err := os.Getgroups()
	if err != nil {
		groups = nil // there are none to trust then
	}
	return User{UID: os.Geteuid(), Groups: append(groups, os.Getegid()), passwd: "/etc/passwd", group: "/etc/group"}
}

// Owner returns the user that owns path, for root checking files that another
// user will run. Its groups are only those without another member.
func Owner(path string) (User, error) {
	info, err := os.Stat(path)
	if err != nil {
		return User{}, err
	}
	u := Current()
	if uid := owner.Of(info); uid != u.UID {
		u.UID, u.Groups = uid, nil
	}
	return u, nil
}

// Check reports whether anyone other than root and u can change the file or
// directory at path, or put another in its place: by owning it or being allowed
// to write to it, to a directory above it, or to what a symbolic link on the way
// leads through. In a directory with the sticky bit, such as /tmp, everybody
// can change only their own files. The error names the part of the path and the
// command that fixes it. A missing file cannot be changed: then Check checks
// the directories that exist.
func (u User) Check(path string) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	if _, err := u.checkOne(abs, "/", abs == "/"); err != nil {
		return err
	}
	err = owner.Walk(abs, func(at string, info fs.FileInfo, last bool) error {
		if info.Mode().Type() != fs.ModeSymlink {
			_, err := u.checkOne(abs, at, last)
			return err
		}
		uid := owner.Of(info)
		if sticky, err := u.checkOne(abs, filepath.Dir(at), false); err != nil || !sticky || u.trusts(uid) {
			return err
		}
		return fmt.Errorf("%s is a link of user %s, who can lead it elsewhere: run: rm %s", at, owner.Name(uid), shell.Quote(at))
	})
	if errors.Is(err, syscall.ELOOP) {
		return fmt.Errorf("%s: too many symbolic links", abs)
	}
	return err
}

// checkOne checks one file or directory on the way to path, the last one being
// the one that path leads to. sticky says that it is a directory in which others can
// change only their own files.
func (u User) checkOne(path, at string, last bool) (sticky bool, err error) {
	if !last && u.approved != nil {
		if sticky, ok := u.approved.Load(at); ok {
			return sticky.(bool), nil
		}
		defer func() {
			if err == nil {
				u.approved.Store(at, sticky)
			}
		}()
	}
	info, err := os.Stat(at)
	if err != nil {
		return false, err
	}
	uid, quoted := owner.Of(info), shell.Quote(at)
	switch {
	case u.trusts(uid):
	case last:
		return false, fmt.Errorf("%s belongs to user %s, who can change it: run as root: chown %s %s", at, owner.Name(uid), owner.Name(u.UID), quoted)
	default:
		return false, fmt.Errorf("%s, on the way to %s, belongs to user %s, who can replace its contents: keep the file elsewhere, or run as root: chown root %s",
			at, path, owner.Name(uid), quoted)
	}
	writers, err := u.others(info, at, mayWrite)
	switch {
	case err != nil || writers == "":
		return false, err
	case info.IsDir() && info.Mode()&fs.ModeSticky != 0:
		return true, nil
	case info.IsDir() && volume(at) && readOnly(at):
		return false, nil // which Kubernetes makes open to all, and lets nobody write to
	case last:
		return false, fmt.Errorf("%s can be written by %s (mode %04o): run: chmod go-w %s", at, writers, info.Mode().Perm(), quoted)
	}
	return false, fmt.Errorf("%s, on the way to %s, can be written by %s (mode %04o): run: chmod go-w %s", at, path, writers, info.Mode().Perm(), quoted)
}

func (u User) trusts(uid int) bool { return uid == 0 || uid == u.UID }
