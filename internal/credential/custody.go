package credential

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// How long a call to the keys may take, and how long closing waits for calls that
// do not return.
const (
	certifyTimeout = 60 * time.Second // for one period
	retireTimeout  = 60 * time.Second
	signTimeout    = 60 * time.Second // for one descriptor
	callGrace      = 3 * time.Second
	closeTimeout   = 5 * time.Second
)

var errClosed = errors.New("the keys have been closed")

// maxHung is how many calls that never returned are left behind before no new one
// is made.
const maxHung = 3

// custody makes the calls to one service's keys, one at a time. A call that hangs
// holds up the next one until its time is up; then it is left behind.
type custody struct {
	keys Keys
	turn chan struct{} // holds a token while a call is made

	ctx        context.Context // of all calls; ends with close
	cancel     context.CancelFunc
	certifying context.Context // of calls that prepare for later; ends with a handover
	stop       context.CancelFunc

	mu     sync.Mutex // protects what follows
	closed bool
	hung   int // calls in flight that were left behind
	calls  sync.WaitGroup
}

func newCustody(keys Keys) *custody {
	c := &custody{keys: keys, turn: make(chan struct{}, 1)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.certifying, c.stop = context.WithCancel(c.ctx)
	return c
}

// do makes a call when its turn comes, and returns its error, or sooner when ctx
// ends. The time that the call has begins with its turn.
func (c *custody) do(ctx context.Context, timeout time.Duration, call func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return c.stopped("waiting for an earlier call to the keys", ctx)
	}
	release := sync.OnceFunc(func() { <-c.turn })
	result := make(chan error, 1)
	if err := c.spawn(func() {
		defer release()
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		result <- call(ctx)
	}); err != nil {
		release()
		return err
	}
	timer := time.NewTimer(timeout + callGrace)
	defer timer.Stop()
	select {
	case err := <-result:
		return err
	case <-timer.C:
		c.leave(result)
		release()
		return fmt.Errorf("the keys do not answer, for %s", timeout)
	case <-ctx.Done():
		return c.stopped("waiting for the keys", ctx)
	}
}

// leave counts a call as hung until it returns.
func (c *custody) leave(result <-chan error) {
	count := func(n int) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.hung += n
	}
	count(1)
	go func() {
		<-result
		count(-1)
	}()
}

// stopped is the error of a call that ended with ctx.
func (c *custody) stopped(what string, ctx context.Context) error {
	if c.ctx.Err() != nil {
		return errClosed
	}
	return fmt.Errorf("%s: %w", what, ctx.Err())
}

// spawn runs f in the background, unless the keys are closed or hang.
func (c *custody) spawn(f func()) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return errClosed
	case c.hung >= maxHung:
		return fmt.Errorf("%d calls to the keys have not returned", c.hung)
	}
	c.calls.Go(f)
	return nil
}

// close ends the calls in flight and releases the keys. What hangs even then is
// left behind.
func (c *custody) close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	var errs []error
	if !within(callGrace, c.calls.Wait) {
		errs = append(errs, errors.New("the custodian or the signing keys do not answer, and are closed all the same"))
	}
	if err := c.keys.close(); err != nil {
		errs = append(errs, fmt.Errorf("closing the keys: %w", err))
	}
	return errors.Join(errs...)
}

// close releases the keys. If they hang, they are left behind.
func (k Keys) close() error {
	closed := make(chan error, 1)
	within(closeTimeout, func() {
		err := k.Custodian.Close()
		if any(k.Custodian) != any(k.Signing) {
			err = errors.Join(err, k.Signing.Close())
		}
		closed <- err
	})
	select {
	case err := <-closed:
		return err
	default:
		return nil
	}
}

// Close releases keys that no Keeper took.
func (k Keys) Close() error { return newCustody(k).close() }

// within reports whether f returned in time. If not, it is left behind.
func within(timeout time.Duration, f func()) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}
