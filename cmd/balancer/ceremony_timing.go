package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/config"
	"onionbalancer/internal/status"
	"onionbalancer/keystore/offline"
)

// timing returns when periods begin, and what time it is: as the flags say, as
// the running balancer does, as the keys that are there, or as on the public
// network.
func (o *requestOptions) timing(ctx context.Context, wishes []wish) (offline.Schedule, time.Time, error) {
	now := time.Now()
	if o.length != 0 || o.offset != 0 {
		length, offset := o.length, o.offset
		if length == 0 {
			length = descriptor.DefaultPeriodLength
		}
		if offset == 0 {
			offset = length / 2
		}
		if length < time.Minute || length%time.Minute != 0 || offset < 0 || offset%time.Second != 0 {
			return offline.Schedule{}, now, usageError{errors.New("periods last whole minutes, and begin whole seconds late")}
		}
		return offline.NewSchedule(length, offset), now, nil
	}
	if o.config != "" {
		if s, at, ok := askTiming(ctx, o.config); ok {
			return s, at, nil
		}
	}
	for _, w := range wishes {
		if offline.Is(w.dir) {
			d, err := offline.Describe(w.dir)
			if err != nil {
				return offline.Schedule{}, now, err
			}
			return d.Schedule, now, nil
		}
	}
	return offline.Public, now, nil
}

// askTiming asks the running balancer, if it runs and knows.
func askTiming(ctx context.Context, configPath string) (s offline.Schedule, at time.Time, ok bool) {
	cfg, err := config.Load(configPath)
	if err != nil {
		return s, at, false // it has been read before, and complained of
	}
	snapshot, err := status.Query(ctx, filepath.Join(cfg.StateDir, status.SocketName))
	if err != nil || !snapshot.Consensus.Known || snapshot.Consensus.PeriodMinutes == 0 {
		return s, at, false
	}
	c := snapshot.Consensus
	return offline.Schedule{Minutes: c.PeriodMinutes, OffsetSeconds: c.OffsetSeconds}, c.ValidAfter, true
}

// first returns the number of the first period to ask for.
func (o *requestOptions) first(s offline.Schedule, now time.Time) (uint64, error) {
	if o.from == "" {
		return s.InUse(now).Number, nil
	}
	if number, err := strconv.ParseUint(o.from, 10, 64); err == nil {
		return number, nil
	}
	t, err := time.Parse(time.RFC3339, o.from)
	if err != nil {
		if t, err = time.Parse(time.DateOnly, o.from); err != nil {
			return 0, usageError{fmt.Errorf("--from %q is neither the number of a period nor a time as 2026-12-01T12:00:00Z", o.from)}
		}
	}
	return s.At(t).Number, nil
}
