package owner

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// nobody is a user who has no rights, and a name on every Debian.
const nobody = 65534

func TestCheck(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give directories away")
	}
	dir := t.TempDir()
	at := func(names ...string) string { return filepath.Join(append([]string{dir}, names...)...) }
	for _, name := range []string{"roots", "theirs", "theirs/roots"} {
		if err := os.Mkdir(at(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{
		"over": at("theirs", "back"), "theirs/back": at("roots"), "relative": "roots/../theirs", "good": "roots", "loop": "loop", "given": at("roots"),
	} {
		if err := os.Symlink(target, at(link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"theirs", "given"} {
		if err := os.Lchown(at(name), nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		"":                    "",
		at("roots"):           "",
		at("roots/new/newer"): "",
		at("good/new"):        "",
		at("theirs"):          at("theirs"),
		at("theirs/new"):      at("theirs"),
		at("theirs/roots/x"):  at("theirs"),
		at("over"):            at("theirs"), // a link of root's, over theirs, to root's
		at("relative/x"):      at("theirs"),
		at("given"):           at("given"),
		at("roots/../theirs"): at("theirs"),
	} {
		err := Check(at("roots"), path)
		found := new(Error)
		if got := errors.As(err, &found); got != (want != "") || got && (found.Path != want || found.UID != nobody) || !got && err != nil {
			t.Errorf("%q: %v, want %q", path, err, want)
		}
	}
	if err := Check(at("loop")); err == nil {
		t.Error("a loop of links is taken")
	}
}

func TestCommand(t *testing.T) {
	args := []string{"balancer", "check", "--config", "a b.toml"}
	if got, want := (&Error{UID: 0}).Command(args), "runuser -u root -- balancer check --config 'a b.toml'"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := (&Error{UID: 123456789}).Command(args),
		"setpriv --reuid=123456789 --regid=123456789 --clear-groups balancer check --config 'a b.toml'"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestExplain(t *testing.T) {
	dir := t.TempDir()
	denied := &fs.PathError{Op: "open", Path: "x", Err: syscall.EACCES}
	for dir, err := range map[string]error{
		dir: denied, filepath.Join(dir, "none"): denied, ".": &fs.PathError{Op: "open", Path: "x", Err: syscall.EROFS},
	} {
		if got := Explain(err, dir); got != err {
			t.Errorf("%s: %v", dir, got)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can give directories away")
	}
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	want := "open x: permission denied: it belongs to user 65534, and this program runs as user 0: run as root: chown -R 0 " + dir
	if got := Explain(denied, dir); got.Error() != want || !errors.Is(got, fs.ErrPermission) {
		t.Errorf("%v, want %s", got, want)
	}
}
