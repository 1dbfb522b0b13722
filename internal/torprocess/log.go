package torprocess

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"strings"

	"onionbalancer/internal/printable"
)

const (
	maxLogLine = 4096 // bytes; what is longer is cut
	maxWords   = 5    // complaints kept for an error's text
)

// torLog reads what tor prints and hands it to slog, so that no file grows.
// All of it belongs to read until that has returned.
type torLog struct {
	log    *slog.Logger
	opened func() // called when the control port is open

	complaints []string
	last       string // warning, to tell repeats
	inUse      bool   // another tor holds the data directory
}

func (t *torLog) read(r io.Reader) {
	lines := bufio.NewReaderSize(r, maxLogLine)
	for {
		line, err := lines.ReadSlice('\n')
		if len(line) > 0 {
			t.line(strings.TrimRight(string(line), "\r\n"))
		}
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = lines.ReadSlice('\n')
		}
		if err != nil {
			return
		}
	}
}

// line handles one line: a date, a severity in brackets, a message. What has
// none was printed by something else on its way out.
func (t *torLog) line(line string) {
	line = printable.Text(line)
	severity, message := "", line
	if _, rest, ok := strings.Cut(line, " ["); ok {
		if s, m, ok := strings.Cut(rest, "] "); ok {
			severity, message = s, m
		}
	}
	switch severity {
	case "warn", "err":
		t.complain(message)
	case "notice", "info", "debug":
		t.log.Debug("tor: " + message)
		if strings.HasPrefix(message, "Opened Control listener") {
			t.inUse = false // it was waited for, and went
			t.opened()
		}
	default:
		if message != "" {
			t.complain(message)
		}
	}
}

func (t *torLog) complain(message string) {
	if strings.Contains(message, "another Tor process is running") {
		t.inUse = true
	}
	if message == t.last {
		t.log.Debug("tor: " + message)
		return
	}
	t.last = message
	t.log.Warn("tor: " + message)
	if len(t.complaints) == maxWords {
		t.complaints = t.complaints[1:]
	}
	t.complaints = append(t.complaints, message)
}

// lastWords joins the latest complaints.
func (t *torLog) lastWords() string { return strings.Join(t.complaints, "; ") }
