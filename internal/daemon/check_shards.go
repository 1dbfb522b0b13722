package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"onionbalancer/descriptor"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/config"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/hosting"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/state"
	"onionbalancer/internal/strictmodes"
	"onionbalancer/keystore"
)

// checkedShard is a shard whose instances can be fetched.
type checkedShard struct {
	name string
	balance.Config
}

// shardCheck looks at one shard.
type shardCheck struct {
	*checker
	shard   config.Shard
	what    string
	user    strictmodes.User
	dir     *hosting.Dir
	records map[string]hosting.Customer // by name: those who are not removed
	all     balance.Config              // of all its customers, but for their keys
	unread  error                       // why the directory cannot be looked at, perhaps for one of its keys
}

// mostAlike is how many findings of one kind are told about a shard's keys.
const mostAlike = 10

// checkShards looks at the directories and keys of all shards, and returns the shards of
// customers' addresses.
func (c *checker) checkShards(ctx context.Context, user strictmodes.User) (customers map[descriptor.Address]string) {
	customers = make(map[descriptor.Address]string)
	records := c.customerRecords()
	var dirs []fs.FileInfo
	for _, s := range c.cfg.Shards {
		one := &shardCheck{checker: c, shard: s, what: "shard " + s.Name, user: user.Remembering(), records: records[s.Name]}
		if info, err := os.Stat(s.Customers); err == nil {
			for n, other := range dirs {
				if os.SameFile(info, other) {
					c.fail(one.what, "give each a directory of its own", fmt.Errorf("it has the same directory as the shard %s, by another path", c.cfg.Shards[n].Name))
				}
			}
			dirs = append(dirs, info)
		} else {
			dirs = append(dirs, nil)
		}
		if !one.look() {
			continue
		}
		for a, name := range one.keys(ctx) {
			if other, twice := customers[a]; twice {
				c.warn(one.what, "balancer customer move "+name+" "+s.Name, "customer %s is in the shard %s as well, and is served from one of them", name, other)
			}
			customers[a] = s.Name
		}
	}
	return customers
}

// customerRecords returns the stored customers who are not removed, by shard and name.
func (c *checker) customerRecords() map[string]map[string]hosting.Customer {
	all := make(map[string]map[string]hosting.Customer)
	for _, s := range c.cfg.Shards {
		all[s.Name] = make(map[string]hosting.Customer)
	}
	if len(all) == 0 {
		return all
	}
	var customers []hosting.Customer
	store, err := state.OpenReadOnly(c.cfg.StateDir, slog.New(slog.DiscardHandler))
	if err == nil {
		customers, err = hosting.Customers(store)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.fail("customers", "see what is said of the stored state", err)
	}
	lost := make(map[string]int)
	for _, customer := range customers {
		switch shard := all[customer.Shard]; {
		case customer.State == hosting.Removed:
		case shard == nil:
			lost[customer.Shard]++
		default:
			shard[customer.Name] = customer
		}
	}
	for shard, n := range lost {
		c.warn("customers", "bring the [[shard]] back, or rename it in the configuration",
			"%s of the shard %q, which the configuration does not have: nobody publishes them", printable.Count(n, "customer"), shard)
	}
	return all
}

// look checks the directory and the files of the replicas. It reports whether the keys can be looked at.
func (c *shardCheck) look() bool {
	var err error
	if c.dir, err = hosting.OpenDir(c.shard.Customers); err != nil {
		c.fail(c.what, "balancer shard new "+c.shard.Name+" --customers DIR makes one, with all that is needed", err)
		return false
	}
	built, err := buildShard(c.shard, c.user)
	if err == nil {
		c.shards = append(c.shards, checkedShard{c.shard.Name, built.all})
		c.all = built.all
		err = c.dir.CheckModes(c.user)
	}
	if err != nil {
		c.fail(c.what, "", err)
	}
	var names []string
	for _, i := range c.shard.Instances {
		names = append(names, i.Name)
	}
	counts, troubles, err := c.dir.Inspect(c.shard.Name, names)
	if err != nil {
		c.unread = err
		return true // the keys say which of them it is
	}
	c.ok(c.what, "%s, %s, %s pending; %d lines in the ob_config of its replicas", printable.Count(counts.Active, "customer"),
		printable.Count(counts.Spares, "spare"), printable.Count(counts.Pending, "key"), counts.Lines())
	c.checkProbes(c.shard.Name, c.all, c.written)
	for _, t := range troubles {
		if t.Bad {
			c.fail(c.what, t.Fix, errors.New(t.Detail))
		} else {
			c.warn(c.what, t.Fix, "%s", t.Detail)
		}
	}
	return true
}

// written tells whether the ob_config that was written for a replica has an address.
func (c *shardCheck) written(replica string, a descriptor.Address) bool {
	lines, err := c.dir.Written(replica)
	return err == nil && slices.Contains(lines, a)
}

// keys opens the keys of customers and spares, and returns the customers' names by address.
func (c *shardCheck) keys(ctx context.Context) map[descriptor.Address]string {
	ctx, cancel := context.WithTimeout(ctx, checkKeysPatience)
	defer cancel()
	customers := make(map[descriptor.Address]string)
	subs, refs, err := c.references()
	if err != nil {
		c.fail(c.what, "", err)
	}
	var bad []error
	tried := false
	for n, opened := range keystore.OpenAll(ctx, refs, nil) {
		keys, err := completed(opened, refs[n], c.cfg.StateDir, c.user)
		if err != nil {
			bad = append(bad, err)
			continue
		}
		a := keys.Custodian.Address()
		if err := c.place(subs[n], a); err != nil {
			bad = append(bad, err)
		} else if filepath.Dir(subs[n]) == "." {
			customers[a] = subs[n]
		}
		if !tried {
			tried = true
			c.try(ctx, refs[n], keys)
		}
		c.trySupplies(ctx, refs[n], keys)
		if err := keys.Close(); err != nil {
			bad = append(bad, err)
		}
	}
	if len(bad) == 0 && c.unread != nil {
		bad = append(bad, c.unread)
	}
	for _, err := range bad[:min(len(bad), mostAlike)] {
		c.fail(c.what, "", err)
	}
	if more := len(bad) - mostAlike; more > 0 {
		c.fail(c.what, "", fmt.Errorf("%d more of its keys cannot be used", more))
	}
	c.missing(customers)
	if len(bad) == 0 && len(refs) > 0 {
		c.ok(c.what, "%s opened", printable.Count(len(refs), "key"))
	}
	return customers
}

// references returns the directories of the keys of customers and spares, below that of the
// shard, and what they are opened by.
func (c *shardCheck) references() (subs, refs []string, err error) {
	names, _, err := c.dir.Customers()
	spares, err2 := c.dir.Spares()
	for _, a := range spares {
		names = append(names, hosting.SpareDir(a))
	}
	errs := []error{err, err2}
	for _, sub := range names {
		ref, err := c.dir.Reference(sub, c.shard.Token)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		subs, refs = append(subs, sub), append(refs, ref)
	}
	return subs, refs, errors.Join(errs...)
}

// place reports whether the key in sub is not the one that is expected there.
func (c *shardCheck) place(sub string, a descriptor.Address) error {
	path := filepath.Join(c.shard.Customers, sub)
	if filepath.Dir(sub) != "." {
		if filepath.Base(sub) != a.Label() {
			return fmt.Errorf("%s has the key of %s: whoever gets it could not be visited; move it elsewhere", path, a)
		}
		return nil
	}
	if record, known := c.records[sub]; known && record.Address != a {
		return fmt.Errorf("%s has the key of %s, and the customer of this name has the address %s; bring the right key back from a backup", path, a, record.Address)
	}
	return nil
}

// missing tells of customers on record whose keys are not there. customers are those that are.
func (c *shardCheck) missing(customers map[descriptor.Address]string) {
	spares, err := c.dir.Spares()
	if err != nil {
		return // told already
	}
	var lost []string
	for name, record := range c.records {
		_, there := customers[record.Address]
		// One that was added when the daemon ended has its key among the spares yet.
		if !there && !slices.Contains(spares, record.Address) {
			lost = append(lost, name)
		}
	}
	slices.Sort(lost)
	for _, name := range lost[:min(len(lost), mostAlike)] {
		c.fail(c.what, "bring it back from a backup, to "+filepath.Join(c.shard.Customers, name), fmt.Errorf("there is no key for the customer %s", name))
	}
	if more := len(lost) - mostAlike; more > 0 {
		c.fail(c.what, "", fmt.Errorf("nor for %d more customers", more))
	}
}

// try has the program of the strategy and the token tried, with the keys of one customer or spare.
func (c *shardCheck) try(ctx context.Context, ref string, keys credential.Keys) {
	one := c.all
	one.Keys = keys
	if one.Strategy != nil { // or it was told what is wrong
		c.checkProgram(ctx, one)
	}
	if uri := uriOf(ref); uri != nil && c.tryToken(ctx, c.what, uri) {
		c.tryUnsealing(ctx, c.what, one)
	}
}

// trySupplies tells of a customer's certificates, if they are made offline and there is anything
// to do about them.
func (c *shardCheck) trySupplies(ctx context.Context, ref string, keys credential.Keys) {
	ceremony, is := keys.Custodian.(supply)
	if !is {
		return
	}
	only := *c.checker
	only.tell = func(f Finding) {
		if f.Level != LevelOK {
			c.tell(f)
		}
	}
	only.trySupply(ctx, "key "+ref, ceremony, balance.Config{Keys: keys})
}
