package daemon

import (
	"context"
	"fmt"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/cluster"
	"onionbalancer/internal/credential"
)

// custody knows which services this manager could publish: those whose keys certify. It is
// for one goroutine at a time.
type custody struct {
	d         *Daemon
	lacks     map[descriptor.Address]lack
	refreshed time.Time // when ceremonies without a certificate for now were last looked at again
}

// lack is why the keys of a service do not certify.
type lack struct {
	since time.Time
	until time.Time // when they are tried again, once they failed for lackAfter; else zero
	err   error
}

// For how long keys fail until another manager is to publish the service, after what time
// they are tried again, and how often the directory of a ceremony is looked at.
const (
	lackAfter    = 2 * time.Minute
	lackFor      = time.Hour
	refreshAfter = time.Minute
)

// services lists the services of the configuration, and those that cannot be opened.
func (c *custody) services(ctx context.Context) (list []cluster.Service) {
	now := time.Now()
	consensus, _ := c.d.rooms.consensus.Consensus()
	again := now.Sub(c.refreshed) >= refreshAfter
	if again {
		c.refreshed = now
	}
	list, entries := c.wanted()
	for n, e := range entries {
		s := &list[n]
		if s.Lacking = c.lacking(now, e); e.ahead.Custodian == nil {
			continue
		}
		if s.Lacking == nil && consensus != nil {
			s.Lacking = unsupplied(ctx, e.ahead.Custodian, consensus.CurrentPeriod(), again)
		}
		giveBack(e.ahead)
	}
	return list
}

// opened is a service of the daemon at one moment.
type opened struct {
	*running
	started bool
	ahead   credential.Keys // lent, if their certificates are made ahead
}

// wanted lists the services, and at the same places those of them that could be opened.
func (c *custody) wanted() (list []cluster.Service, entries []opened) {
	d := c.d
	d.mu.Lock()
	defer d.mu.Unlock()
	for a, r := range d.services {
		s := cluster.Service{Address: a, Group: "service:" + a.String()}
		if r.shard != "" {
			s.Group = "shard:" + r.shard
		}
		e := opened{running: r, started: r.cancel != nil}
		if _, is := r.cfg.Keys.Custodian.(credential.Supplier); is {
			e.ahead = r.keys.lend()
		}
		list, entries = append(list, s), append(entries, e)
	}
	for a, err := range d.customers.leftOut {
		if of, known := d.customers.registry.Of(a); known && d.services[a] == nil {
			list = append(list, cluster.Service{Address: a, Group: "shard:" + of.Shard, Lacking: err})
		}
	}
	return list, entries
}

// lacking returns why another manager is to publish a service whose keys fail here.
func (c *custody) lacking(now time.Time, e opened) error {
	a := e.Address()
	l, known := c.lacks[a]
	if e.started {
		if l.err = e.Uncertified(); l.err == nil {
			delete(c.lacks, a)
			return nil
		}
		if !known {
			l.since = now
		}
		if now.Sub(l.since) >= lackAfter {
			l.until = now.Add(lackFor)
		}
		c.lacks[a] = l
	}
	if now.Before(l.until) {
		return l.err
	}
	if !e.started {
		delete(c.lacks, a)
	}
	return nil
}

// unsupplied returns why a custodian whose certificates were made ahead cannot be used in a
// period; nil if it can. With again it looks whether there are new ones.
func unsupplied(ctx context.Context, custodian credential.Custodian, p descriptor.Period, again bool) error {
	supplier := custodian.(credential.Supplier)
	_, _, ok := supplier.Supply(p)
	if refresher, can := custodian.(interface{ Refresh(context.Context) error }); !ok && again && can {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_ = refresher.Refresh(ctx) // it is tried again
		_, _, ok = supplier.Supply(p)
	}
	if !ok {
		return fmt.Errorf("there is no certificate for period %s", p)
	}
	return nil
}
