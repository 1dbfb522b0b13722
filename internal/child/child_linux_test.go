package child

import (
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The main thread never ends, so the goroutine of main keeps it.
func init() { runtime.LockOSThread() }

// TestThreadEnds: a child outlives the thread that asked for it.
func TestThreadEnds(t *testing.T) {
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	// cat ends when its input does.
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = in
	ended := make(chan error, 1)
	asked := make(chan error)
	thread := make(chan int, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		thread <- syscall.Gettid()
		asked <- Start(cmd, syscall.SIGKILL, func(err error) { ended <- err })
	}()
	if err := <-asked; err != nil {
		t.Fatal(err)
	}
	in.Close()
	awaitThreadEnd(t, <-thread)
	if _, err := io.WriteString(stdin, "alive"); err != nil {
		t.Fatal(err)
	}
	stdin.Close()
	if said, err := io.ReadAll(out); err != nil || string(said) != "alive" {
		t.Errorf("the child said %q, %v", said, err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the child ended with %v", err)
	}
}

// awaitThreadEnd returns once the thread is gone.
func awaitThreadEnd(t *testing.T, tid int) {
	t.Helper()
	for unix.Tgkill(os.Getpid(), tid, 0) == nil {
		runtime.Gosched()
	}
}

func TestStartFails(t *testing.T) {
	err := Start(exec.Command("/no/such/program"), syscall.SIGKILL, func(error) { t.Error("it ended") })
	if err == nil {
		t.Error("started")
	}
}
