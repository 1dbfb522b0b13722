package lab

import (
	"os"
	"testing"
	"time"
)

// TestProcessorTime: what this process works counts, to whoever asks.
func TestProcessorTime(t *testing.T) {
	before, err := ProcessorTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	// It is counted finer than the ticks that a clock on the wall would tell.
	for now := before; now < before+30*time.Millisecond; {
		if now, err = ProcessorTime(os.Getpid()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ProcessorTime(1 << 28); err == nil {
		t.Error("a process that does not exist has used time")
	}
}
