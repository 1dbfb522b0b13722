package token

import (
	"context"
	"fmt"
	"time"

	"onionbalancer/internal/locked"
)

// readPIN gets the PIN from its source, unless nothing may be tried now.
func (h *helper) readPIN(ctx context.Context) (*locked.Buffer, error) {
	if err := h.at.heldBack(); err != nil {
		return nil, err
	}
	if h.stuck != nil && !h.stuck.ended() {
		return nil, Errorf(CodeCrashed, "the helper process hangs in a driver and could not be killed; another is started when it is gone")
	}
	switch wait := time.Until(h.notYet); {
	case wait > 0 && h.absent != nil:
		return nil, h.absent
	case wait > 0:
		return nil, Errorf(CodeCrashed, "the helper process ended %d times in a row, and is started again in %s", h.starts, max(wait.Round(time.Second), time.Second))
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
	process, err := startProcess(pin)
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

// lost forgets a process that is gone.
func (h *helper) lost() {
	h.stop(0)
	h.inVain(limits.againMax, nil)
}

// inVain counts a start that was of no use, and puts the next off if it is not
// the first in a row: all services of a token that is absent keep asking for it.
func (h *helper) inVain(most time.Duration, absent error) {
	h.absent = absent
	if h.starts++; h.starts > 1 {
		h.notYet = time.Now().Add(min(limits.again<<min(h.starts-2, 16), most))
	}
}
