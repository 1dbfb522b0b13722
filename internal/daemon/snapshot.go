package daemon

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"onionbalancer/internal/consensus"
	"onionbalancer/internal/locked"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/status"
	"onionbalancer/internal/tor/control"
)

// Snapshot returns the current state of the daemon.
func (d *Daemon) Snapshot() status.Snapshot {
	s, services := d.overview()
	s.Services = []status.Service{} // rather than null
	for _, r := range services {
		s.Services = append(s.Services, d.describe(r))
	}
	slices.SortFunc(s.Services, func(a, b status.Service) int { return strings.Compare(a.Address, b.Address) })
	s.Shards = d.shardStatuses()
	d.sharing.describe(&s)
	return s
}

// describe returns the status of a service.
func (d *Daemon) describe(r *running) status.Service {
	s := r.Status()
	if s.Owner = d.sharing.owner(r.Address()); s.Owner != nil && s.Owner.Owning == status.OwningElsewhere {
		s.State = status.StateElsewhere
		d.drainElsewhere(&s, r.Address())
	}
	return s
}

// overview returns the snapshot without services and shards, and the services of the
// configuration.
func (d *Daemon) overview() (status.Snapshot, []*running) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := status.Snapshot{
		Version: d.version,
		PID:     os.Getpid(),
		Now:     time.Now(),
		Started: d.started,
		Config:  d.cfg.File,
		Loaded:  d.loaded,
		Reloads: slices.Clone(d.reloads),
		Tors:    d.rooms.torStatuses(),

		FullAddresses: d.cfg.Log.FullAddresses,
		Events:        d.events.Counts(),
	}
	s.Tor = s.Tors[0]
	var services []*running
	countries := false
	for _, r := range d.services {
		countries = countries || asksCountries(r.cfg)
		if r.shard == "" {
			services = append(services, r)
		}
	}
	if err := d.countries.Trouble(); countries && err != nil {
		s.Warnings = append(s.Warnings, "countries of relays are not known: "+err.Error())
	}
	if d.trouble != nil {
		s.LeftOut = len(d.cfg.Services) - len(services)
		s.Warnings = append(s.Warnings, "services left out: "+d.trouble.Error())
	}
	s.Warnings = append(s.Warnings, d.cfg.Linked()...)
	s.Warnings = append(s.Warnings, d.rooms.tors.Warnings()...)
	s.Warnings = append(s.Warnings, crowded(len(d.services), len(s.Tors), d.cfg.Tor.Own())...)
	s.Warnings = append(s.Warnings, d.probes.warnings()...)
	for _, key := range d.restart {
		s.Warnings = append(s.Warnings, needsRestart(key))
	}
	if d.Logs != nil {
		if err := d.Logs.Trouble(); err != nil {
			s.Warnings = append(s.Warnings, err.Error())
		}
	}
	if err := locked.Trouble(); err != nil {
		s.Warnings = append(s.Warnings, fmt.Sprintf("%v: secrets may be swapped out; raise the limit of locked memory (LimitMEMLOCK= in the unit)", err))
	}
	for _, t := range s.Tors {
		err := control.CheckVersion(t.Version)
		switch {
		case !t.Connected || err == nil:
		case len(s.Tors) == 1:
			s.Warnings = append(s.Warnings, err.Error())
		default:
			s.Warnings = append(s.Warnings, t.Name+": "+err.Error())
		}
	}
	c, err := d.rooms.consensus.Consensus()
	if err != nil {
		s.Consensus.Error = err.Error()
	}
	if errors.Is(err, consensus.ErrNone) {
		s.Consensus.Error, _ = control.Split(err) // nothing is to be fixed yet
	}
	if c != nil {
		s.Consensus.Known = true
		s.Consensus.ValidAfter, s.Consensus.FreshUntil, s.Consensus.ValidUntil = c.ValidAfter, c.FreshUntil, c.ValidUntil
		s.Consensus.HSDirs = len(c.HSDirs)
		s.Consensus.NextChange = c.NextChange()
		s.Consensus.PeriodMinutes = c.CurrentPeriod().Minutes()
		s.Consensus.OffsetSeconds = uint64(c.RotationOffset() / time.Second)
	}
	return s, services
}

// perTor is how many addresses a tor should publish: more would make it one of the busiest
// clients of its guard, and leave it no time for those that have to wait for a tor that died.
const perTor = 2000

// crowded warns of too few tors for so many addresses; own says that they are ours.
func crowded(addresses, tors int, own bool) []string {
	if addresses <= perTor*tors+perTor/4 {
		return nil
	}
	wanted := (addresses + perTor - 1) / perTor
	fix := fmt.Sprintf("set tor.count = %d", wanted)
	if !own {
		fix = fmt.Sprintf("name %d tors in tor.control", wanted)
	}
	return []string{fmt.Sprintf("%d addresses are published through %s; one for each %d is enough: %s", addresses, printable.Count(tors, "tor"), perTor, fix)}
}
