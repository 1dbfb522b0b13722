package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"onionbalancer/bench/harness"
	"onionbalancer/keystore"
	"onionbalancer/testnet"
	"onionbalancer/testnet/lab"
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
	defer func() { err = errors.Join(err, a.Stop()) }()
	both, err := newContenders(ctx, a)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, c := range both {
			c.stop()
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
			harness.Progress("start %d of %d of %s", turn+1, starts, c.name)
			c.stop()
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
	if _, err := a.FirstVisit(ctx, front); err != nil {
		return 0, err
	}
	return time.Since(began), nil
}

// The names of the programs, and of the tors that they use.
const (
	ours   = "balancer"
	theirs = "onionbalance"
)

// onionBalanceInterval is the voting interval that OnionBalance takes for
// granted on a test network.
const onionBalanceInterval = 20 * time.Second

// arena is a private network with three instances, which answer under the
// addresses of all services that either program will be started for.
type arena struct {
	*lab.Lab
	keys map[string][]*keystore.Fresh // by program
}

func startArena(ctx context.Context, dir string) (a *arena, err error) {
	a = &arena{keys: map[string][]*keystore.Fresh{}}
	var fronts []string
	for _, name := range []string{ours, theirs} {
		for range starts {
			key, err := keystore.New(rand.Reader)
			if err != nil {
				return nil, err
			}
			a.keys[name] = append(a.keys[name], key)
			fronts = append(fronts, key.Address().String())
		}
	}
	a.Lab, err = lab.Start(ctx, lab.Config{
		Dir: dir, Network: testnet.Config{Relays: 20, VotingInterval: onionBalanceInterval},
		Managers: []string{ours, theirs}, Masters: fronts, Instances: 3,
		Timeout: 5 * time.Minute, Tell: func(what string) { harness.Progress("%s", what) },
	})
	return a, err
}

// watches is into how many parts the idle time is divided.
const watches = 3

// measureResidence watches both programs while nothing happens but what the
// network does by itself, and takes the memory that they have then.
func measureResidence(ctx context.Context, o options, _ *arena, both []*contender) ([]*result, error) {
	idle := &result{Name: "processor while idle", How: "make bench-network", Unit: unitShare}
	rss := &result{Name: "resident memory", How: "make bench-network", Unit: unitBytes}
	peak := &result{Name: "… at its peak", How: "make bench-network", Unit: unitBytes}
	for turn := range watches {
		harness.Progress("watching idle programs, %v of %v", time.Duration(turn)*o.idle/watches, o.idle)
		if err := watch(ctx, o.idle/watches, both, []*series{&idle.Ours, &idle.OnionBalance}); err != nil {
			return nil, err
		}
	}
	for _, m := range []struct {
		field string
		into  *result
	}{{"VmRSS", rss}, {"VmHWM", peak}} {
		m.into.Ours, m.into.OnionBalance = series{both[0].memory(m.field)}, series{both[1].memory(m.field)}
		m.into.atMost("30 MiB", m.into.Ours.median(), 30<<20)
	}
	idle.atMost("0.1 % of a core", idle.Ours.median(), 0.001)
	return []*result{rss, peak, idle}, nil
}

// watch waits, and adds what share of a core each program has used meanwhile.
func watch(ctx context.Context, long time.Duration, both []*contender, into []*series) error {
	before, began := make([]time.Duration, len(both)), time.Now()
	var err error
	for i, c := range both {
		if before[i], err = lab.ProcessorTime(c.run.PID()); err != nil {
			return err
		}
	}
	for _, c := range both {
		var cancel context.CancelFunc
		ctx, cancel = c.run.WhileRunning(ctx)
		defer cancel()
	}
	select {
	case <-time.After(long):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for i, c := range both {
		used, err := lab.ProcessorTime(c.run.PID())
		if err != nil {
			return err
		}
		*into[i] = append(*into[i], (used-before[i]).Seconds()/time.Since(began).Seconds())
	}
	return nil
}

// memory is a field of /proc/PID/status, in bytes.
func (c *contender) memory(field string) float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.run.PID()))
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kilobytes, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kilobytes * 1024
		}
	}
	return 0
}
