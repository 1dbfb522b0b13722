package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
)

// progress says on standard error what is going on, if somebody looks on.
func progress(format string, args ...any) {
	if info, err := os.Stderr.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		fmt.Fprintf(os.Stderr, "\r\x1b[K"+format, args...)
	}
}

func clearProgress() { progress("") }

// machine names the processor.
func machine() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range bytes.Lines(text) {
		if key, value, ok := bytes.Cut(line, []byte{':'}); ok && bytes.HasPrefix(key, []byte("model name")) {
			return fmt.Sprintf("%d × %s", runtime.NumCPU(), bytes.TrimSpace(value))
		}
	}
	return runtime.GOARCH
}
