package daemon

import (
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/config"
	"onionbalancer/internal/event"
	"onionbalancer/internal/status"
)

// maxReloads is how many reloads the status remembers.
const maxReloads = 10

// Reload applies a new configuration: new services start, removed
// ones stop, the others continue with their changes. If anything in it
// cannot be opened, nothing changes and the error says why.
func (d *Daemon) Reload(cfg *config.Config) error {
	err := d.reload(cfg)
	d.noteReload(err)
	return err
}

func (d *Daemon) reload(file *config.Config) error {
	if err := refuseWritable(file, d.log); err != nil {
		return fmt.Errorf("reloading: %w", err)
	}
	cfg, restart := d.reloadable(file)
	services, err := buildBeside(cfg, d.customers.of(cfg), d.log)
	var shards map[string]*shard
	if err == nil {
		shards, err = buildShards(cfg)
	}
	share := func() {}
	if err == nil {
		share, err = d.sharing.reload(cfg)
	}
	if err != nil {
		release(maps.Values(services), d.log)
		return fmt.Errorf("reloading: %w", err)
	}
	if err := d.customers.configure(d.ctx, shards); err != nil {
		d.log.Error("customers may be left out", "error", err)
	}
	d.takeOver(cfg, restart, services, shards)
	share()
	d.customers.update(d.ctx, d.customers.registry.All())
	d.customers.prune()
	return nil
}

// takeOver starts, stops and changes what a new configuration wants otherwise, but the
// customers of the shards that it has.
func (d *Daemon) takeOver(cfg *config.Config, restart []string, services map[descriptor.Address]balance.Config, shards map[string]*shard) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.restart = restart
	for _, key := range restart {
		d.log.Warn(needsRestart(key))
	}
	same := len(restart) == 0
	if cfg.Log != d.cfg.Log {
		same = false
		d.fullNames.Store(cfg.Log.FullAddresses)
		if d.Logs != nil {
			d.Logs.Configure(cfg.Log)
		}
		d.log.Info("log changed", "level", cfg.Log.Level, "format", cfg.Log.Format, "full_addresses", cfg.Log.FullAddresses)
	}
	for address, r := range d.services {
		if _, stays := services[address]; !stays && r.shard == "" {
			same = false
			d.removeLocked(address)
			d.log.Info("service removed; its last descriptor expires at the HSDirs in about three hours", "service", d.name(address))
		}
	}
	for address, built := range services {
		r := d.services[address]
		if r == nil {
			same = false
			d.runLocked(address, built)
			d.log.Info("service added", "service", d.name(address), "instances", instanceNames(built.Instances))
			continue
		}
		if list := changes(r.cfg, built); len(list) > 0 {
			same = false
			d.log.Info("service changed", append([]any{"service", d.name(address)}, list...)...)
		}
		r.Reconfigure(built)
		d.followLocked(address, built.ClientsDir)
	}
	same = d.customers.replaceLocked(shards) && same
	d.updateProbesLocked()
	d.rooms.consensus.Families(families(cfg))
	if same {
		d.log.Info("the configuration is the same as before")
	}
	if keys := changedKeys("check", general(d.cfg.Check), general(cfg.Check)); len(keys) > 0 {
		d.rooms.Configure(cfg.Check)
		d.log.Info("checks changed", "keys", strings.Join(keys, ", "), "now", d.rooms.checks)
	}
	d.cfg, d.loaded, d.trouble = cfg, time.Now(), nil
}

// reloadable returns a copy of file in which every key that a running daemon
// cannot change has the value in force, and the names of those keys.
func (d *Daemon) reloadable(file *config.Config) (cfg *config.Config, restart []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := *file
	if next.StateDir != d.cfg.StateDir {
		restart = append(restart, "state_dir")
	}
	restart = append(restart, changedKeys("tor", d.cfg.Tor, next.Tor)...)
	restart = append(restart, changedKeys("cluster", d.cfg.Cluster, next.Cluster)...)
	next.StateDir, next.Tor, next.Cluster = d.cfg.StateDir, d.cfg.Tor, d.cfg.Cluster
	return &next, restart
}

// general has the keys of [check] that are not about single instances: those show with
// the services.
func general(c config.Check) config.Check { return config.Check{Canary: c.Canary, Rate: c.Rate} }

func needsRestart(key string) string { return key + " takes effect after a restart" }

// ReloadFailed records that a new configuration could not even be read.
func (d *Daemon) ReloadFailed(err error) { d.noteReload(err) }

func (d *Daemon) noteReload(err error) {
	happened := status.Event{At: time.Now(), What: "reload"}
	e := event.Event{At: happened.At, Kind: event.Reload, Text: "configuration reloaded"}
	if err != nil {
		happened.Error = err.Error()
		e.Level, e.Text = slog.LevelError, "the configuration was not taken over, the old one stays in force"
		e.Attrs = []slog.Attr{slog.Any("error", err)}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		e.Attrs = []slog.Attr{slog.Int("services", len(d.cfg.Services)), slog.Int("shards", len(d.cfg.Shards))}
	}
	d.events.Record(e)
	d.reloads = append(d.reloads, happened)
	d.reloads = d.reloads[max(0, len(d.reloads)-maxReloads):]
}

// changes returns for the log, as keys and values, the changes of a service by a
// reload. Unchanged keys are left out.
func changes(old, now balance.Config) (list []any) {
	say := func(key, value string) {
		if value != "" {
			list = append(list, key, value)
		}
	}
	turn := func(key string, before, after any) {
		if old, now := fmt.Sprint(before), fmt.Sprint(after); old != now {
			say(key, old+" -> "+now)
		}
	}
	added, removed, other := instanceChanges(old.Instances, now.Instances)
	say("added", strings.Join(added, ", "))
	say("removed", strings.Join(removed, ", "))
	say("changed", strings.Join(other, ", "))
	turn("strategy", old.Strategy.Name(), now.Strategy.Name())
	turn("profile", old.Profile(), now.Profile())
	turn("max_introduction_points", old.Room.Points, now.Room.Points)
	turn("points_per_instance", old.Room.PerInstance, now.Room.PerInstance)
	turn("points.avoid", old.Avoid, now.Avoid)
	turn("points.prefer", old.Prefer, now.Prefer)
	turn("fetch_interval", interval(old), interval(now))
	turn("check.public_interval", old.Visits.Every, now.Visits.Every)
	turn("caa", old.CAA, now.CAA)
	turn("caa_critical", old.CAACritical, now.CAACritical)
	if !slices.Equal(old.Clients, now.Clients) {
		turn("clients", len(old.Clients), fmt.Sprintf("%d, some of them others", len(now.Clients)))
	}
	if old.Keys.Reference != now.Keys.Reference {
		say("keys", "changed")
	}
	return list
}

// changedKeys lists the keys of a table whose values differ, those of tables in it as well;
// old and now are structs of one type from package config.
func changedKeys(table string, old, now any) (keys []string) {
	a, b := reflect.ValueOf(old), reflect.ValueOf(now)
	for i := range a.NumField() {
		before, after := a.Field(i).Interface(), b.Field(i).Interface()
		key := table + "." + a.Type().Field(i).Tag.Get("toml")
		switch {
		case reflect.DeepEqual(before, after):
		case a.Field(i).Kind() == reflect.Struct:
			keys = append(keys, changedKeys(key, before, after)...)
		default:
			keys = append(keys, key)
		}
	}
	return keys
}

func interval(cfg balance.Config) string {
	if cfg.FetchEvery == 0 {
		return "automatic"
	}
	return cfg.FetchEvery.Round(time.Millisecond).String()
}

// instanceChanges identifies instances by their addresses, as balancing does:
// one that has a new address under its old name was removed and another added.
func instanceChanges(old, now []balance.Instance) (added, removed, other []string) {
	before := make(map[descriptor.Address]balance.Instance, len(old))
	for _, i := range old {
		before[i.Address] = i
	}
	for _, i := range now {
		was, there := before[i.Address]
		delete(before, i.Address)
		switch {
		case !there:
			added = append(added, i.Name)
			continue
		case was.Name != i.Name:
			other = append(other, fmt.Sprintf("%s is now called %s", was.Name, i.Name))
		}
		if was.Weight != i.Weight {
			other = append(other, fmt.Sprintf("%s weight %v -> %v", i.Name, was.Weight, i.Weight))
		}
		if client(was.Client) != client(i.Client) {
			other = append(other, i.Name+" client_key")
		}
		if was.Check != i.Check || client(was.CheckClient) != client(i.CheckClient) {
			other = append(other, i.Name+" check")
		}
		if was.Probe != i.Probe {
			other = append(other, fmt.Sprintf("%s probe %t -> %t", i.Name, was.Probe, i.Probe))
		}
	}
	for _, i := range old {
		if _, gone := before[i.Address]; gone {
			removed = append(removed, i.Name)
		}
	}
	return added, removed, other
}

// client is the public half of a client key, zero for none.
func client(key *descriptor.ClientKey) descriptor.AuthorizedClient {
	if key == nil {
		return descriptor.AuthorizedClient{}
	}
	return key.Client()
}

// instanceNames lists the names in their order.
func instanceNames(list []balance.Instance) string {
	var names []string
	for _, i := range list {
		names = append(names, i.Name)
	}
	return strings.Join(names, ", ")
}
