package locked

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain runs the test binary again as the process of TestTrouble.
func TestMain(m *testing.M) {
	if os.Getenv("LOCKED_TEST_TROUBLE") != "" {
		os.Exit(troubled())
	}
	os.Exit(m.Run())
}

// TestFlags asks the kernel what it will do with the memory: "lo" is locked,
// "dd" not dumped, "wf" wiped in a child.
func TestFlags(t *testing.T) {
	for _, size := range []int{64, 10_000} {
		before := lockedBytes(t)
		b := New(size)
		flags := flagsOf(t, addressOf(b))
		for _, want := range []string{"lo", "dd", "wf"} {
			if !slices.Contains(flags, want) {
				t.Errorf("%d bytes: the kernel's flags are %v, without %s", size, flags, want)
			}
		}
		if size > slotSize && lockedBytes(t)-before < size {
			t.Errorf("%d bytes were locked, want at least %d", lockedBytes(t)-before, size)
		}
		runtime.KeepAlive(b)
	}
	if err := Trouble(); err != nil {
		t.Error(err)
	}
}

// flagsOf returns the VmFlags of the mapping that an address is in.
func flagsOf(t *testing.T, address uintptr) []string {
	t.Helper()
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	inside := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var from, to uintptr
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x ", &from, &to); n == 2 {
			inside = from <= address && address < to
		}
		if flags, found := strings.CutPrefix(lines.Text(), "VmFlags:"); found && inside {
			return strings.Fields(flags)
		}
	}
	t.Fatalf("no mapping holds %x", address)
	return nil
}

// TestTrouble has a process that may lock nothing take a secret.
func TestTrouble(t *testing.T) {
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "LOCKED_TEST_TROUBLE=1")
	if out, err := child.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// troubled gives up the right to lock memory, and says what is wrong with what
// follows by an exit status of 1.
func troubled() int {
	runtime.LockOSThread() // capabilities are a thread's
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	none := unix.Rlimit{}
	if err := unix.Capset(&header, &data[0]); err != nil {
		fmt.Println("capset:", err)
		return 1
	}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &none); err != nil {
		fmt.Println("setrlimit:", err)
		return 1
	}
	if Trouble() != nil {
		fmt.Println("trouble before anything was locked:", Trouble())
		return 1
	}
	b := New(64)
	b.Use(func(s []byte) { copy(s, "kept all the same") })
	if err := Trouble(); err == nil || !strings.Contains(err.Error(), "locking the memory of secrets") {
		fmt.Println("trouble:", err)
		return 1
	}
	b.Wipe()
	return 0
}

// TestSharedPages makes sure that thousands of secrets do not take a page each.
func TestSharedPages(t *testing.T) {
	before := lockedBytes(t)
	kept := make([]*Buffer, 10_000)
	for i := range kept {
		kept[i] = New(64)
		kept[i].Use(func(s []byte) { s[0] = byte(i) })
	}
	for i := range kept {
		kept[i].Use(func(s []byte) {
			if s[0] != byte(i) {
				t.Fatal("two secrets in the same place")
			}
		})
	}
	if grown := lockedBytes(t) - before; grown < 1<<20 || grown > 3<<20 {
		t.Errorf("%d bytes were locked for 10,000 secrets of 64", grown)
	}
	runtime.KeepAlive(kept)
}

// lockedBytes returns how much memory this process has locked.
func lockedBytes(t *testing.T) int {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(raw), "\nVmLck:")
	var kilobytes int
	if _, err := fmt.Sscanf(rest, "%d kB", &kilobytes); !found || err != nil {
		t.Fatalf("no VmLck in /proc/self/status: %v", err)
	}
	return kilobytes << 10
}
