package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"onionbalancer/internal/tor/control"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(helperVariable); dir != "" {
		ownAndWait(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// offline keeps a tor of these tests off the network.
var offline = []string{"DisableNetwork 1"}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "tor")
}

// start starts a tor that ends with the test.
func start(t *testing.T, cfg Config) *Process {
	t.Helper()
	if cfg.ExtraLines == nil {
		cfg.ExtraLines = offline
	}
	p, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p
}

// connect gives a client of p that ends with the test.
func connect(t *testing.T, p *Process) *control.Client {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := control.New(p.ControlConfig())
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	ready, cancelReady := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancelReady()
	if err := c.Ready(ready); err != nil {
		t.Fatal(err)
	}
	return c
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting for: %s", what)
		}
	}
}

// alive tells whether a process is there and no zombie.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func TestStartAndStop(t *testing.T) {
	dir := shortDir(t)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var steps []control.Progress
	p := start(t, Config{Dir: dir, OnBootstrap: func(step control.Progress) {
		mu.Lock()
		defer mu.Unlock()
		steps = append(steps, step)
	}})
	c := connect(t, p)
	for option, want := range map[string]string{
		"SocksPort": fmt.Sprintf("unix:%q OnionTrafficOnly ExtendedErrors", p.SocksSocket()), "UseMicrodescriptors": "1", "FetchDirInfoEarly": "1", "FetchDirInfoExtraEarly": "1",
		"CookieAuthentication": "1", "DormantTimeoutEnabled": "0", "SafeLogging": "1", "DisableNetwork": "1",
		"__OwningControllerProcess": fmt.Sprint(os.Getpid()), "DataDirectory": filepath.Join(dir, "data"),
	} {
		if got, err := c.GetConf(t.Context(), option); err != nil || len(got) != 1 || got[0] != want {
			t.Errorf("%s is %q, %v, want %s", option, got, err, want)
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", info.Mode(), err)
	}
	state := p.State()
	if !alive(state.PID) || state.Restarts != 0 || state.LastError != "" || control.CheckVersion(c.State().TorVersion) != nil {
		t.Errorf("state %+v", state)
	}
	eventually(t, "bootstrap", func() bool { mu.Lock(); defer mu.Unlock(); return len(steps) == 1 })
	if steps[0].Percent != 0 || steps[0].Summary == "" || p.State().Bootstrap != steps[0] {
		t.Errorf("bootstrap %+v", steps)
	}
	p.Stop()
	if alive(state.PID) || p.State().PID != 0 {
		t.Error("tor lives on")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, socketPrefix+"*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	if _, err := p.Dial(t.Context()); err == nil {
		t.Error("dialled a tor that was stopped")
	}
	p.Stop()
}

func TestKilledTorComesBack(t *testing.T) {
	p := start(t, Config{Dir: shortDir(t), times: times{minBackoff: time.Millisecond}})
	c := connect(t, p)
	watch := c.Watch(t.Context())
	<-watch
	for round := 1; round <= 2; round++ {
		before := p.State().PID
		if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		select {
		case <-watch:
		case <-time.After(20 * time.Second):
			t.Fatal("the client did not come back")
		}
		got, err := c.GetInfo(t.Context(), "process/pid")
		if err != nil {
			t.Fatal(err)
		}
		state := p.State()
		if fmt.Sprint(state.PID) != string(got) || state.PID == before || alive(before) {
			t.Errorf("was %d, now %d, tor says %s", before, state.PID, got)
		}
		if state.Restarts != round || !strings.Contains(state.LastError, "killed") {
			t.Errorf("state %+v", state)
		}
	}
}

// A tor that hangs answers no command and heeds no SIGTERM.
func TestFrozenTorIsReplaced(t *testing.T) {
	p := start(t, Config{Dir: shortDir(t), times: times{
		minBackoff: time.Millisecond, heartbeat: 50 * time.Millisecond,
		command: 500 * time.Millisecond, stop: 100 * time.Millisecond,
	}})
	before := p.State().PID
	if err := syscall.Kill(before, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another tor", func() bool { s := p.State(); return s.PID != 0 && s.PID != before })
	if alive(before) || !strings.Contains(p.State().LastError, "control connection was lost") {
		t.Errorf("state %+v, the old one alive: %v", p.State(), alive(before))
	}
	connect(t, p)
}

const helperVariable = "TORPROCESS_TEST_OWNER"

// ownAndWait is what the test binary does as the owner that will be killed.
func ownAndWait(dir string) {
	p, err := Start(context.Background(), Config{Dir: dir, ExtraLines: offline})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	fmt.Println("pid", p.State().PID)
	select {}
}

func TestTorEndsWithItsOwner(t *testing.T) {
	dir := shortDir(t)
	owner := exec.Command(os.Args[0])
	owner.Env = append(os.Environ(), helperVariable+"="+dir)
	out, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	_, err = fmt.Fscanf(out, "pid %d\n", &pid)
	killed := owner.Process.Kill()
	_ = owner.Wait()
	if err != nil || killed != nil {
		t.Fatal(err, killed)
	}
	eventually(t, "the end of tor", func() bool { return !alive(pid) })
	// What the killed owner left behind is in nobody's way.
	connect(t, start(t, Config{Dir: dir}))
}

func TestAnotherTorInTheDirectory(t *testing.T) {
	dir := shortDir(t)
	p := start(t, Config{Dir: dir})
	c := connect(t, p)
	// Another balancer, and a tor that somebody started by hand.
	if _, err := Start(t.Context(), Config{Dir: dir, ExtraLines: offline}); !errors.Is(err, ErrInUse) {
		t.Errorf("got %v, want ErrInUse", err)
	}
	patience := times{stop: 100 * time.Millisecond}
	if err := os.Remove(filepath.Join(dir, ownerFile)); err != nil {
		t.Fatal(err)
	}
	theirs := &files{root: p.files.root}
	if _, err := theirs.claim(t.Context(), patience.stop); !errors.Is(err, ErrInUse) {
		t.Errorf("got %v, want ErrInUse", err)
	}
	// The first is as it was, and when it is gone another may come.
	if _, err := c.GetInfo(t.Context(), "version"); err != nil || c.State().Connects != 1 {
		t.Errorf("the first was disturbed: %v", err)
	}
	p.Stop()
	connect(t, start(t, Config{Dir: dir}))
}

func TestLogLevels(t *testing.T) {
	var out bytes.Buffer
	opened := 0
	l := &torLog{
		log:    slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn})),
		opened: func() { opened++ },
	}
	l.read(strings.NewReader("Nov 20 09:00:00.000 [notice] quiet\n" +
		"Nov 20 09:00:00.000 [warn] loud\nNov 20 09:00:00.000 [warn] loud\n" +
		"Nov 20 09:00:00.000 [notice] Opened Control listener connection (ready) on /x\n" +
		"Nov 20 09:00:00.000 [err] It [looks] bad\n\nbare words\n" +
		"Nov 20 09:00:00.000 [warn] " + strings.Repeat("x", 3*maxLogLine) + "\n" +
		"Nov 20 09:00:00.000 [warn] no newline"))
	text := out.String()
	if strings.Contains(text, "quiet") || strings.Count(text, "loud") != 1 || strings.Count(text, "\n") != 5 ||
		!strings.Contains(text, "It [looks] bad") || len(text) > 2*maxLogLine {
		t.Errorf("logged %s", text)
	}
	if opened != 1 || !strings.HasSuffix(l.lastWords(), "; no newline") {
		t.Errorf("opened %d times, last words %s", opened, l.lastWords())
	}
}

// TestLogCountsRepeats: a transport that cannot start is reported by tor every
// second, each time with another process id.
func TestLogCountsRepeats(t *testing.T) {
	var out bytes.Buffer
	l := &torLog{log: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	for pid := range 150 {
		l.line(fmt.Sprintf("Nov 20 09:00:00.000 [warn] Managed proxy \"/usr/bin/obfs4proxy\" having PID %d terminated with status code 1", pid))
		l.line(fmt.Sprintf("Nov 20 09:00:00.000 [warn] %d connections have failed:", pid))
	}
	l.line("Nov 20 09:00:00.000 [warn] Managed proxy \"/usr/bin/obfs4proxy\" wrote nonsense")
	text := out.String()
	if strings.Count(text, "PID") != 3 || !strings.Contains(text, "times=10\n") || !strings.Contains(text, "times=100\n") || !strings.Contains(text, "nonsense") {
		t.Errorf("logged\n%s", text)
	}
	if words := l.lastWords(); strings.Count(words, "PID") != 1 {
		t.Errorf("the last words are %s", words)
	}
	later := time.Now().Add(repeatAfter)
	if times, due := l.count(sortOf("7 connections have failed:"), later); times != 151 || !due {
		t.Errorf("after an hour: the %d. time, due %v", times, due)
	}
	for i := range 3 * maxSorts {
		l.count(strings.Repeat("x", i), later)
	}
	if len(l.said) > maxSorts {
		t.Errorf("%d sorts are kept", len(l.said))
	}
}

func TestEnvironment(t *testing.T) {
	got := environment([]string{"PATH=/bin", "NOTIFY_SOCKET=/x", "WATCHDOG_USEC=1", "LISTEN_FDS=1", "HOME=/h"})
	if strings.Join(got, " ") != "PATH=/bin HOME=/h" {
		t.Errorf("got %q", got)
	}
}
