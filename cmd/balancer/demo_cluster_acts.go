package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/status"
	"onionbalancer/testnet/lab"
)

// clusterResult is about several managers. Times are in seconds.
type clusterResult struct {
	Owned    map[string]int `json:"owned"` // services by manager, when all were published
	Drained  string         `json:"drained"`
	Given    int            `json:"given"`         // services that were moved for it
	GivenIn  float64        `json:"given_seconds"` // from the order until all had another owner
	Replaced int            `json:"replaced"`      // descriptors at HSDirs that had a higher counter afterwards
	Looked   int            `json:"looked"`        // of so many

	Takeovers []takeover   `json:"takeovers"`
	Visitors  *tallyResult `json:"visitors,omitempty"`
	EtcdBytes int64        `json:"etcd_bytes"` // of its files, in which no address and no name was found
}

// takeover is what became of the services of a killed manager.
type takeover struct {
	Manager  string    `json:"manager"`
	Services int       `json:"services"`
	Killed   time.Time `json:"killed"`
	Seconds  float64   `json:"seconds"`      // until all of them had another owner
	Change   time.Time `json:"change"`       // of the network, nearby
	What     string    `json:"what"`         // changed
	Well     float64   `json:"well_seconds"` // from the change until HSDirs had confirmed what all owners publish then
}

// takenWithin is how long it may take until a dead manager's services are taken.
const takenWithin = 15 * time.Second

// beforeChange is how long before a change of the network a manager is killed: the others miss
// it only when the change is over.
const beforeChange = 5 * time.Second

// published waits until all services are, and have an owner.
func (c *clusterDemo) published(ctx context.Context) error {
	c.line.tell("the managers are starting")
	o, err := c.await(ctx, "all services are published", func(o ownership) bool { return len(o.waiting) == 0 })
	if err != nil {
		return err
	}
	began := c.managers[0].process.Started
	c.result.Published = time.Since(began).Seconds()
	for _, front := range c.fronts {
		if _, err := c.FirstVisit(ctx, front); err != nil {
			c.result.claim(false, "the public addresses answer", "%v", err)
			return err
		}
	}
	c.result.FirstAnswer = time.Since(began).Seconds()
	ctx, cancel := limited(ctx, "all managers are in the cluster")
	defer cancel()
	for _, m := range c.managers {
		for {
			s, err := status.QueryCluster(ctx, m.socket)
			if err == nil && s.Joined && len(s.Members) == len(c.managers) {
				break
			}
			if ctx.Err() != nil {
				return fmt.Errorf("%w (%w)", context.Cause(ctx), err)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	c.result.Cluster.Owned = map[string]int{}
	total := 0
	for m, n := range o.owned {
		c.result.Cluster.Owned[m.name] = n
		total += n
	}
	c.line.say("%d public addresses are published %.1f s after the managers were started: %s.", len(c.fronts), c.result.Published, o.text(c.managers))
	c.result.claim(total == len(c.fronts), "each public address has one owner, and answers", "%d addresses, %s; answered %.1f s after the managers were started",
		len(c.fronts), o.text(c.managers), c.result.FirstAnswer)
	return nil
}

// counters reads the revision counters that HSDirs have for the public addresses. They are by
// address and HSDir.
func (c *clusterDemo) counters(ctx context.Context, reader *lab.Reader) (map[string]uint64, error) {
	found := map[string]uint64{}
	if err := reader.Refresh(ctx); err != nil {
		return nil, err
	}
	for _, front := range c.fronts {
		a, err := descriptor.ParseAddress(front)
		if err != nil {
			return nil, err
		}
		list, err := reader.HSDirs(a)
		if err != nil {
			return nil, err
		}
		for _, h := range list {
			if d, err := reader.Ask(ctx, a, h); err == nil {
				found[front+" "+h] = d.RevisionCounter
			}
		}
	}
	return found, nil
}

// drained has the manager with most services give them away, as for an upgrade.
func (c *clusterDemo) drained(ctx context.Context) error {
	// No visitor's tor: they keep what they fetch.
	reader, err := c.NewReader(ctx, clusterManagers[0])
	if err != nil {
		return err
	}
	defer reader.Close()
	o, err := c.ask(ctx)
	if err != nil {
		return err
	}
	m, r := o.most(), c.result.Cluster
	before, err := c.counters(ctx, reader)
	if err != nil {
		return err
	}
	period := reader.Consensus().Current().Period
	r.Drained, r.Given = m.name, o.owned[m]
	c.line.say("Draining %s, which owns %d.", m.name, r.Given)
	began := time.Now()
	if _, err := status.OrderCluster(ctx, m.socket, status.ClusterOrder{Word: "drain"}); err != nil {
		return err
	}
	o, err = c.await(ctx, "the services of a drained manager are given", func(o ownership) bool { return o.owned[m] == 0 && len(o.waiting) == 0 })
	if err != nil {
		return err
	}
	r.GivenIn = time.Since(began).Seconds()
	after, err := c.counters(ctx, reader)
	if err != nil {
		return err
	}
	if _, err := status.OrderCluster(ctx, m.socket, status.ClusterOrder{Word: "undrain"}); err != nil {
		return err
	}
	c.line.say("Its services are with others after %.1f s: %s.", r.GivenIn, o.text(c.managers))
	if reader.Consensus().Current().Period != period {
		c.result.claim(true, "a drained manager gives its services away", "%d after %.1f s; the network changed meanwhile", r.Given, r.GivenIn)
		return nil
	}
	for place, counter := range before {
		if now, there := after[place]; there {
			r.Looked++
			if now != counter {
				r.Replaced++
			}
		}
	}
	c.result.claim(r.Replaced == 0 && r.Looked > 0, "a drained manager gives its services away, and nothing is published for it",
		"%d after %.1f s; %d of %d descriptors at HSDirs were replaced", r.Given, r.GivenIn, r.Replaced, r.Looked)
	return nil
}

// killed kills the manager with most services just before the network changes, and waits
// until its services are published by others after the change.
func (c *clusterDemo) killed(ctx context.Context) error {
	consensus, err := c.Net.Consensus(ctx)
	if err != nil {
		return err
	}
	at, what := change(consensus)
	for time.Until(at) > beforeChange {
		c.line.tell(fmt.Sprintf("%3.0f s until the network has a new %s; %d visitors, %d lost", time.Until(at).Seconds(), what,
			len(c.visitors.Times())+len(c.visitors.Failures()), len(c.visitors.Failures())))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(200 * time.Millisecond):
		}
	}
	o, err := c.ask(ctx)
	if err != nil {
		return err
	}
	m := o.most()
	m.dead = true
	c.line.say("Killing %s, which owns %d, %.0f s before the network has a new %s: kill -9 %d", m.name, o.owned[m], time.Until(at).Seconds(), what, m.process.PID())
	t := takeover{Manager: m.name, Services: o.owned[m], Killed: time.Now(), Change: at, What: what}
	if err := m.process.Kill(); err != nil {
		return err
	}
	o, err = c.await(ctx, "the services of a killed manager are taken", func(o ownership) bool { return len(o.owner) == len(c.fronts) })
	if err != nil {
		return err
	}
	t.Seconds = time.Since(t.Killed).Seconds()
	c.line.say("Its services are taken after %.1f s: %s.", t.Seconds, o.text(c.alive()))
	c.result.claim(t.Seconds < takenWithin.Seconds(), "the services of a killed manager are taken", "%d of %s after %.1f s: %s",
		t.Services, t.Manager, t.Seconds, o.text(c.alive()))
	err = c.changed(ctx, &t, consensus.VotingInterval())
	c.result.Cluster.Takeovers = append(c.result.Cluster.Takeovers, t)
	return err
}

// changed waits until the change is over, and all services are published as it wants.
func (c *clusterDemo) changed(ctx context.Context, t *takeover, interval time.Duration) error {
	for over := t.Change.Add(3 * interval); time.Until(over) > 0; { // clients may learn of it one interval late
		c.line.tell(fmt.Sprintf("%3.0f s until the change is over", time.Until(over).Seconds()))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(200 * time.Millisecond):
		}
	}
	after, err := c.Net.Consensus(ctx)
	if err != nil {
		return err
	}
	if _, err := c.await(ctx, "all services are published after a change", func(o ownership) bool { return len(o.waiting) == 0 }); err != nil {
		return err
	}
	t.Well = time.Since(t.Change).Seconds()
	c.result.claim(!after.ValidAfter.Before(t.Change), "the network has a new "+t.What+", and all services are published by those who are left",
		"consensus of %s", clock(after.ValidAfter))
	return nil
}

// sealed looks for addresses and names in the files of etcd.
func (c *clusterDemo) sealed() error {
	var needles []string
	for _, m := range c.managers {
		needles = append(needles, m.name)
	}
	for address := range maps.Keys(c.addresses) {
		needles = append(needles, address)
	}
	var found []string
	for n := range c.etcd.Members() {
		read, in, err := search(c.etcd.DataDir(n), spellings(needles))
		if err != nil {
			return err
		}
		c.result.Cluster.EtcdBytes += read
		found = append(found, in...)
	}
	c.result.claim(len(found) == 0 && c.result.Cluster.EtcdBytes > 0, "etcd's files have no onion address and no manager's name in them",
		"%d needles in %.1f MiB%s", len(needles), float64(c.result.Cluster.EtcdBytes)/(1<<20), strings.Join(append([]string{""}, found...), "; "))
	return nil
}

// spellings are the forms in which somebody may find words: as they are, and an onion address
// also without its ending, and as the bytes of its key and their hexadecimal digits.
func spellings(words []string) (list [][]byte) {
	for _, word := range words {
		a, err := descriptor.ParseAddress(word)
		if err != nil {
			list = append(list, []byte(word))
			continue
		}
		key := a[:]
		list = append(list, []byte(a.Label()), key, []byte(hex.EncodeToString(key)))
	}
	return list
}

// search looks for needles in all files below a directory, and returns how many bytes it read.
func search(dir string, needles [][]byte) (read int64, found []string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		content = bytes.TrimRight(content, "\x00") // a log has room at its end
		read += int64(len(content))
		lower := bytes.ToLower(content)
		if i := slices.IndexFunc(needles, func(n []byte) bool { return bytes.Contains(content, n) || bytes.Contains(lower, n) }); i >= 0 {
			found = append(found, fmt.Sprintf("%q in %s", needles[i], path))
		}
		return nil
	})
	return read, found, err
}
