package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"onionbalancer/internal/owner"
	"onionbalancer/internal/printable"
)

// output is standard output or standard error. All that commands write to it
// is escaped, except for what may be printed; only control sequences of our own
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
}

// oneLine is text that is not ours where it must not end a line.
func oneLine(s string) string { return printable.Text(strings.ReplaceAll(s, "\n", "; ")) }
