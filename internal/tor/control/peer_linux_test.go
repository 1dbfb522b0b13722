package control

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// otherUser is neither root nor the user that runs the tests.
const otherUser = 54321

// needRoot is for what takes a second user.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
}

// foreign copies a file for the other user, and gives its path.
func foreign(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	path = writeFile(t, string(content))
	if err := os.Chown(path, otherUser, otherUser); err != nil {
		t.Fatal(err)
	}
	return path
}

// listenAs listens on the socket at path as the other user.
func listenAs(t *testing.T, path string) net.Listener {
	t.Helper()
	type made struct {
		l   net.Listener
		err error
	}
	result := make(chan made)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with its user
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), otherUser, ^uintptr(0)); errno != 0 {
			result <- made{err: errno}
			return
		}
		l, err := net.Listen("unix", path)
		result <- made{l, err}
	}()
	r := <-result
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r.l
}

// place makes a directory in base for the other user, of the mode.
func place(t *testing.T, base string, mode os.FileMode) string {
	t.Helper()
	dir, err := os.MkdirTemp(base, "control")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chown(dir, otherUser, otherUser); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, mode); err != nil {
		t.Fatal(err)
	}
	return dir
}

// foreignSocket is the other user's, in a place where anybody could have put it.
func foreignSocket(t *testing.T) net.Listener {
	return listenAs(t, filepath.Join(place(t, "", 0o755), "control"))
}

// Another user of this machine is told as little as one that answers over TCP.
func TestImpostorsOfAnotherUser(t *testing.T) {
	needRoot(t)
	cookie := foreign(t, writeFile(t, strings.Repeat("c", cookieLength)))
	named := fmt.Sprintf("SAFECOOKIE COOKIEFILE=%q", cookie)
	password := writeFile(t, "secret")
	for name, test := range map[string]struct {
		methods string
		cfg     Config
		errHas  string
	}{
		"nothing wanted":        {"NULL", Config{}, "who may not be tor"},
		"password wanted":       {"HASHEDPASSWORD", Config{PasswordFile: password}, "who may not be tor"},
		"a cookie of its own":   {named, Config{}, fmt.Sprintf("set cookie_file = %q", cookie)},
		"a cookie that was set": {"SAFECOOKIE", Config{CookieFile: cookie}, "not only that user could put it there"},
	} {
		t.Run(name, func(t *testing.T) {
			refuseImpostor(t, foreignSocket(t), test.methods, test.cfg, test.errHas)
		})
	}
}

// A socket of tor's own user is believed where only that user, root and we could
// have put it.
func TestWhoseSocket(t *testing.T) {
	needRoot(t)
	const safe = "/run" // root's alone, all the way up
	for name, test := range map[string]struct {
		listen func(t *testing.T, path string) net.Listener
		base   string
		mode   os.FileMode
		doubt  string // "" for none
	}{
		"ours, wherever":         {func(t *testing.T, path string) net.Listener { return listen(t, "unix", path) }, "", 0o777, ""},
		"tor's, in its place":    {listenAs, safe, 0o755, ""},
		"tor's, closed":          {listenAs, safe, 0o700, ""},
		"where the group writes": {listenAs, safe, 0o775, "can be written by others"},
		"where all write":        {listenAs, safe, 0o777, "can be written by others"},
		"below where all write":  {listenAs, "", 0o755, "can be written by others"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(place(t, test.base, test.mode), "control")
			l := test.listen(t, path)
			defer l.Close()
			checkDoubt(t, path, test.doubt)
		})
	}
	t.Run("the place is a third user's", func(t *testing.T) {
		dir := place(t, safe, 0o755)
		l := listenAs(t, filepath.Join(dir, "control"))
		defer l.Close()
		if err := os.Chown(dir, otherUser+1, otherUser); err != nil {
			t.Fatal(err)
		}
		checkDoubt(t, filepath.Join(dir, "control"), fmt.Sprintf("%s belongs to user %d", dir, otherUser+1))
	})
	t.Run("by a link that others can change", func(t *testing.T) {
		dir := place(t, safe, 0o755)
		l := listenAs(t, filepath.Join(dir, "control"))
		defer l.Close()
		link := filepath.Join(place(t, "", 0o755), "link")
		if err := os.Symlink(dir, link); err != nil {
			t.Fatal(err)
		}
		checkDoubt(t, filepath.Join(link, "control"), "can be written by others")
	})
}

func checkDoubt(t *testing.T, path, want string) {
	t.Helper()
	conn, err := DialTarget("unix:" + path)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	switch got := identify(conn).doubt; {
	case want == "" && got != nil:
		t.Errorf("doubted: %v", got)
	case want != "" && (got == nil || !strings.Contains(got.Error(), want)):
		t.Errorf("doubt %v, want %q", got, want)
	}
}
