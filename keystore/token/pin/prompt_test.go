package pin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"onionbalancer/internal/locked/lockedtest"
)

// TestMain lets this binary be a program that asks for a PIN on its terminal.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "ask" {
		patience, err := time.ParseDuration(os.Args[2])
		if err != nil {
			panic(err)
		}
		ask(patience)
		return
	}
	os.Exit(m.Run())
}

// ask reads the PINs of two tokens, the first of them twice, and writes them to
// standard output, which is a pipe.
func ask(patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, name := range []string{"one", "one", "t\u202ewo"} {
		pin, err := Source{kind: kindPrompt}.Read(ctx, name)
		if err != nil {
			fmt.Printf("error: %v\n", err)
			return
		}
		fmt.Printf("%s: %s\n", name, lockedtest.Bytes(pin))
	}
}

// terminal returns both sides of a pseudo-terminal.
func terminal(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	if err := unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(ours.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { theirs.Close() })
	return ours, theirs
}

// asking starts the program that asks, on a terminal if it is given.
func asking(t *testing.T, tty *os.File, patience string) (*exec.Cmd, io.Reader) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "ask", patience)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if tty != nil {
		cmd.Stdin = tty
		cmd.SysProcAttr.Setctty = true
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, out
}

// await reads what the terminal shows until it shows text.
func await(t *testing.T, tty *os.File, text string) string {
	t.Helper()
	var shown strings.Builder
	b := make([]byte, 256)
	for !strings.Contains(shown.String(), text) {
		n, err := tty.Read(b)
		if err != nil {
			t.Fatalf("waiting for %q after %q: %v", text, &shown, err)
		}
		shown.Write(b[:n])
	}
	return shown.String()
}

func typeIn(t *testing.T, tty *os.File, text string) {
	t.Helper()
	if _, err := io.WriteString(tty, text); err != nil {
		t.Fatal(err)
	}
}

func TestPrompt(t *testing.T) {
	ours, theirs := terminal(t)
	cmd, out := asking(t, theirs, "1m")
	shown := await(t, ours, "PIN of one: ")
	typeIn(t, ours, "47x\x7f11\n") // with a slip, rubbed out
	shown += await(t, ours, `PIN of t\u202ewo: `)
	typeIn(t, ours, "0815\n")
	text, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if got, want := string(text), "one: 4711\none: 4711\nt\u202ewo: 0815\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if strings.Contains(shown, "47") || strings.Contains(shown, "x") {
		t.Errorf("the terminal shows %q", shown)
	}
	settings, err := unix.IoctlGetTermios(int(theirs.Fd()), unix.TCGETS)
	if err != nil || settings.Lflag&unix.ECHO == 0 {
		t.Errorf("the terminal does not show any more what is typed: %v", err)
	}
}

// TestPromptGivesUp leaves the terminal as it was when nobody answers.
func TestPromptGivesUp(t *testing.T) {
	ours, theirs := terminal(t)
	cmd, out := asking(t, theirs, "500ms")
	await(t, ours, "PIN of one: ")
	typeIn(t, ours, "half a P")
	text, err := io.ReadAll(out)
	if err := errors.Join(err, cmd.Wait()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "nothing was entered: context deadline exceeded") {
		t.Errorf("%q", text)
	}
	settings, err := unix.IoctlGetTermios(int(theirs.Fd()), unix.TCGETS)
	if err != nil || settings.Lflag&unix.ECHO == 0 {
		t.Errorf("the terminal does not show any more what is typed: %v", err)
	}
}

func TestPromptWithoutTerminal(t *testing.T) {
	cmd, out := asking(t, nil, "1s")
	text, err := io.ReadAll(out)
	if err := errors.Join(err, cmd.Wait()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "reading the PIN from prompt: there is no terminal") {
		t.Errorf("%q", text)
	}
}
