package daemon

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/clients"
	"onionbalancer/internal/event"
)

// Directories of authorized clients are looked at every clientsEvery, and less often if
// they are so many that it would take a fiftieth of the time. What changed is taken
// when it was the same twice.
const (
	clientsEvery  = 2 * time.Second
	clientsSeldom = time.Minute
	clientsShare  = 50
)

// followLocked has the clients in a directory followed from now on: all of it is new,
// since the service may have another one from an earlier configuration.
func (d *Daemon) followLocked(address descriptor.Address, dir string) {
	delete(d.clients, address)
	if dir != "" {
		d.clients[address] = clients.NewWatch(dir)
	}
}

// followClients authorizes the clients in the directories of services. Reading may hang,
// which keeps nothing but this from going on.
func (d *Daemon) followClients() {
	timer := time.NewTimer(clientsEvery)
	defer timer.Stop()
	shared := newSharedClients(d)
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-timer.C:
		}
		began := time.Now()
		d.mu.Lock()
		watches := maps.Clone(d.clients)
		d.mu.Unlock()
		for address, w := range watches {
			if list, changed, err := w.Look(); changed {
				d.authorize(address, w, list, err)
				shared.note(address)
			}
		}
		shared.sync(d.ctx)
		timer.Reset(min(max(clientsEvery, clientsShare*time.Since(began)), clientsSeldom))
	}
}

// authorize hands clients that w read to a service. With an error, or without room for
// all of them, the last ones stay: never is everybody let in.
func (d *Daemon) authorize(address descriptor.Address, w *clients.Watch, list []clients.Client, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.services[address]
	if r == nil || d.clients[address] != w {
		return // a reload was faster
	}
	if err == nil {
		err = clients.CheckRoom(list, r.cfg.CAA, r.cfg.Clients)
	}
	keys := clients.Keys(list)
	switch {
	case err != nil:
		err = fmt.Errorf("the authorized clients stay the %d that they were: %w", len(r.cfg.Clients), err)
	case !slices.Equal(keys, r.cfg.Clients):
		d.events.Record(event.Event{
			At: time.Now(), Kind: event.Clients, Level: slog.LevelInfo, Service: address, Text: "authorized clients changed",
			Attrs: []slog.Attr{
				slog.Int("clients", len(keys)),
				slog.String("added", clients.Names(clients.Without(list, r.cfg.Clients))),
				slog.String("removed", clients.Names(clients.Without(w.InForce, keys))),
			},
		})
		r.cfg.Clients = keys
	}
	if err == nil {
		w.InForce = list
	}
	r.Authorize(keys, err)
}
