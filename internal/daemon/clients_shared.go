package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/clients"
	"onionbalancer/internal/hosting"
	"onionbalancer/internal/state"
)

// sharedClients keeps the directories of authorized clients the same at all managers. A record
// has the clients of a service. What was changed in a directory since it was the same as the
// record is changed in the record, and what was changed there is changed in the directory. A
// manager that was never in step, whose directory may be old, takes over what the others have.
type sharedClients struct {
	d     *Daemon
	store hosting.Shared // nil: this manager is alone

	mu    sync.Mutex
	stale map[descriptor.Address]bool // to be compared
	told  map[descriptor.Address]bool // that it fails
}

// clientsRecord is the record of a service's clients.
type clientsRecord struct {
	Clients map[string]string `json:"clients"` // tor's line for each, by name
}

// clientsStep is the local key of what a directory had when it was last in step.
func clientsStep(a descriptor.Address) state.Key { return state.Key("cluster/clients/" + a.Label()) }

func newSharedClients(d *Daemon) *sharedClients {
	c := &sharedClients{d: d, stale: map[descriptor.Address]bool{}, told: map[descriptor.Address]bool{}}
	if c.store, _ = d.shared.(hosting.Shared); c.store != nil {
		d.shared.Subscribe(state.ClientsPrefix, func(changed []state.Key) {
			for _, key := range changed {
				if a, err := state.ClientsOf(key); err == nil {
					c.note(a)
				}
			}
		})
	}
	return c
}

// note has the clients of a service compared soon.
func (c *sharedClients) note(a descriptor.Address) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stale[a] = true
}

// sync compares what was noted. What fails is tried again.
func (c *sharedClients) sync(ctx context.Context) {
	if c.store == nil || !c.store.Joined() {
		return
	}
	c.mu.Lock()
	list := slices.Collect(maps.Keys(c.stale))
	clear(c.stale)
	c.mu.Unlock()
	for _, a := range list {
		c.d.mu.Lock()
		dir := ""
		if r := c.d.services[a]; r != nil {
			dir = r.cfg.ClientsDir
		}
		c.d.mu.Unlock()
		if dir == "" {
			continue
		}
		err := c.syncOne(ctx, a, dir)
		if err != nil && ctx.Err() == nil {
			c.note(a)
			if !c.told[a] {
				c.d.log.Warn("the authorized clients are not the same at all managers", "service", c.d.name(a), "error", err)
			}
		}
		c.told[a] = err != nil
	}
}

// clientsTimeout is how long the store is waited for.
const clientsTimeout = 10 * time.Second

// errNoClients says that everybody would be let in.
var errNoClients = errors.New("none would be left, and the service open to everybody")

func (c *sharedClients) syncOne(ctx context.Context, a descriptor.Address, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, clientsTimeout)
	defer cancel()
	list, err := clients.Read(dir)
	if errors.Is(err, clients.ErrNone) {
		err = nil // they come from the others, if these have some
	}
	if err != nil {
		return err
	}
	here := clients.NamedOf(list)
	before, step, err := readClients(c.d.store, clientsStep(a))
	if err != nil {
		return err
	}
	there, version, err := readClients(c.store, state.ClientsKey(a))
	if err != nil {
		return err
	}
	var all clients.Named
	switch {
	case version == 0:
		all = here
	case step == 0:
		all = there
		if extra := clients.Without(list, clients.Keys(listOf(there))); len(extra) > 0 {
			c.d.log.Warn("authorized clients whom the other managers do not have are removed; add them again if they are to stay", "service", c.d.name(a), "clients", clients.Names(extra))
		}
	case len(here) == 0:
		return nil // somebody is at work, or everything was lost: the last ones stay in force
	default:
		all = clients.Merge(before, here, there)
	}
	if len(all) == 0 {
		return errNoClients
	}
	if version == 0 || !maps.Equal(all, there) {
		if err := writeClients(ctx, c.store, state.ClientsKey(a), version, all); err != nil {
			return err
		}
	}
	if !maps.Equal(all, here) {
		if err := clients.Write(dir, here, all); err != nil {
			return err
		}
	}
	if step != 0 && maps.Equal(all, before) {
		return nil
	}
	return writeClients(ctx, c.d.store, clientsStep(a), step, all)
}

// listOf returns clients as a list, by name.
func listOf(all clients.Named) (list []clients.Client) {
	for _, name := range slices.Sorted(maps.Keys(all)) {
		list = append(list, clients.Client{Name: name, Key: all[name]})
	}
	return list
}

// readClients reads clients from a record.
func readClients(store state.Records, key state.Key) (clients.Named, uint64, error) {
	value, version, err := store.Get(key)
	if err != nil || version == 0 {
		return nil, 0, err
	}
	var record clientsRecord
	if err := json.Unmarshal(value, &record); err != nil {
		return nil, 0, fmt.Errorf("reading %s: %w", key, err)
	}
	all := clients.Named{}
	for name, text := range record.Clients {
		if all[name], err = descriptor.ParseAuthorizedClient([]byte(text)); err != nil {
			return nil, 0, fmt.Errorf("reading %s: %w", key, err)
		}
	}
	return all, version, nil
}

// writeClients writes clients into a record.
func writeClients(ctx context.Context, store state.Records, key state.Key, version uint64, all clients.Named) error {
	record := clientsRecord{Clients: map[string]string{}}
	for name, client := range all {
		record.Clients[name] = client.String()
	}
	change, err := state.Put(key, version, record)
	if err == nil {
		_, err = store.Swap(ctx, change)
	}
	return err
}
