package cputime

import (
	"os"
	"testing"
	"time"
)

// spin keeps the processor busy for that long of its time.
func spin(long time.Duration) {
	for start := now(); now()-start < long; {
	}
}

func TestMeter(t *testing.T) {
	const long = 30 * time.Millisecond
	m := Start()
	spin(long)
	time.Sleep(3 * long)
	m.Stop()
	spin(20 * long)
	m.Start()
	m.Stop()
	if m.total < long || m.total > 10*long {
		t.Errorf("%v, want %v and what the test itself takes", m.total, long)
	}
}

// TestProcess: the time of this process is the same to whoever asks.
func TestProcess(t *testing.T) {
	before := now()
	spin(30 * time.Millisecond)
	got, err := Process(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	// The clock of a process is finer than what getrusage sums up.
	if after := now(); got < before+20*time.Millisecond || got > after+20*time.Millisecond {
		t.Errorf("%v, between %v and %v", got, before, after)
	}
	if _, err := Process(1 << 28); err == nil {
		t.Error("a process that does not exist has used time")
	}
}
