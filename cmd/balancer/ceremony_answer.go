package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// isTerminal reports whether f is one that somebody can type on.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// ask writes a question to talk, and reads the line that somebody types as the
// answer. It returns early when ctx ends.
func ask(ctx context.Context, question string, talk io.Writer, from *os.File) (string, error) {
	if !isTerminal(from) {
		return "", errors.New("there is no terminal to ask on: give the fingerprint that the manager showed with --yes FINGERPRINT")
	}
	fmt.Fprint(talk, question)
	type answer struct {
		line string
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		line, err := bufio.NewReader(from).ReadString('\n')
		answers <- answer{strings.TrimSpace(line), err}
	}()
	select {
	case a := <-answers:
		return a.line, a.err
	case <-ctx.Done():
		return "", errors.New("interrupted")
	}
}
