package socket

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestBelievesTheOwner: the daemon may be that of the user whose the
// directory is, but nobody's who could only make a file there.
func TestBelievesTheOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
	const nobody = 65534
	dir, err := os.MkdirTemp("", "socket")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s.sock")
	listener, err := listenAs(nobody, path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("{}")) }))
	if _, err := get(t.Context(), path); err == nil || !strings.Contains(err.Error(), "a process of user 65534 listens there") {
		t.Errorf("a stranger's answer: %v", err)
	}
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	if _, err := get(t.Context(), path); err != nil {
		t.Errorf("the owner's answer: %v", err)
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
