package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// starts is how often each program is started, each time for an address that
// nobody has asked for yet.
const starts = 3

// measureNetwork compares both programs on one private network, with the same
// instances, each with a tor of its own to manage them through.
func measureNetwork(ctx context.Context, o options) (rows []*result, err error) {
	dir := o.keep
	if dir == "" {
		if dir, err = os.MkdirTemp("", "balancer-bench-"); err != nil {
			return nil, err
		}
		defer func() {
			if err == nil {
				err = os.RemoveAll(dir)
			} else {
				err = fmt.Errorf("%w; logs are in %s", err, dir)
			}
		}()
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	a, err := startArena(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, a.net.Stop()) }()
	both, err := newContenders(ctx, a)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, c := range both {
			err = errors.Join(err, c.stop())
		}
	}()
	for _, measure := range []func(context.Context, options, *arena, []*contender) ([]*result, error){
		measureFirstAnswer, measureTransfer, measureResidence,
	} {
		more, err := measure(ctx, o, a, both)
		if err != nil {
			return nil, err
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

// measureFirstAnswer takes the time from a program's start to the first answer
// through the public address. OnionBalance gains from the short voting interval:
// it publishes at a new consensus too, and does not wait for 50 s then. The last start's programs go on running.
func measureFirstAnswer(ctx context.Context, _ options, a *arena, both []*contender) ([]*result, error) {
	r := &result{Name: "from start to the first answer", How: "make bench-network", Unit: unitSeconds}
	into := []*series{&r.Ours, &r.OnionBalance}
	for turn := range starts {
		for i, c := range both {
			progress("start %d of %d of %s", turn+1, starts, c.name)
			if err := c.stop(); err != nil {
				return nil, err
			}
			took, err := c.firstAnswer(ctx, a, turn)
			if err != nil {
				return nil, fmt.Errorf("starting %s: %w", c.name, err)
			}
			*into[i] = append(*into[i], took.Seconds())
		}
	}
	r.atMost("within 5 s", r.Ours.median(), 5)
	return []*result{r}, nil
}

// firstAnswer starts c for a new address, and visits it as soon as the HSDirs
// have what c sent them.
func (c *contender) firstAnswer(ctx context.Context, a *arena, turn int) (time.Duration, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Minute, errors.New("no answer within three minutes"))
	defer cancel()
	uploads, err := watchUploads(ctx, a, c)
	if err != nil {
		return 0, err
	}
	defer uploads.close()
	front := c.fronts[turn]
	began := time.Now()
	if err := c.start(turn); err != nil {
		return 0, err
	}
	if err := uploads.settle(ctx, front); err != nil {
		return 0, err
	}
	for n := 0; ; n++ {
		visit, cancel := context.WithTimeout(ctx, 10*time.Second)
		_, err := a.net.Client(visitor).Get(visit, fmt.Sprintf("first-%s-%d", front, n), "http://"+front+"/")
		cancel()
		if err == nil {
			return time.Since(began), nil
		}
		if ctx.Err() != nil {
			return 0, fmt.Errorf("%w; the last visitor: %w", context.Cause(ctx), err)
		}
	}
}
