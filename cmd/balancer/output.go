package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"onionbalancer/internal/owner"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/state"
)

// output is standard output or standard error. All output of commands
// is escaped, except printable text; only control sequences of our own
// and files that are meant for programs go to the file itself.
type output struct {
	io.Writer
	file *os.File
}

func newOutput(file *os.File) *output { return &output{printable.Writer(file), file} }

// terminal returns the terminal that w writes to, nil if it is none.
func terminal(w io.Writer) *os.File {
	if o, ok := w.(*output); ok && isTerminal(o.file) {
		return o.file
	}
	return nil
}

// binary is w for bytes that are to arrive as they are: unless they would do so
// on a terminal.
func binary(w io.Writer) io.Writer {
	if o, ok := w.(*output); ok && !isTerminal(o.file) {
		return o.file
	}
	return w
}

// complain says why the command line args, the program's name included, failed.
// Only the first line begins at the margin: a later one may be of a file's name.
func complain(w io.Writer, args []string, err error) {
	fmt.Fprintf(w, "balancer: %s\n", strings.ReplaceAll(err.Error(), "\n", "\n  "))
	if theirs := new(owner.Error); errors.As(err, &theirs) {
		fmt.Fprintf(w, "run: %s\n", theirs.Command(args))
	}
	if errors.Is(err, state.ErrNewer) {
		fmt.Fprintf(w, "fix: %s\n", state.NewerFix)
	}
}

// oneLine is text that is not ours where it must not end a line.
func oneLine(s string) string { return printable.Text(strings.ReplaceAll(s, "\n", "; ")) }

// writeJSON writes v for programs, indented so that people can read it too.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// show prints v: as JSON for programs, else the output of text, for people.
func show(cmd *cobra.Command, asJSON bool, v any, text func(io.Writer)) error {
	if asJSON {
		return writeJSON(cmd.OutOrStdout(), v)
	}
	return writeText(cmd.OutOrStdout(), text)
}

// showLine is show with JSON in one line, in which a URI stays readable.
func showLine(cmd *cobra.Command, asJSON bool, v any, text func(io.Writer)) error {
	if !asJSON {
		return writeText(cmd.OutOrStdout(), text)
	}
	enc := json.NewEncoder(cmd.OutOrStdout())
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// writeText writes the output of text, or returns why it cannot.
func writeText(out io.Writer, text func(io.Writer)) error {
	var b bytes.Buffer
	text(&b)
	_, err := out.Write(b.Bytes())
	return err
}

// table aligns the output of text in columns, the cells of which end with a tab.
func table(text func(io.Writer)) func(io.Writer) {
	return func(out io.Writer) {
		w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
		text(w)
		_ = w.Flush() // into memory
	}
}

// grid is a table with lines of text between its rows, which move none of its columns.
type grid struct {
	rows  bytes.Buffer // the cells of which end with a tab
	below [][]string   // lines of text, of each row
}

// row adds a row.
func (g *grid) row(format string, args ...any) {
	fmt.Fprintf(&g.rows, format+"\n", args...)
	g.below = append(g.below, nil)
}

// note puts a text of one or more lines below the last row, beside what.
func (g *grid) note(what, text string) {
	last := &g.below[len(g.below)-1]
	for line := range strings.SplitSeq(text, "\n") {
		*last = append(*last, what+"  "+printable.Text(line))
		what = strings.Repeat(" ", len(what))
	}
}

// print prints the table.
func (g *grid) print(out io.Writer) {
	var aligned bytes.Buffer
	table(func(w io.Writer) { _, _ = w.Write(g.rows.Bytes()) })(&aligned)
	for n, row := range strings.Split(strings.TrimSuffix(aligned.String(), "\n"), "\n") {
		fmt.Fprintln(out, strings.TrimRight(row, " "))
		for _, line := range g.below[n] {
			fmt.Fprintln(out, line)
		}
	}
}

// progressEvery is how often progress is printed where lines cannot be
// overwritten.
const progressEvery = 10 * time.Second

// clearLine takes the cursor to the beginning of a line, which it empties.
const clearLine = "\r\x1b[K"

// progressLine shows progress: one line that is overwritten on a
// terminal, now and then a line of its own elsewhere, if there is something new. It can be used from
// several goroutines.
type progressLine struct {
	out      io.Writer
	terminal *os.File // that out is, for control sequences; nil if it is none

	mu      sync.Mutex
	printed time.Time
	last    string // that was printed where lines cannot be overwritten
	open    bool   // the cursor stands behind a progress line
}

func newProgressLine(out io.Writer) *progressLine {
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
	if now := time.Now(); now.Sub(p.printed) >= progressEvery && line != p.last {
		p.printed, p.last = now, line
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
