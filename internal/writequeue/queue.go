// Package writequeue gathers what many callers want to write at once into few writes.
package writequeue

import "sync"

// Queue holds requests for a writer: a goroutine that ends when the queue is empty. The
// zero Queue is empty. It is safe for concurrent use.
type Queue[R any] struct {
	mu      sync.Mutex
	waiting []R
	writing bool
	closed  bool
	writer  sync.WaitGroup
}

// Close has Add refuse what comes from now on, and waits until the rest is written.
func (q *Queue[R]) Close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.writer.Wait()
}

// Add appends a request and starts write as the writer if it does not run. It reports
// whether it did: a closed queue takes nothing.
func (q *Queue[R]) Add(r R, write func()) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.waiting = append(q.waiting, r)
	if !q.writing {
		q.writing = true
		q.writer.Go(write)
	}
	return true
}

// Next has take choose a batch from the requests that wait, in their order: it returns the
// batch and those that go on waiting. An empty batch says that none does, and that the
// writer, who alone calls Next, has to end.
func (q *Queue[R]) Next(take func(waiting []R) (batch, rest []R)) []R {
	q.mu.Lock()
	defer q.mu.Unlock()
	batch, rest := take(q.waiting)
	q.waiting = rest
	if len(batch) == 0 {
		q.waiting, q.writing = nil, false
	}
	return batch
}
