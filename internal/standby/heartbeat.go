package standby

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"onionbalancer/internal/backoff"
	"onionbalancer/internal/event"
)

// The active machine answers a connection with one of these lines, and ends it: the version
// of the format, and whether the machine can publish. It is sent nothing, and reads nothing.
const (
	saysFit   = "1 fit\n"
	saysUnfit = "1 unfit\n"
)

// longestBeat is more than a heartbeat of any version has, in bytes.
const longestBeat = 16

// ErrNoBeat says that what answered is no heartbeat, or one of another version.
var ErrNoBeat = errors.New("what answers is no heartbeat of this version of balancer")

// ReadBeat reads the heartbeat that a connection ends with, and returns what it says.
func ReadBeat(r io.Reader) (fit bool, err error) {
	line, err := io.ReadAll(io.LimitReader(r, longestBeat))
	if err == nil && len(line) == 0 {
		err = io.ErrUnexpectedEOF
	}
	switch {
	case err != nil:
		return false, fmt.Errorf("reading the heartbeat: %w", err)
	case string(line) == saysFit:
		return true, nil
	case string(line) == saysUnfit:
		return false, nil
	}
	return false, ErrNoBeat
}

// How long a heartbeat may wait to be sent, which only one that nobody reads does, what it
// says is taken to hold, and a listener that fails is left alone.
const (
	beatTimeout = time.Second
	fitFor      = time.Second
	acceptAgain = time.Second
)

// ServeHeartbeat tells whoever connects to l whether this machine can publish, until ctx
// ends. Then it closes l.
func ServeHeartbeat(ctx context.Context, l net.Listener, fit func() bool) {
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	line, asked := "", time.Time{}
	for ctx.Err() == nil {
		conn, err := l.Accept()
		if err != nil {
			backoff.Sleep(ctx, acceptAgain) // too many files are open, for instance
			continue
		}
		if now := time.Now(); line == "" || now.Sub(asked) >= fitFor {
			if line, asked = saysUnfit, now; fit() {
				line = saysFit
			}
		}
		_ = conn.SetDeadline(time.Now().Add(beatTimeout))
		_, _ = io.WriteString(conn, line) // who does not get it asks again
		_ = conn.Close()
	}
}

// How often the active machine is asked, how soon again if it does not answer, and for how
// long an answer is waited for: tor may need half a minute for the way there. Before
// Timing.Beat is over, it was asked three times.
const (
	beatEvery = time.Minute
	beatAgain = 15 * time.Second
	beatWait  = 40 * time.Second
)

// PulseConfig is the configuration of a Pulse.
type PulseConfig struct {
	// Dial connects to the heartbeat of the active machine. Connections of the same name
	// may share circuits.
	Dial func(ctx context.Context, circuit string) (net.Conn, error)
	// Changed is called when the heartbeat falls silent, or is heard again. It may be nil.
	Changed func()
	Silent  time.Duration // without a heartbeat until it counts as silent; 0 stands for DefaultTiming's
	Record  event.Recorder
	Now     func() time.Time // nil stands for time.Now
}

// Pulse asks for the heartbeat of the active machine, over and over. It is safe for
// concurrent use.
type Pulse struct {
	cfg PulseConfig

	mu    sync.Mutex // protects the fields below
	beat  Beat       // the last
	err   error      // of the last try
	began time.Time
	told  bool // that it is silent
}

// NewPulse returns a Pulse that asks nothing until Run.
func NewPulse(cfg PulseConfig) *Pulse {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Silent == 0 {
		cfg.Silent = DefaultTiming.Beat
	}
	return &Pulse{cfg: cfg}
}

// Beat returns the last heartbeat; it is a Heartbeat.
func (p *Pulse) Beat() Beat {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.beat
	if !b.Heard.IsZero() {
		b.Heard = p.cfg.Now().Round(0).Add(-p.since(b.Heard))
	}
	return b
}

// since is how long something has been, by the clock that shows more: one may have been set
// back, and the other stops while the machine sleeps.
func (p *Pulse) since(at time.Time) time.Duration {
	now := p.cfg.Now()
	return max(now.Sub(at), now.Round(0).Sub(at.Round(0)))
}

// Trouble returns why nothing is heard; nil if the last try succeeded, or none was made.
func (p *Pulse) Trouble() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Run asks until ctx ends.
func (p *Pulse) Run(ctx context.Context) {
	p.mu.Lock()
	p.began = p.cfg.Now()
	p.mu.Unlock()
	circuits := 0
	for {
		fit, err := p.ask(ctx, "heartbeat "+strconv.Itoa(circuits))
		if ctx.Err() != nil {
			return
		}
		p.note(fit, err)
		wait := beatEvery
		if err != nil {
			circuits++ // this one may be dead
			wait = beatAgain
		}
		if !backoff.Sleep(ctx, backoff.Jitter(wait)) {
			return
		}
	}
}

// ask asks once.
func (p *Pulse) ask(ctx context.Context, circuit string) (fit bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, beatWait)
	defer cancel()
	conn, err := p.cfg.Dial(ctx, circuit)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })() // wakes the reader
	return ReadBeat(conn)
}

// note takes in an answer, or that there is none.
func (p *Pulse) note(fit bool, err error) {
	now := p.cfg.Now()
	p.mu.Lock()
	before := p.beat
	p.err = err
	last := p.began
	if err == nil {
		p.beat = Beat{Heard: now, Fit: fit}
	} else if !before.Heard.IsZero() {
		last = before.Heard
	}
	silent := err != nil && p.since(last) > p.cfg.Silent
	began, ended := silent && !p.told, err == nil && p.told
	p.told = err != nil && (p.told || silent)
	p.mu.Unlock()
	switch {
	case began:
		p.event(slog.LevelWarn, "no heartbeat of the active machine", slog.Any("error", err))
	case ended:
		p.event(slog.LevelInfo, "the heartbeat of the active machine is back")
	}
	if err == nil && !fit && (before.Fit || before.Heard.IsZero()) {
		p.event(slog.LevelWarn, "the active machine says that it cannot publish")
	}
	if err == nil && fit && !before.Fit && !before.Heard.IsZero() {
		p.event(slog.LevelInfo, "the active machine says that it can publish again")
	}
	if (began || ended || err == nil && fit != before.Fit) && p.cfg.Changed != nil {
		p.cfg.Changed()
	}
}

func (p *Pulse) event(level slog.Level, text string, attrs ...slog.Attr) {
	p.cfg.Record(event.Event{At: p.cfg.Now(), Kind: Kind, Level: level, Text: text, Attrs: attrs})
}
