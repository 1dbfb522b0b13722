package token

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"onionbalancer/internal/backoff"
	"onionbalancer/internal/locked"
	"onionbalancer/keystore/token/pin"
)

// limits are how long things may take, and how long they are put off.
var limits = struct {
	call     time.Duration // a request, the start of a helper with it
	batch    time.Duration // a request to certify, about; others wait meanwhile
	grace    time.Duration // the end of a helper by itself
	heldBack time.Duration // a token on its last try, or locked, is left alone
	retry    time.Duration // after the second failed start in a row; doubles after each
	retryMax time.Duration
}{
	call:     30 * time.Second,
	batch:    time.Second,
	grace:    2 * time.Second,
	heldBack: time.Minute,
	retry:    time.Second,
	retryMax: 30 * time.Second,
}

// errTime is the cause of a request's own deadline.
var errTime = errors.New("there was no answer in time")

// helper runs a process for a token while it is in use. Tokens with the same
// identity share it.
type helper struct {
	at     pinTarget
	source pin.Source
	users  int // guarded by helpers.mu

	// turn guards all below. It is held while the process is used, and given to
	// waiting requests in order.
	turn         chan struct{}
	process      *process  // nil if there is none
	from         pinFile   // of the PIN that was read last
	unkillable   *process  // one that could not be killed, or nil
	closed       bool      // no new process may start
	failedStarts int       // consecutive
	retryAt      time.Time // when to start again
	absent       error     // the error until then, if that is why
	most         int       // certifications that a request may have

	certifying orders // which wait

	closing context.Context // ends when requests in flight have to
	abandon context.CancelFunc
}

// do carries out a request, and starts a process for it if there is none.
func (h *helper) do(parent context.Context, request *Request, payload *locked.Buffer) (*Response, *locked.Buffer, error) {
	parent, cancel := context.WithCancel(parent)
	defer cancel()
	defer context.AfterFunc(h.closing, cancel)()
	began := time.Now()
	ctx, cancelWait := context.WithTimeoutCause(parent, limits.call, errTime)
	defer cancelWait()
	if err := h.wait(ctx); err != nil {
		return nil, nil, err
	}
	defer func() { <-h.turn }()
	return h.carryOut(parent, ctx, began, request, payload)
}

// carryOut is do in its turn. began is when the request came; its time is that of ctx,
// which is parent's, but for the time that a person takes to enter a PIN.
func (h *helper) carryOut(parent, ctx context.Context, began time.Time, request *Request, payload *locked.Buffer) (*Response, *locked.Buffer, error) {
	if h.closed {
		return nil, nil, Errorf(CodeMisuse, "the token is closed")
	}
	if h.process != nil && h.process.ended() {
		logging().Warn("the helper process of a token has ended", "token", h.at.selector.String(), "how", h.process.fate())
		h.lost()
	}
	if h.process == nil {
		// Where one waited long for a token that hung, so did others. They must
		// not kill one helper after the other in the middle of its login.
		deadline, _ := ctx.Deadline()
		if time.Until(deadline) < time.Since(began) {
			return nil, nil, fmt.Errorf("%w: %w", Errorf(CodeCrashed, "other requests left too little time to start the helper process"), context.DeadlineExceeded)
		}
		// A person who is asked for a PIN may take longer than a token.
		asked := time.Now()
		secret, err := h.readPIN(parent)
		if err != nil {
			return nil, nil, err
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(parent, deadline.Add(time.Since(asked)), errTime)
		defer cancel()
		if err := h.start(ctx, secret); err != nil {
			return nil, nil, err
		}
	}
	return h.exchange(ctx, request, payload)
}

// wait takes the turn. A request whose context has ended does not get it, even if
// it is free: the process would be killed for a request that was given up.
func (h *helper) wait(ctx context.Context) error {
	select {
	case h.turn <- struct{}{}:
		if ctx.Err() == nil {
			return nil
		}
		<-h.turn
	case <-ctx.Done():
	}
	return fmt.Errorf("waiting for other requests: %w", context.Cause(ctx))
}

// exchange has the process carry a request out. If it does not answer, or not
// sensibly, it is killed; if it says that the token is gone, or refused the PIN,
// it is ended, so that the next request starts another. So it is if this is the error of
// one certification of many.
func (h *helper) exchange(ctx context.Context, request *Request, payload *locked.Buffer) (*Response, *locked.Buffer, error) {
	response, secret, err := h.process.exchange(ctx, request, payload)
	if err != nil {
		return nil, nil, h.broken(ctx, request.Op, err)
	}
	if response.Error == nil && request.Op != OpOpen {
		h.failedStarts, h.retryAt = 0, time.Time{}
	}
	for e := range response.errors() {
		if h.ends(e) {
			break
		}
	}
	if response.Error != nil {
		return nil, nil, response.Error
	}
	return response, secret, nil
}

// ends ends the process if an error says that the token is gone, or refused the PIN.
func (h *helper) ends(err *Error) bool {
	switch err.Code {
	case CodePIN, CodeFinalTry, CodeLocked:
		h.at.remember(h.process.pin, h.from, err)
		h.stop(limits.grace)
	case CodeAbsent:
		h.stop(limits.grace)
		h.backOff(limits.retry, err)
	default:
		return false
	}
	return true
}

// broken kills the process, and explains why it did not answer.
func (h *helper) broken(ctx context.Context, op Op, err error) error {
	p := h.process
	if ctx.Err() != nil {
		h.stop(0)
		return fmt.Errorf("%w: %w", Errorf(CodeCrashed, "the helper process did not answer to %s, and was killed", op), context.Cause(ctx))
	}
	// Its end of the socket is closed before it is gone.
	p.wait(limits.grace / 4)
	gone := p.ended()
	h.stop(0)
	h.lost()
	if gone {
		return Errorf(CodeCrashed, "the helper process ended during %s: %s", op, p.fate())
	}
	return Errorf(CodeCrashed, "the helper process answered to %s with something else, and was killed: %v", op, err)
}

// stop ends the process, if there is one.
func (h *helper) stop(grace time.Duration) {
	if h.process != nil {
		if !h.process.end(grace) {
			h.unkillable = h.process
		}
		h.process = nil
	}
}

// helpers are those in use.
var helpers = struct {
	mu sync.Mutex
	m  map[identity]*helper
}{m: map[identity]*helper{}}

type identity struct {
	at     pinTarget
	source pin.Source
}

// share returns the helper for a token, and counts one user more.
func share(at pinTarget, source pin.Source) *helper {
	helpers.mu.Lock()
	defer helpers.mu.Unlock()
	h := helpers.m[identity{at, source}]
	if h == nil {
		h = &helper{at: at, source: source, turn: make(chan struct{}, 1), most: 1}
		h.closing, h.abandon = context.WithCancel(context.Background())
		helpers.m[identity{at, source}] = h
	}
	h.users++
	return h
}

// release counts one user less, and ends the process after the last.
func (h *helper) release() {
	helpers.mu.Lock()
	h.users--
	last := h.users == 0
	if last {
		delete(helpers.m, identity{h.at, h.source})
	}
	helpers.mu.Unlock()
	if !last {
		return
	}
	timer := time.AfterFunc(limits.grace, h.abandon)
	h.turn <- struct{}{} // all who have it or wait for it give up then
	timer.Stop()
	h.abandon()
	h.closed = true
	h.stop(limits.grace)
	<-h.turn
}

// readPIN gets the PIN from its source, unless nothing may be tried now.
func (h *helper) readPIN(ctx context.Context) (*locked.Buffer, error) {
	if err := h.at.heldBack(); err != nil {
		return nil, err
	}
	if h.unkillable != nil && !h.unkillable.ended() {
		return nil, Errorf(CodeCrashed, "the helper process hangs in a driver and could not be killed; another is started when it is gone")
	}
	switch wait := time.Until(h.retryAt); {
	case wait > 0 && h.absent != nil:
		return nil, h.absent
	case wait > 0:
		return nil, Errorf(CodeCrashed, "the helper process ended %d times in a row, and is started again in %s", h.failedStarts, max(wait.Round(time.Second), time.Second))
	}
	h.from = fileOf(h.source)
	if err := h.at.marked(h.from); err != nil {
		return nil, err
	}
	secret, err := h.source.Read(ctx, h.at.selector.String())
	if err != nil {
		return nil, err
	}
	pin := fingerprintOf(secret)
	h.at.meet(pin, h.source.ByHand())
	if err := h.at.refuses(pin); err != nil {
		wipe(secret)
		if h.source.Once() {
			err = fmt.Errorf("%w; restart this program to enter another", err)
		}
		return nil, err
	}
	return secret, nil
}

func wipe(secret *locked.Buffer) {
	if secret != nil {
		secret.Wipe()
	}
}

// start starts a process and has it load the module and log in. It wipes the PIN.
func (h *helper) start(ctx context.Context, secret *locked.Buffer) error {
	defer wipe(secret)
	pin := fingerprintOf(secret)
	process, err := startProcess(h.at, pin)
	if err != nil {
		h.lost()
		return &Error{CodeCrashed, err.Error()}
	}
	h.process = process
	_, _, err = h.exchange(ctx, &Request{Op: OpOpen, Version: ProtocolVersion, Module: h.at.module, Token: h.at.selector, InDoubt: h.at.doubts(pin)}, secret)
	h.at.opened(pin, err)
	if err != nil {
		h.stop(limits.grace)
	}
	return err
}

// lost forgets a process that has ended.
func (h *helper) lost() {
	h.stop(0)
	h.backOff(limits.retryMax, nil)
}

// backOff counts a failed start, and from the second in a row on delays the next:
// all services of an absent token keep asking for it.
func (h *helper) backOff(most time.Duration, absent error) {
	h.absent = absent
	if h.failedStarts++; h.failedStarts > 1 {
		h.retryAt = time.Now().Add(backoff.Policy{Min: limits.retry, Max: most}.Delay(h.failedStarts - 1))
	}
}
