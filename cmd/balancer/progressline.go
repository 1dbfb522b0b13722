package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// progressEvery is how often progress is printed where lines cannot be
// overwritten.
const progressEvery = 10 * time.Second

// clearLine takes the cursor to the beginning of a line, which it empties.
const clearLine = "\r\x1b[K"

// progressLine shows what is going on: one line that is overwritten on a
// terminal, now and then a line of its own elsewhere. It can be used from
// several goroutines.
type progressLine struct {
	out      io.Writer
	terminal *os.File // that out is, for control sequences; nil if it is none

	mu      sync.Mutex
	printed time.Time
	open    bool // the cursor stands behind a progress line
}

// newProgressLine writes to out; with quiet it writes nothing.
func newProgressLine(out io.Writer, quiet bool) *progressLine {
	if quiet {
		return &progressLine{out: io.Discard}
	}
	p := &progressLine{out: out}
	if os.Getenv("TERM") != "dumb" {
		p.terminal = terminal(out)
	}
	return p
}

// tell replaces the progress line.
func (p *progressLine) tell(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	line = oneLine(line)
	if p.terminal != nil {
		fmt.Fprint(p.terminal, clearLine)
		fmt.Fprint(p.out, line)
		p.open = true
		return
	}
	if now := time.Now(); now.Sub(p.printed) >= progressEvery {
		p.printed = now
		fmt.Fprintln(p.out, line)
	}
}

// say prints lines that stay.
func (p *progressLine) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clearLocked()
	fmt.Fprintf(p.out, format+"\n", args...)
}

// clear removes the progress line.
func (p *progressLine) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clearLocked()
}

func (p *progressLine) clearLocked() {
	if p.open {
		fmt.Fprint(p.terminal, clearLine)
		p.open = false
	}
}
