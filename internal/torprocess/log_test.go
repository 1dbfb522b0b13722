package torprocess

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
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

func TestEnvironment(t *testing.T) {
	got := environment([]string{"PATH=/bin", "NOTIFY_SOCKET=/x", "WATCHDOG_USEC=1", "LISTEN_FDS=1", "HOME=/h"})
	if strings.Join(got, " ") != "PATH=/bin HOME=/h" {
		t.Errorf("got %q", got)
	}
}
