package daemon

import (
	"fmt"
	"log/slog"
	"maps"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/config"
	"onionbalancer/internal/event"
	"onionbalancer/internal/status"
)

// maxReloads is how many reloads the status remembers.
const maxReloads = 10

// Reload takes a new configuration over: services that are new start, those
// that are gone stop, the others go on with what changed. If anything in it
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
	services, err := buildAll(cfg, d.log)
	if err != nil {
		release(maps.Values(services), d.log)
		return fmt.Errorf("reloading: %w", err)
	}
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
	for address := range d.services {
		if _, stays := services[address]; !stays {
			same = false
			d.removeLocked(address)
			d.log.Info("service removed; its last descriptor expires at the HSDirs in about three hours", "service", d.name(address))
		}
	}
	for address, built := range services {
		r := d.services[address]
		if r == nil {
			same = false
			d.startLocked(address, built)
			d.log.Info("service added", "service", d.name(address), "instances", instanceNames(built.Instances))
			continue
		}
		if list := changes(r.cfg, built); len(list) > 0 {
			same = false
			d.log.Info("service changed", append([]any{"service", d.name(address)}, list...)...)
		}
		r.cfg = built
		r.Reconfigure(built)
	}
	if same {
		d.log.Info("the configuration is the same as before")
	}
	d.cfg, d.loaded, d.trouble = cfg, time.Now(), nil
	return nil
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
	next.StateDir, next.Tor = d.cfg.StateDir, d.cfg.Tor
	return &next, restart
}

func needsRestart(key string) string { return key + " takes effect after a restart" }

// removeLocked stops a service without waiting: keys that hang may take a while
// to let go.
func (d *Daemon) removeLocked(address descriptor.Address) {
	r := d.services[address]
	r.cancel()
	delete(d.services, address)
	d.leaving[address] = r
	d.wait.Go(func() {
		<-r.done
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.leaving[address] == r {
			delete(d.leaving, address)
		}
	})
}

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
		e.Attrs = []slog.Attr{slog.Int("services", len(d.cfg.Services))}
	}
	d.events.Record(e)
	d.reloads = append(d.reloads, happened)
	d.reloads = d.reloads[max(0, len(d.reloads)-maxReloads):]
}
