package process

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"strings"
	"time"

	"onionbalancer/internal/printable"
)

const (
	maxLogLine = 4096 // bytes; what is longer is cut
	maxWords   = 5    // complaints kept for an error's text
	maxSorts   = 100  // sorts of complaints that are told apart

	// repeatAfter is how long a repeated message is
	// suppressed, except for its 10th, 100th, … time.
	repeatAfter = time.Hour
)

// torLog reads tor's output and passes it to slog, so that no file grows.
// All of it belongs to read until that has returned.
type torLog struct {
	log    *slog.Logger
	opened func() // called when the control port is open

	complaints []string
	said       map[string]*saying // by sort
	inUse      bool               // another tor holds the data directory
}

// saying counts a kind of message, with the time when it was last logged.
type saying struct {
	times int
	last  time.Time
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

// line handles one line: a date, a severity in brackets, a message. Lines without
// these were not printed by tor's logger.
func (t *torLog) line(line string) {
	line = printable.Text(line)
	severity, message := "", line
	if _, rest, ok := strings.Cut(line, " ["); ok {
		if s, m, ok := strings.Cut(rest, "] "); ok {
			severity, message = s, m
		}
	}
	switch severity {
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
	times, due := t.count(sortOf(message), time.Now())
	switch {
	case !due:
		t.log.Debug("tor: " + message)
		return
	case times > 1:
		t.log.Warn("tor: "+message, "times", times)
		return
	}
	t.log.Warn("tor: " + message)
	if len(t.complaints) == maxWords {
		t.complaints = t.complaints[1:]
	}
	t.complaints = append(t.complaints, message)
}

// count counts a message, and returns how often its kind was seen and whether it is
// to be logged.
func (t *torLog) count(sort string, now time.Time) (times int, due bool) {
	s := t.said[sort]
	if s == nil {
		if t.said == nil || len(t.said) >= maxSorts {
			t.said = make(map[string]*saying)
		}
		s = &saying{last: now}
		t.said[sort] = s
	}
	s.times++
	due = roundNumber(s.times) || now.Sub(s.last) >= repeatAfter
	if due {
		s.last = now
	}
	return s.times, due
}

// roundNumber reports whether n is 1, 10, 100, 1000 and so on.
func roundNumber(n int) bool {
	for ; n >= 10 && n%10 == 0; n /= 10 {
	}
	return n == 1
}

// sortOf maps messages that differ only in numbers (process ids, counts, relays)
// to one form, so that they count as repetitions.
func sortOf(message string) string {
	words := strings.Fields(message)
	for i, word := range words {
		if strings.ContainsAny(word, "0123456789") {
			words[i] = "#"
		}
	}
	return strings.Join(words, " ")
}

// lastWords joins the last warnings.
func (t *torLog) lastWords() string { return strings.Join(t.complaints, "; ") }
