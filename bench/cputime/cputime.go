// Package cputime lets benchmarks report the processor time that an operation
// takes. On a machine that does other things too it differs less from run to
// run than the time on the clock, and can be compared with what other programs
// take.
package cputime

import (
	"syscall"
	"testing"
	"time"
)

// Metric is the unit under which Report adds its figure to a benchmark's line.
const Metric = "cpu-ns/op"

// ChildrenMetric is the unit for what the processes take that a benchmark has
// started, and does not wait for; see Children.
const ChildrenMetric = "children-cpu-ns/op"

// Meter measures the processor time of this process, the garbage collector's
// included.
type Meter struct {
	since time.Duration // of a Start without its Stop
	total time.Duration
}

// Start returns a meter that is running.
func Start() *Meter {
	m := new(Meter)
	m.Start()
	return m
}

// Start goes on after a Stop.
func (m *Meter) Start() { m.since = now() }

// Stop leaves out what happens until the next Start.
func (m *Meter) Stop() { m.total += now() - m.since }

// Report ends the measurement, which must be running, and reports the time per
// operation. It is called after the benchmark's loop.
func (m *Meter) Report(b *testing.B) {
	m.Stop()
	b.ReportMetric(float64(m.total.Nanoseconds())/float64(b.N), Metric)
}

// now is the processor time of this process so far, in the system as well.
func now() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic("cputime: " + err.Error())
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
