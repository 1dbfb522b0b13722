package credential

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// How long a call to the keys may take, and how long closing waits for calls that
// do not return.
const (
	certifyTimeout = 60 * time.Second // for one period
	prepareTimeout = 60 * time.Second // to retire old keys, or to look for new certificates
	signTimeout    = 60 * time.Second // for one descriptor
	callGrace      = 3 * time.Second
	closeTimeout   = 5 * time.Second
)

var errClosed = errors.New("the keys have been closed")

// custody makes the calls to one service's keys, one at a time. A call that hangs
// blocks later ones until their timeout, and nothing else.
type custody struct {
	keys Keys
	turn chan struct{} // holds a token while a call is made

	called atomic.Int64 // when the custodian was called to certify, in Unix nanoseconds; 0 if it has answered

	ctx        context.Context // of all calls; ends with close
	cancel     context.CancelFunc
	certifying context.Context // of calls that prepare for later; ends when other keys replace these
	stop       context.CancelFunc

	mu     sync.Mutex // protects closed
	closed bool
	calls  sync.WaitGroup
}

func newCustody(keys Keys) *custody {
	c := &custody{keys: keys, turn: make(chan struct{}, 1)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.certifying, c.stop = context.WithCancel(c.ctx)
	return c
}

// do makes a call when its turn comes, and returns its error, or sooner when ctx
// ends. The timeout of the call begins with its turn; it waits for its turn as
// long at most.
func (c *custody) do(ctx context.Context, timeout time.Duration, call func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case c.turn <- struct{}{}:
	case <-timer.C:
		return fmt.Errorf("an earlier call to the keys has not returned for %s", timeout)
	case <-ctx.Done():
		return c.stopped("waiting for an earlier call to the keys", ctx)
	}
	result := make(chan error, 1)
	if !c.spawn(func() {
		defer func() { <-c.turn }()
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		result <- call(ctx)
	}) {
		<-c.turn
		return errClosed
	}
	timer.Reset(timeout + callGrace)
	select {
	case err := <-result:
		return err
	case <-timer.C:
		return fmt.Errorf("the keys do not answer, for %s", timeout)
	case <-ctx.Done():
		return c.stopped("waiting for the keys", ctx)
	}
}

// stopped is the error of a call that ended with ctx.
func (c *custody) stopped(what string, ctx context.Context) error {
	if c.ctx.Err() != nil {
		return errClosed
	}
	return fmt.Errorf("%s: %w", what, ctx.Err())
}

// spawn runs f in the background, unless the keys are closed.
func (c *custody) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.calls.Go(f)
	return true
}

// close cancels the calls in flight and releases the keys. Calls that hang even then
// are abandoned.
func (c *custody) close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	var errs []error
	if _, ok := within(callGrace, func() error { c.calls.Wait(); return nil }); !ok {
		errs = append(errs, errors.New("the custodian or the signing keys do not answer, and are closed anyway"))
	}
	if err := c.keys.close(); err != nil {
		errs = append(errs, fmt.Errorf("closing the keys: %w", err))
	}
	return errors.Join(errs...)
}

// close releases the keys. If they hang, they are abandoned.
func (k Keys) close() error {
	err, _ := within(closeTimeout, func() error {
		if k.Release != nil {
			return k.Release()
		}
		err := k.Custodian.Close()
		if any(k.Custodian) != any(k.Signing) {
			err = errors.Join(err, k.Signing.Close())
		}
		return err
	})
	return err
}

// Close releases keys that no Keeper took.
func (k Keys) Close() error { return newCustody(k).close() }

// within returns what f returns, or false if that takes too long. f is abandoned
// then.
func within(timeout time.Duration, f func() error) (result error, ok bool) {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case result = <-done:
		return result, true
	case <-time.After(timeout):
		return nil, false
	}
}
