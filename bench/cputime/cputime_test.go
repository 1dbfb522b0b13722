package cputime

import (
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
