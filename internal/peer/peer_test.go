package peer

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCheck(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn := dial(t, path)
	if uid, err := UID(conn); err != nil || uid != os.Geteuid() {
		t.Errorf("user %d, %v", uid, err)
	}
	if err := Check(conn); err != nil {
		t.Error(err)
	}
	a, b := net.Pipe()
	defer b.Close()
	if err := Check(a); err == nil {
		t.Error("a pipe is taken for a unix socket")
	}
}

func TestCheckAnother(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
	const nobody = 65534
	dir, err := os.MkdirTemp("", "peer")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	listener, err := listenAs(nobody, path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn := dial(t, path)
	if err := Check(conn); err == nil {
		t.Error("another user is believed")
	}
	if err := Check(conn, nobody); err != nil {
		t.Error(err)
	}
}

// listenAs listens as another user: on Linux a thread may be one for a while.
func listenAs(uid uintptr, path string) (net.Listener, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const as = ^uintptr(0) // it is
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, as, uid, as); errno != 0 {
		return nil, errno
	}
	defer unix.RawSyscall(unix.SYS_SETRESUID, as, 0, as)
	return net.Listen("unix", path)
}

func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}
