// Package owner keeps root from working where another user rules. Anyone who owns
// a directory can put links and files of his own in the place of those that
// root is about to write, read or run there.
package owner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"onionbalancer/internal/shell"
)

// maxLinks is how many symbolic links a path may lead over, as in the kernel.
const maxLinks = 40

// Error says that root was about to work where another user rules.
type Error struct {
	Path string // of the directory, file or link that is not root's
	UID  int    // whose it is
}

// Error names the owner.
func (e *Error) Error() string {
	return fmt.Sprintf("%s belongs to %s, and root does nothing there, where that user could have it write or run anything", e.Path, e.name())
}

// Command returns the command line that does the work of args as the owner.
func (e *Error) Command(args []string) string {
	words := []string{"runuser", "-u", e.name(), "--"}
	if _, err := user.LookupId(strconv.Itoa(e.UID)); err != nil {
		uid := strconv.Itoa(e.UID)
		words = []string{"setpriv", "--reuid=" + uid, "--regid=" + uid, "--clear-groups"}
	}
	for _, arg := range args {
		words = append(words, shell.Quote(arg))
	}
	return strings.Join(words, " ")
}

func (e *Error) name() string { return Name(e.UID) }

// Name returns the name of a user, or the number where it has none.
func Name(uid int) string {
	number := strconv.Itoa(uid)
	if known, err := user.LookupId(number); err == nil {
		return known.Username
	}
	return number
}

// Of returns the user that a file belongs to.
func Of(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }

// Check returns an *Error if this process is root's and one of the paths, or
// anything on the way to it, links included, is not. A missing path is ignored,
// as is an empty one.
func Check(paths ...string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	for _, path := range paths {
		if path == "" {
			continue
		}
		abs, err := filepath.Abs(path)
		if err == nil {
			err = walk(abs)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// walk checks everything on the way to path.
func walk(path string) error {
	theirs := (*Error)(nil)
	err := Walk(path, func(at string, info fs.FileInfo, _ bool) error {
		if uid := Of(info); uid != 0 {
			return &Error{at, uid}
		}
		return nil
	})
	if err != nil && !errors.As(err, &theirs) {
		return fmt.Errorf("looking whose %s is: %w", path, err)
	}
	return err
}

// Walk calls visit for everything on the way from the root of the file system to
// path, an absolute one: directories, symbolic links, and last the target of path.
// A missing element ends the walk. More links than the kernel follows are
// syscall.ELOOP.
func Walk(path string, visit func(at string, info fs.FileInfo, last bool) error) error {
	at, rest := "/", components(path)
	for links := 0; len(rest) > 0; {
		next := filepath.Join(at, rest[0])
		rest = rest[1:]
		info, err := os.Lstat(next)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			err = visit(next, info, len(rest) == 0)
		}
		if err != nil {
			return err
		}
		if info.Mode().Type() != fs.ModeSymlink {
			at = next
			continue
		}
		target, err := os.Readlink(next)
		if links++; err == nil && links > maxLinks {
			err = syscall.ELOOP
		}
		if err != nil {
			return err
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = append(components(target), rest...)
	}
	return nil
}

// components splits a path, and drops what stands for nothing.
func components(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(s string) bool { return s == "" || s == "." })
}

// Explain adds to an error of permission whose dir is, if it is not this user's,
// and the command that fixes it.
func Explain(err error, dir string) error {
	info, statErr := os.Stat(dir)
	if !errors.Is(err, fs.ErrPermission) || statErr != nil {
		return err
	}
	if uid, me := Of(info), os.Geteuid(); uid != me {
		return fmt.Errorf("%w: it belongs to user %d, and this program runs as user %d: run as root: chown -R %d %s", err, uid, me, me, shell.Quote(dir))
	}
	return err
}
