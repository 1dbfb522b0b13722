package token

import "time"

// Quick makes helpers time out and restart quickly until restore is called.
func Quick(call time.Duration) (restore func()) { return Limit(call, 300*time.Millisecond) }

// Limit is Quick with another time for helpers to end in.
func Limit(call, grace time.Duration) (restore func()) {
	before := limits
	limits.call, limits.grace, limits.heldBack = call, grace, 400*time.Millisecond
	limits.batch = time.Minute // however slow the machine
	limits.retry, limits.retryMax = 100*time.Millisecond, 400*time.Millisecond
	return func() { limits = before }
}

// Program has path executed as the helper until restore is called.
func Program(path string) (restore func()) {
	program = func() string { return path }
	return func() { program = executable }
}

// HelperPID returns the process of t's helper, 0 if there is none.
func HelperPID(t *Token) int {
	t.helper.turn <- struct{}{}
	defer func() { <-t.helper.turn }()
	if t.helper.process == nil || t.helper.process.ended() {
		return 0
	}
	return t.helper.process.os.Pid
}

// Helpers returns how many helpers are in use.
func Helpers() int {
	helpers.mu.Lock()
	defer helpers.mu.Unlock()
	return len(helpers.m)
}

// Stick makes t's helper one that could not be killed, until free is called.
func Stick(t *Token) (free func()) {
	t.helper.turn <- struct{}{}
	defer func() { <-t.helper.turn }()
	t.helper.stop(0)
	done := make(chan struct{})
	t.helper.unkillable = &process{done: done}
	return func() { close(done) }
}

// NewProcess forgets all that this process knows of PINs, and has them remembered
// in dir, until restore is called.
func NewProcess(dir string) (restore func()) {
	refusals.mu.Lock()
	pins, doubted, asked := refusals.pins, refusals.doubted, refusals.asked
	refusals.pins, refusals.doubted, refusals.asked = nil, nil, false
	clear(refusals.held)
	clear(refusals.met)
	refusals.mu.Unlock()
	RememberIn(dir)
	return func() {
		refusals.mu.Lock()
		defer refusals.mu.Unlock()
		refusals.pins, refusals.doubted, refusals.asked, refusals.marks = pins, doubted, asked, ""
	}
}
