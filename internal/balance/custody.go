package balance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"onionbalancer/descriptor"
)

// Custody says who keeps a service's keys, in words that are no secret.
type Custody struct {
	// Reference tells one custody from another: as long as it stays the same,
	// what was certified before stays good.
	Reference string
	Form      string // of the identity key's custody
	Signing   string // where the descriptor-signing keys are
}

// How long one period's certifying, and the destruction of old keys, may take,
// and how long the end of a service waits for calls that do not return.
const (
	certifyPatience = 60 * time.Second
	retirePatience  = 60 * time.Second
	callPatience    = 3 * time.Second
	closePatience   = 5 * time.Second
)

var errClosed = errors.New("the keys have been let go")

// custody is a custodian and signing keys, with the calls to them that are under
// way. All calls are made in the background: either may hang. Fields that have
// no comment never change.
type custody struct {
	is        Custody
	custodian Custodian
	signing   SigningKeys

	ctx    context.Context // of calls, all but the signing keys' signatures
	cancel context.CancelFunc

	mu    sync.Mutex // protects shut
	shut  bool       // no more calls
	calls sync.WaitGroup

	// What follows belongs to the goroutine of Run.
	asked      time.Time // when certifying began that is under way, else zero
	failures   map[descriptor.Period]*failure
	retired    [2]descriptor.Period // in use when keys were retired last
	retiring   chan struct{}        // holds a token while keys are being retired
	refreshing chan struct{}        // the same for refresh
}

// failure is what certifying for a period came to.
type failure struct {
	err     error
	tries   int
	retryAt time.Time
}

func newCustody(cfg Config) *custody {
	c := &custody{is: cfg.Custody, custodian: cfg.Custodian, signing: cfg.Signing}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.failures = make(map[descriptor.Period]*failure)
	c.retiring, c.refreshing = make(chan struct{}, 1), make(chan struct{}, 1)
	return c
}

// holds reports whether cfg has the very keys of c.
func (c *custody) holds(cfg Config) bool {
	return sameKeys(cfg, Config{Custodian: c.custodian, Signing: c.signing})
}

// sameKeys reports whether a and b have the very same keys.
func sameKeys(a, b Config) bool { return a.Custodian == b.Custodian && a.Signing == b.Signing }

// call runs f in the background, or returns an error after close.
func (c *custody) call(f func()) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shut {
		return errClosed
	}
	c.calls.Go(f)
	return nil
}

// retirer is a custodian that keeps something for each period.
type retirer interface {
	Retire(ctx context.Context, inUse []descriptor.Period) error
}

// retire destroys the signing keys of periods before those in use, in the
// background and unless it did already. What fails is done with the next period.
func (c *custody) retire(inUse [2]descriptor.Period, log *slog.Logger) {
	if c.retired == inUse {
		return
	}
	select {
	case c.retiring <- struct{}{}:
	default:
		return // still at those of before
	}
	c.retired = inUse
	err := c.call(func() {
		defer func() { <-c.retiring }()
		ctx, cancel := context.WithTimeout(c.ctx, retirePatience)
		defer cancel()
		err := c.signing.Retire(ctx, inUse[:])
		// What a ceremony prepared is also with the custodian.
		if also, ok := c.custodian.(retirer); ok && any(c.custodian) != any(c.signing) {
			err = errors.Join(err, also.Retire(ctx, inUse[:]))
		}
		if err != nil && c.ctx.Err() == nil {
			log.Warn("destroying the signing keys of periods that are over: will be tried again in the next period", "error", err)
		}
	})
	if err != nil {
		<-c.retiring
	}
}

// refresh has a custodian of certificates made ahead look for new ones, in the
// background: Supply tells of them in a later round.
func (c *custody) refresh() {
	r, ok := c.custodian.(interface{ Refresh(context.Context) error })
	if !ok {
		return
	}
	select {
	case c.refreshing <- struct{}{}:
	default:
		return // the disk is slow
	}
	err := c.call(func() {
		defer func() { <-c.refreshing }()
		ctx, cancel := context.WithTimeout(c.ctx, retirePatience)
		defer cancel()
		_ = r.Refresh(ctx) // certifying fails with the same error when it matters
	})
	if err != nil {
		<-c.refreshing
	}
}

// wake returns when, after now, there is something to do about c, at the latest
// next.
func (c *custody) wake(now, next time.Time) time.Time {
	due := []time.Time{c.asked.Add(slowAnswer)}
	if c.asked.IsZero() {
		for _, f := range c.failures {
			due = append(due, f.retryAt)
		}
	}
	for _, at := range due {
		if at.After(now) {
			next = earlier(next, at)
		}
	}
	return next
}

// Release lets the keys of a configuration go that no service took.
func (cfg Config) Release(log *slog.Logger) { newCustody(cfg).close(log) }

// close lets the keys go. Calls under way get a moment to return, and what hangs
// even then is left behind.
func (c *custody) close(log *slog.Logger) {
	c.mu.Lock()
	c.shut = true
	c.mu.Unlock()
	c.cancel()
	if !within(callPatience, c.calls.Wait) {
		log.Warn("the custodian or the signing keys do not answer, and are closed all the same")
	}
	within(closePatience, func() {
		err := c.custodian.Close()
		if any(c.custodian) != any(c.signing) {
			err = errors.Join(err, c.signing.Close())
		}
		if err != nil {
			log.Warn("letting the keys go", "error", fmt.Errorf("closing them: %w", err))
		}
	})
}

// within reports whether f returned in time. If not, it is left behind.
func within(patience time.Duration, f func()) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}
