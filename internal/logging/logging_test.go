package logging

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"onionbalancer/internal/config"
)

// changing is a value that is another one each time it is logged.
type changing struct{ word *string }

func (c changing) LogValue() slog.Value { return slog.StringValue(*c.word) }

// A logger that is in use follows the level, the format, and the values that it
// was made with.
func TestConfigure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, word := &gate{}, "short"
		l := New(config.Log{Level: slog.LevelInfo, Format: config.FormatText}, g)
		log := l.Logger().With("service", changing{&word}).WithGroup("more").With("a", 1)
		log.Debug("unwanted")
		log.Info("first", "b", 2)
		l.Configure(config.Log{Level: slog.LevelDebug, Format: config.FormatJSON})
		word = "whole"
		log.Debug("second", "b", 3)
		l.Configure(config.Log{Level: slog.LevelError, Format: config.FormatText})
		log.Warn("unwanted")
		l.Close()
		lines := strings.Split(strings.TrimSpace(g.text.String()), "\n")
		if len(lines) != 2 || !strings.HasSuffix(lines[0], " level=INFO msg=first service=short more.a=1 more.b=2") {
			t.Fatalf("logged: %q", lines)
		}
		var second struct {
			Level, Msg, Service string
			More                struct{ A, B int }
		}
		if err := json.Unmarshal([]byte(lines[1]), &second); err != nil {
			t.Fatalf("%v: %s", err, lines[1])
		}
		if second.Level != "DEBUG" || second.Msg != "second" || second.Service != "whole" || second.More.A != 1 || second.More.B != 3 {
			t.Errorf("in the new format: %+v", second)
		}
	})
}

// That lines are missing is said in the present format, at whatever level.
func TestNote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{stuck: make(chan struct{})}
		l := New(config.Log{Level: slog.LevelError, Format: config.FormatJSON}, g)
		for range 20 {
			l.Logger().Error(strings.Repeat("x", maxWaiting/8))
		}
		synctest.Wait()
		close(g.stuck)
		l.Close()
		text := strings.TrimSpace(g.text.String())
		var note struct {
			Msg, Error string
			Lines      int
		}
		if err := json.Unmarshal([]byte(text[strings.LastIndexByte(text, '\n')+1:]), &note); err != nil {
			t.Fatal(err)
		}
		if note.Msg != "lines of the log are missing here" || note.Error != errUnread.Error() || note.Lines < 1 {
			t.Errorf("the last line: %+v", note)
		}
	})
}

// Onion addresses are short wherever they stand, unless the operator wants them whole.
func TestShorten(t *testing.T) {
	label := strings.Repeat("a2", 28)
	for _, full := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			g := &gate{}
			l := New(config.Log{Format: config.FormatText, FullAddresses: full}, g)
			failed := fmt.Errorf("reading a key: %w", &fs.PathError{Op: "open", Path: "/keys/" + label + "/hostname", Err: fs.ErrNotExist})
			l.Logger().With("service", label+".onion").Warn("of "+label, "error", failed, "n", 1)
			l.Close()
			text := g.text.String()
			if strings.Count(text, label) != map[bool]int{false: 0, true: 3}[full] {
				t.Errorf("full %t: %s", full, text)
			}
			if !full && !strings.Contains(text, `error="reading a key: open /keys/a2a2a2…/hostname: file does not exist"`) {
				t.Error(text)
			}
		})
	}
}
