package logging

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"slices"
	"sync/atomic"
	"time"

	"onionbalancer/internal/config"
)

// closePatience is how long Close waits for the last lines to be written.
const closePatience = 2 * time.Second

// Log is a log whose level and format can be changed while it is in use. Logging
// never blocks.
type Log struct {
	queue *Queue
	cfg   atomic.Pointer[config.Log]
	base  atomic.Pointer[slog.Handler]
}

// New returns a log that is written to out. Close ends it.
func New(cfg config.Log, out io.Writer) *Log {
	l := &Log{}
	l.queue = NewQueue(out, l.note)
	l.Configure(cfg)
	return l
}

// Configure changes the level and the format, also of loggers that are in use.
func (l *Log) Configure(cfg config.Log) {
	base := newHandler(cfg, l.queue)
	l.cfg.Store(&cfg)
	l.base.Store(&base)
}

// Logger returns a logger to the log.
func (l *Log) Logger() *slog.Logger { return slog.New(handler{log: l}) }

// Trouble returns why lines are being dropped now; nil if none are.
func (l *Log) Trouble() error { return l.queue.Trouble() }

// Close writes pending lines, if that is possible within a short time.
func (l *Log) Close() { l.queue.Close(closePatience) }

// note is the line in place of dropped ones.
func (l *Log) note(lost int, why error) []byte {
	cfg := *l.cfg.Load()
	cfg.Level = slog.LevelWarn // regardless of the configured level
	var line bytes.Buffer
	slog.New(newHandler(cfg, &line)).Warn("lines of the log are missing here", "lines", lost, "error", why)
	return line.Bytes()
}

func newHandler(cfg config.Log, w io.Writer) slog.Handler {
	options := &slog.HandlerOptions{Level: cfg.Level}
	if !cfg.FullAddresses {
		options.ReplaceAttr = shorten
	}
	if cfg.Format == config.FormatJSON {
		return slog.NewJSONHandler(w, options)
	}
	return slog.NewTextHandler(w, options)
}

// label is what an onion address has before its ".onion".
var label = regexp.MustCompile(`\b[a-z2-7]{56}\b`)

// shorten shortens onion addresses in texts and errors: in the path that one names, too.
func shorten(_ []string, a slog.Attr) slog.Attr {
	text := ""
	switch value := a.Value.Any().(type) {
	case string:
		text = value
	case error:
		text = fmt.Sprint(value) // which may be a nil pointer
	}
	if short := label.ReplaceAllStringFunc(text, func(l string) string { return l[:6] + "…" }); short != text {
		a.Value = slog.StringValue(short)
	}
	return a
}

// handler hands each record to the handler that the log has at the time. What a
// logger was made with is repeated for each record, so that it is in the present
// format, and so are values that change.
type handler struct {
	log  *Log
	with []func(slog.Handler) slog.Handler
}

// Enabled implements slog.Handler.
func (h handler) Enabled(ctx context.Context, level slog.Level) bool {
	return (*h.log.base.Load()).Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (h handler) Handle(ctx context.Context, r slog.Record) error {
	base := *h.log.base.Load()
	for _, with := range h.with {
		base = with(base)
	}
	return base.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.and(func(base slog.Handler) slog.Handler { return base.WithAttrs(attrs) })
}

// WithGroup implements slog.Handler.
func (h handler) WithGroup(name string) slog.Handler {
	return h.and(func(base slog.Handler) slog.Handler { return base.WithGroup(name) })
}

func (h handler) and(with func(slog.Handler) slog.Handler) slog.Handler {
	return handler{h.log, append(slices.Clip(h.with), with)}
}
