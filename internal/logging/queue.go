package logging

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// maxWaiting bounds the pending lines, in bytes: some minutes of
// a busy daemon's, or hours of a quiet one's.
const maxWaiting = 1 << 20 // 1 MiB

var errUnread = errors.New("its reader is blocked")

// Queue passes lines on to a writer that may fail or block, and never makes the
// callers of Write wait. If the Queue is full, new lines are dropped,
// so that the beginning of a problem is kept; how many were dropped is
// logged in their place.
type Queue struct {
	out  io.Writer
	note func(lost int, why error) []byte // the line that stands for lost ones

	wake chan struct{} // holds a token when there is something to do
	done chan struct{} // closed when the last line was written, or lost

	mu      sync.Mutex // protects the fields below
	waiting [][]byte
	size    int   // of waiting, in bytes
	lost    int   // lines that found no room since waiting was last taken
	failed  error // of the last line, nil if it was written
	closed  bool
}

// NewQueue returns a Queue before out. Each Write to it must be a whole line.
func NewQueue(out io.Writer, note func(lost int, why error) []byte) *Queue {
	q := &Queue{out: out, note: note, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go q.run()
	return q
}

// Write queues a line. It neither blocks nor fails.
func (q *Queue) Write(line []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	// After one dropped line, all are, until there is room for many: else a
	// short one could stand where a long one is missing.
	if q.closed || q.lost > 0 || q.size+len(line) > maxWaiting {
		q.lost++
		return len(line), nil
	}
	q.waiting = append(q.waiting, bytes.Clone(line))
	q.size += len(line)
	q.poke()
	return len(line), nil
}

// Trouble returns why lines are being dropped now; nil if none are.
func (q *Queue) Trouble() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.failed != nil:
		return fmt.Errorf("writing the log: %w", q.failed)
	case q.lost > 0:
		return fmt.Errorf("writing the log: %w", errUnread)
	}
	return nil
}

// Close gives pending lines this long to be written, and no longer. Lines that arrive
// afterwards are dropped.
func (q *Queue) Close(patience time.Duration) {
	q.mu.Lock()
	q.closed = true
	q.poke()
	q.mu.Unlock()
	select {
	case <-q.done:
	case <-time.After(patience):
	}
}

func (q *Queue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take returns the pending lines, and how many are missing after them.
func (q *Queue) take() (lines [][]byte, lost int, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	lines, lost, closed = q.waiting, q.lost, q.closed
	q.waiting, q.size, q.lost = nil, 0, 0
	return lines, lost, closed
}

// run writes until the Queue is closed.
func (q *Queue) run() {
	defer close(q.done)
	w := writer{Queue: q}
	for closed := false; !closed; {
		<-q.wake
		var lines [][]byte
		var lost int
		lines, lost, closed = q.take()
		for _, line := range lines {
			w.line(line)
		}
		if lost > 0 {
			w.lose(lost, errUnread)
			w.catchUp()
		}
	}
}

// writer is the side of a Queue that may block.
type writer struct {
	*Queue
	lost int // lines, since the last that was written
	why  error
	torn bool // the last line was written in part
}

// line writes a line, after a note about those that are missing before it.
func (w *writer) line(line []byte) {
	err := w.catchUp()
	if err == nil {
		err = w.write(line)
	}
	if err != nil {
		w.lose(1, err)
	}
}

// catchUp writes the note about missing lines, if there are any.
func (w *writer) catchUp() error {
	if w.lost == 0 {
		return nil
	}
	err := w.write(w.note(w.lost, w.why))
	if err == nil {
		w.lost, w.why = 0, nil
	}
	return err
}

func (w *writer) lose(lines int, why error) {
	w.lost += lines
	w.why = why
}

// write writes all of line, on a line of its own.
func (w *writer) write(line []byte) error {
	if w.torn {
		line = append([]byte("\n"), line...)
	}
	n, err := w.out.Write(line)
	if n > 0 {
		w.torn = n < len(line)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = err
	return err
}
