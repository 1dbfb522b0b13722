package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"onionbalancer/internal/config"
	"onionbalancer/internal/status"
)

// lockedLog is a log that is read while it is written.
type lockedLog struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// await waits until the log has the text count times.
func (l *lockedLog) await(t *testing.T, text string, count int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		got := l.String()
		if strings.Count(got, text) >= count {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%q is not %d times in the log:\n%s", text, count, got)
		}
	}
}

// SIGHUP with a good file takes it over; with a bad one, the old one stays in
// force, and the log and the status say why. There is no tor: the daemon waits
// for one all the while.
func TestRunHangup(t *testing.T) {
	file := newRunFile(t)
	good := file.good()
	file.write(good)
	cfg, err := config.Load(file.path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	log, done := new(lockedLog), make(chan error, 1)
	go func() { done <- runDaemon(ctx, cfg, log) }()
	log.await(t, "balancer is running", 1)

	hangUp := func(text, says string, count int) {
		t.Helper()
		file.write(text)
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		log.await(t, says, count)
	}
	hangUp("stratgy = 1\n"+good, "was not taken over", 1)
	hangUp(strings.Replace(good, "front", "missing", 1), "was not taken over", 2)
	hangUp(strings.Replace(good, "web1", "web2", 1), "configuration reloaded", 1)
	log.await(t, `changed="web1 is now called web2"`, 1)
	hangUp(strings.Replace(good, "web1", "web2", 1), "the configuration is the same as before", 1)

	snapshot, err := status.Query(ctx, filepath.Join(cfg.StateDir, status.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(snapshot.Reloads); n != 4 || !strings.Contains(snapshot.Reloads[0].Error, "stratgy") ||
		!strings.Contains(snapshot.Reloads[1].Error, "missing") || snapshot.Reloads[2].Error != "" || snapshot.Refused() != nil {
		t.Errorf("reloads: %+v", snapshot.Reloads)
	}
	if snapshot.Connected() || snapshot.Tors[0].Error == "" {
		t.Errorf("tors: %+v", snapshot.Tors)
	}
	var metrics strings.Builder
	if err := status.Metrics(ctx, filepath.Join(cfg.StateDir, status.SocketName), &metrics); err != nil ||
		!strings.Contains(metrics.String(), "balancer_last_reload_successful 1") || !strings.Contains(metrics.String(), `signing="memory"`) {
		t.Errorf("metrics: %v\n%s", err, metrics.String())
	}
	// What [log] says is in force from a reload on, also for what is running.
	table := "[log]\nlevel = \"info\"\nformat = \"json\"\nfull_addresses = true\n"
	whole := snapshot.Services[0].Address
	hangUp(table+good, `"msg":"configuration reloaded"`, 1)
	log.await(t, `"service":"`+whole+`"`, 1)
	if text := log.String(); strings.Contains(text[:strings.Index(text, "{")], whole) {
		t.Errorf("an address whole before it was wanted:\n%s", text)
	}
	hangUp("[log]\nlevel = \"error\"\n"+good, "", 0)
	for len(snapshot.Reloads) < 6 {
		if snapshot, err = status.Query(ctx, file.socket()); err != nil {
			t.Fatal(err)
		}
	}
	hangUp("stratgy = 1\n"+good, "was not taken over", 3)
	if text := log.String(); strings.Count(text, "configuration reloaded") != 3 {
		t.Errorf("said at another level:\n%s", text)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("the daemon ended with %v", err)
	}
}

// brokenLogs are logs as the field has them: a pipe whose reader is gone, one
// that is full and that nobody reads, a disk without room.
func brokenLogs(t *testing.T) map[string]*os.File {
	t.Helper()
	logs := make(map[string]*os.File)
	pipe := func(what string) (reader, writer *os.File) {
		reader, writer, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { reader.Close(); writer.Close() })
		logs[what] = writer
		return reader, writer
	}
	reader, _ := pipe("closed")
	reader.Close()
	_, writer := pipe("stuck")
	// A pipe is full when nothing is taken of it for a while.
	if err := writer.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := writer.Write(make([]byte, 1<<20)); err == nil {
		t.Fatalf("a pipe took %d bytes", n)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { full.Close() })
	logs["full"] = full
	return logs
}

// Whatever becomes of the log, the daemon goes on, reloads, says in its status
// what is wrong with the log, and ends when it is told to.
func TestRunWithoutLog(t *testing.T) {
	for what, log := range brokenLogs(t) {
		t.Run(what, func(t *testing.T) {
			file := newRunFile(t)
			file.write(file.good())
			cmd := exec.Command("balancer", "run", "--config", file.path)
			cmd.Stderr = log
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			defer cmd.Process.Kill()
			ask := func(enough func(status.Snapshot) bool) (s status.Snapshot) {
				t.Helper()
				for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
					s, err := status.Query(t.Context(), file.socket())
					if err == nil && enough(s) {
						return s
					}
					select {
					case err := <-ended:
						t.Fatalf("it ended: %v", err)
					default:
					}
					if time.Now().After(deadline) {
						t.Fatalf("status: %+v, %v", s, err)
					}
				}
			}
			ask(func(status.Snapshot) bool { return true })
			file.write("stratgy = 1\n" + file.good())
			for n := range 3 {
				if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
					t.Fatal(err)
				}
				ask(func(s status.Snapshot) bool { return len(s.Reloads) > n })
			}
			if what != "stuck" { // there is room for megabytes until lines are lost
				s := ask(func(s status.Snapshot) bool { return len(s.Warnings) > 0 })
				if !strings.HasPrefix(s.Warnings[0], "writing the log: ") {
					t.Errorf("warnings: %q", s.Warnings)
				}
			}
			began := time.Now()
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("it ended with %v", err)
				}
				t.Logf("it ended after %v", time.Since(began))
			case <-time.After(20 * time.Second):
				t.Error("it does not end")
			}
		})
	}
}

// A daemon that cannot begin ends, with the status for that, though nobody reads
// why.
func TestRunFailsWithoutLog(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "balancer.toml")
	for what, log := range brokenLogs(t) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		cmd := exec.CommandContext(ctx, "balancer", "run", "--config", missing)
		cmd.Stderr = log
		err := cmd.Run()
		cancel()
		if code := cmd.ProcessState.ExitCode(); code != exitFailed {
			t.Errorf("%s: exit status %d, %v", what, code, err)
		}
	}
}

// runFile is a configuration of a daemon that waits for a tor that is not there.
type runFile struct {
	t         *testing.T
	dir, path string
}

func newRunFile(t *testing.T) *runFile {
	t.Helper()
	// A socket's path must be short, and the test's own directory is not.
	dir, err := os.MkdirTemp("", "run")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if code := run([]string{"key", "new", filepath.Join(dir, "front")}); code != exitDone {
		t.Fatalf("key new: exit status %d", code)
	}
	return &runFile{t: t, dir: dir, path: filepath.Join(dir, "balancer.toml")}
}

func (f *runFile) socket() string { return filepath.Join(f.dir, "state", status.SocketName) }

// good is a configuration that is taken over.
func (f *runFile) good() string {
	return "[tor]\ncontrol = \"unix:" + filepath.Join(f.dir, "none") + "\"\n[[service]]\nkey = \"front\"\n" +
		"[[service.instance]]\nname = \"web1\"\naddress = \"zkorpcleemqj5fkprbp7k7no4sio4qrrmy72zwixbn7dhhwruajlcqid.onion\"\n"
}

func (f *runFile) write(text string) {
	f.t.Helper()
	if err := os.WriteFile(f.path, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}
