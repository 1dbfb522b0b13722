package process

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

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
