package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"onionbalancer/internal/owner"
)

// openTerminal returns a terminal and what shows on it.
func openTerminal(t *testing.T) (terminal, screen *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { screen.Close() })
	number, err := unix.IoctlGetInt(int(screen.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(screen.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return terminal, screen
}

// TestOutputOnTerminal: only our own control sequences reach a terminal.
func TestOutputOnTerminal(t *testing.T) {
	t.Setenv("TERM", "xterm")
	terminal, screen := openTerminal(t)
	out := newOutput(terminal)
	line := newProgressLine(out)
	line.tell("half\x1b[2J\nFORGED")
	line.say("done: %s", "\u009b2J")
	_, err := binary(out).Write([]byte{0x30, 0x82, 0x1b, '\n'})
	if err != nil {
		t.Fatal(err)
	}
	want := "\r\x1b[K" + `half\x1b[2J; FORGED` + "\r\x1b[K" + `done: \u009b2J` + "\r\n" + `0\x82\u001b` + "\r\n"
	got := make([]byte, 1000)
	n, err := io.ReadAtLeast(screen, got, len(want))
	if err != nil || string(got[:n]) != want {
		t.Errorf("on the terminal: %q, %v, want %q", got[:n], err, want)
	}
}

// TestOutputToFile: what is meant for programs arrives as it is.
func TestOutputToFile(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	out := newOutput(file)
	line := newProgressLine(out)
	line.tell("half\x1b")
	line.clear()
	if _, err := binary(out).Write([]byte("\x82\x1b")); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(file.Name()); err != nil || string(got) != "half\\x1b\n\x82\x1b" {
		t.Errorf("in the file: %q, %v", got, err)
	}
}

func TestComplain(t *testing.T) {
	var said strings.Builder
	complain(&said, []string{"balancer", "run"}, fmt.Errorf("opening: %w", errors.Join(errors.New("a\nbalancer: ok"), &owner.Error{Path: "/x", UID: 0})))
	want := "balancer: opening: a\n  balancer: ok\n  /x belongs to root, and root does nothing there, where that user could have it write or run anything\n" +
		"run: runuser -u root -- balancer run\n"
	if said.String() != want {
		t.Errorf("said\n%swant\n%s", said.String(), want)
	}
}
