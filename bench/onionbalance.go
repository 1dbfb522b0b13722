package main

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// pythonProgram is Debian's, for which the package onionbalance is made.
const pythonProgram = "/usr/bin/python3"

//go:embed onionbalance.py
var onionBalanceScript string

// onionBalance is a process in which OnionBalance's classes are timed.
type onionBalance struct {
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	answers *bufio.Reader
}

func startOnionBalance(ctx context.Context, f *fixture) (*onionBalance, error) {
	o := &onionBalance{cmd: singleCore(ctx, pythonProgram, "-c", onionBalanceScript)}
	o.cmd.Stderr = os.Stderr
	var err error
	if o.stdin, err = o.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := o.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	o.answers = bufio.NewReader(stdout)
	if err := o.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting OnionBalance's classes (Debian package onionbalance): %w", err)
	}
	var ready struct {
		Points int `json:"points"`
	}
	if err := o.ask(f, &ready); err != nil {
		return nil, errors.Join(err, o.close())
	}
	return o, nil
}

func (o *onionBalance) ask(request, answer any) error {
	text, err := json.Marshal(request)
	if err != nil {
		return err
	}
	if _, err := o.stdin.Write(append(text, '\n')); err != nil {
		return fmt.Errorf("asking OnionBalance's classes: %w", err)
	}
	line, err := o.answers.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("asking OnionBalance's classes: %w", err)
	}
	return json.Unmarshal(line, answer)
}

// run returns the processor time in seconds that an operation takes.
func (o *onionBalance) run(operation string, each time.Duration) (float64, error) {
	request := map[string]any{"operation": operation, "seconds": each.Seconds()}
	var answer struct {
		Seconds float64 `json:"seconds"`
	}
	err := o.ask(request, &answer)
	return answer.Seconds, err
}

func (o *onionBalance) close() error {
	o.stdin.Close()
	return o.cmd.Wait()
}
