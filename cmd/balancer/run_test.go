package main

import (
	"context"
	"os"
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
	if snapshot.Tor.Connected || snapshot.Tor.Error == "" {
		t.Errorf("tor: %+v", snapshot.Tor)
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
