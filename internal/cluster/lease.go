package cluster

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"onionbalancer/internal/state"
)

// lease is the state of this manager's lease and of its key.
type lease struct {
	id      Lease
	renewed time.Time // when the last renewal that succeeded was sent
	version uint64    // of the member's key; 0: not written
	beat    uint64
	written time.Time
	since   time.Time // of the first

	// returned is when a renewal succeeded after none had for as long as a lease lasts.
	returned time.Time
}

// justBack reports whether the others may have lost their leases as this manager did, in an
// outage of the engine that is just over, and not have new ones yet.
func (l *lease) justBack(now time.Time, lasts time.Duration) bool { return now.Sub(l.returned) < lasts }

// joined reports whether the others see this manager alive.
func (l *lease) joined(now time.Time, lasts time.Duration) bool {
	return l.id != 0 && l.version != 0 && now.Sub(l.renewed) < lasts && now.Sub(l.written) < beatLost
}

// errNameInUse says that two managers have one name.
var errNameInUse = errors.New("another manager of the cluster has this name: give each a name of its own (cluster.manager)")

// selfKey is the local key of what the last process of this manager called itself, by
// which the next one knows its key.
const selfKey = "cluster/process"

// newProcess returns a name for this process.
func newProcess() string { return rand.Text() }

// keepLease keeps this manager alive for the others until ctx ends.
func (c *Cluster) keepLease(ctx context.Context) {
	every := c.cfg.Lease / 3
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		changed := false
		select {
		case <-ctx.Done():
			return
		case <-c.beat:
			changed = true
		case <-timer.C:
		}
		changed = c.lookFit(time.Now()) || changed
		attempt, cancel := context.WithTimeout(ctx, every)
		err := c.renew(attempt, changed)
		cancel()
		if ctx.Err() == nil {
			c.mu.Lock()
			c.troubleLocked(troubleLease, err)
			c.mu.Unlock()
		}
		timer.Reset(every)
	}
}

// renew renews the lease, or takes another if it ended, and writes the member's key if that
// is due or what it says has changed.
func (c *Cluster) renew(ctx context.Context, changed bool) error {
	c.mu.Lock()
	l := c.lease
	c.mu.Unlock()
	sent := time.Now()
	var err error
	if l.id == 0 {
		l.id, err = c.cfg.Leases.Grant(ctx, c.cfg.Lease)
		l.version = 0
	} else if err = c.cfg.Leases.KeepAlive(ctx, l.id); errors.Is(err, ErrLeaseLost) {
		c.tell(slog.LevelWarn, "the others took this manager for dead: its lease ended", slog.Duration("after", sent.Sub(l.renewed).Round(time.Second)))
		c.setLease(func(now *lease) { now.id, now.version = 0, 0 })
		wake(c.beat)
		return nil
	}
	if err != nil {
		return fmt.Errorf("showing the other managers that this one is alive: %w", err)
	}
	if !l.renewed.IsZero() && sent.Sub(l.renewed) >= c.cfg.Lease {
		l.returned = sent
	}
	l.renewed = sent
	c.setLease(func(now *lease) { now.id, now.renewed, now.returned = l.id, l.renewed, l.returned })
	if l.version != 0 && !changed && sent.Sub(l.written) < beatEvery {
		return nil
	}
	return c.writeMember(ctx, l)
}

func (c *Cluster) setLease(change func(*lease)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.lease)
}

// writeMember writes what this manager says of itself.
func (c *Cluster) writeMember(ctx context.Context, l lease) error {
	key := memberKey(c.cfg.Manager)
	value, version, err := c.cfg.Store.Get(key)
	var there Member
	if err == nil && version != 0 {
		err = json.Unmarshal(value, &there)
	}
	if is := c.cfg.Store.damaged(key); err != nil && is != 0 {
		there.Process, version, err = c.process, is, nil // whoever spoiled it
	}
	now := time.Now()
	if err == nil && version != 0 && there.Process != c.process {
		// A process that ended may have left it: its lease ends soon.
		if before, _, _ := c.cfg.Local.Get(selfKey); string(before) != there.Process && there.Process != c.before && c.lives(key, version, now) {
			err = errNameInUse
		}
	}
	c.mu.Lock()
	if c.lease.since.IsZero() {
		c.lease.since = c.cfg.Now().UTC()
	}
	c.lease.beat++
	self := c.selfLocked(now)
	c.mu.Unlock()
	if err == nil {
		value, err = json.Marshal(self)
	}
	if err == nil {
		var versions []uint64
		if versions, err = c.cfg.Store.SwapLeased(ctx, l.id, state.Change{Key: key, Version: version, Value: value}); err == nil {
			version = versions[0]
		}
	}
	if err != nil {
		return fmt.Errorf("writing the key of this manager: %w", err)
	}
	first := l.version == 0
	c.setLease(func(now *lease) { now.version, now.written = version, time.Now() })
	c.note([]state.Key{key}) // which may have been lost by now
	wake(c.woken)
	if first {
		c.remember(ctx)
		c.tell(slog.LevelInfo, "in the cluster", slog.String("manager", c.cfg.Manager))
	}
	return nil
}

// lives reports whether the process that wrote a version of this manager's key may be alive.
func (c *Cluster) lives(key state.Key, version uint64, now time.Time) bool {
	c.note([]state.Key{key})
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.members[c.cfg.Manager]
	return m == nil || m.version != version || m.alive(now)
}

// remember stores what this process calls itself, for the next one.
func (c *Cluster) remember(ctx context.Context) {
	before, version, err := c.cfg.Local.Get(selfKey)
	if string(before) == c.process {
		return
	}
	c.before = string(before)
	if err == nil {
		_, err = c.cfg.Local.Swap(ctx, state.Change{Key: selfKey, Version: version, Value: []byte(c.process)})
	}
	if err != nil { // then the next process waits until the lease of this one ends
		c.tell(slog.LevelDebug, "storing the name of this process", slog.Any("error", err))
	}
}

// A process that did nothing for pausedFor looks at the store before it uploads what it
// had planned before: it may have been stopped, or the machine asleep, and another manager
// may own its services.
const (
	pulseEvery = time.Second
	pausedFor  = 5 * time.Second
)

// gap returns how long ago a moment is, also if the machine slept or its clock was set.
func gap(now, before time.Time) time.Duration {
	return max(now.Sub(before), now.Round(0).Sub(before.Round(0)))
}

// Awake reports whether this process has run without a pause, or has looked at the store
// since. Until then nothing is to be uploaded.
func (c *Cluster) Awake() bool {
	last := c.pulse.Load()
	return last != nil && gap(time.Now(), *last) < pausedFor
}

// keepPulse notices pauses of the process until ctx ends.
func (c *Cluster) keepPulse(ctx context.Context) {
	tick := time.NewTicker(pulseEvery)
	defer tick.Stop()
	for {
		now := time.Now()
		if last := c.pulse.Load(); last != nil && gap(now, *last) >= pausedFor {
			c.tell(slog.LevelWarn, "this process was stopped, or the clock was set: looking who owns its services", slog.Duration("gap", gap(now, *last).Round(time.Second)))
			c.lookAgain(ctx)
			now = time.Now()
		}
		c.pulse.Store(&now)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// lookAgain reads the store, and ends what another manager owns. If the store does not
// answer, what was reserved is still this manager's.
func (c *Cluster) lookAgain(ctx context.Context) {
	attempt, cancel := context.WithTimeout(ctx, pausedFor)
	defer cancel()
	if err := c.cfg.Store.Fresh(attempt); err != nil {
		c.tell(slog.LevelWarn, "the store of the cluster does not say who owns what", slog.Any("error", err))
		return
	}
	c.noteAll()
	c.turns.Lock()
	defer c.turns.Unlock()
	c.mu.Lock()
	lost := c.decideLocked(time.Now()).lost
	c.mu.Unlock()
	c.lose(ctx, lost)
}

// unfitAfter is for how long a manager cannot publish before others take its services.
const unfitAfter = 2 * time.Minute

// lookFit looks whether this manager can publish, and reports whether that changed.
func (c *Cluster) lookFit(now time.Time) (changed bool) {
	err := c.cfg.Fit()
	c.mu.Lock()
	defer c.mu.Unlock()
	why := ""
	switch {
	case err == nil:
		c.lastFit = now
	case now.Sub(c.lastFit) >= unfitAfter:
		why = err.Error()
	default:
		why = c.unfit
	}
	if changed = (why == "") != (c.unfit == ""); changed && why != "" {
		c.tell(slog.LevelError, "this manager cannot publish: the others are to take its services", slog.Any("error", err))
	} else if changed {
		c.tell(slog.LevelInfo, "this manager can publish again")
	}
	c.unfit = why
	if changed {
		wake(c.woken)
	}
	return changed
}
