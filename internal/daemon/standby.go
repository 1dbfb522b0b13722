package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/backoff"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/check"
	"onionbalancer/internal/config"
	"onionbalancer/internal/event"
	"onionbalancer/internal/health"
	"onionbalancer/internal/standby"
	"onionbalancer/internal/state"
	"onionbalancer/internal/status"
)

// active is the sharing of the active one of two machines without a store: it publishes as
// one that is alone does, and says so to who asks.
type active struct {
	alone
	d *Daemon

	mu      sync.Mutex
	trouble error // why nobody can ask
}

// run implements sharing: it answers for the heartbeat.
func (a *active) run(ctx context.Context) {
	listen := a.d.clusterConfig().Standby.Listen
	if listen == "" {
		<-ctx.Done()
		return
	}
	for ctx.Err() == nil {
		l, err := a.d.listen(config.Listener(listen))
		a.note(err)
		if err == nil {
			standby.ServeHeartbeat(ctx, l, a.fit)
			return
		}
		backoff.Sleep(ctx, listenAgain)
	}
}

// listenAgain is after what time it is tried again to answer for the heartbeat.
const listenAgain = 30 * time.Second

// note notes why nobody can ask for the heartbeat; nil: everybody can.
func (a *active) note(err error) {
	a.mu.Lock()
	before := a.trouble
	a.trouble = err
	a.mu.Unlock()
	if err != nil && before == nil {
		a.d.tellStandby(slog.LevelError, "the other machine hears no heartbeat of this one", slog.Any("error", err))
	}
}

// listenBeat listens where the heartbeat is asked for. Whose tor may do so the directory of a
// socket decides: it says to nobody what is to be kept.
func listenBeat(network, address string) (net.Listener, error) {
	if network != "unix" {
		return net.Listen(network, address)
	}
	if info, err := os.Lstat(address); err == nil && info.Mode()&os.ModeSocket != 0 {
		if conn, err := net.DialTimeout(network, address, time.Second); err == nil {
			_ = conn.Close()
			return nil, fmt.Errorf("something else answers at %s", address)
		}
		_ = os.Remove(address) // of a daemon that was killed
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(address, 0o666); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Every service is renewed within two hours, and half an hour later if it is hosted. What is
// older shows that HSDirs confirm nothing.
const (
	renewedWithin = 125 * time.Minute
	hostedLater   = 30 * time.Minute
)

// fit reports whether this machine publishes all of its services.
func (a *active) fit() bool {
	if a.d.rooms.Fit() != nil {
		return false
	}
	late, all := a.services()
	if !all {
		return false
	}
	now := time.Now()
	for r, late := range late {
		if s := r.Summary(); !s.Withdrawn && (s.Made.IsZero() || now.Sub(s.Made) > late) {
			return false
		}
	}
	return true
}

// services returns for all services at what age what is published shows that something is
// wrong, and whether these are all that the configuration has.
func (a *active) services() (late map[*running]time.Duration, all bool) {
	a.d.mu.Lock()
	defer a.d.mu.Unlock()
	late = make(map[*running]time.Duration, len(a.d.services))
	for _, r := range a.d.services {
		late[r] = renewedWithin
		if r.cfg.Hosted {
			late[r] += hostedLater
		}
	}
	all = a.d.trouble == nil
	for _, err := range a.d.customers.leftOut {
		all = all && errors.Is(err, errServed)
	}
	return late, all
}

// clusterConfig returns [cluster], which no reload changes.
func (d *Daemon) clusterConfig() config.Cluster {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cfg.Cluster
}

// standbyStatus is what both of two machines without a store tell of themselves.
func (d *Daemon) standbyStatus() status.Cluster {
	c := d.clusterConfig()
	return status.Cluster{Mode: c.Store, Name: c.Name, Manager: c.Manager, Members: []status.Member{}, Standby: &status.Standby{Role: c.Standby.Role}}
}

// describe implements sharing.
func (a *active) describe(s *status.Snapshot) {
	c := a.status()
	s.Cluster = &c
}

func (a *active) status() status.Cluster {
	out := a.d.standbyStatus()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.trouble != nil {
		out.Warnings = append(out.Warnings, fmt.Sprintf("the other machine hears no heartbeat of this one: %v", a.trouble))
	}
	return out
}

// operator implements sharing.
func (a *active) operator() status.ClusterOperator { return standbyOrders{a.status} }

// stander is the sharing of the other machine, which looks at what is published, and
// publishes while clients would miss the active one; or of one that only watches.
type stander struct {
	alone
	d       *Daemon
	role    standby.Role
	watcher *standby.Watcher
	pulse   *standby.Pulse // nil: no heartbeat is configured
	woken   chan struct{}  // holds a token when the services may be others than before

	taken map[descriptor.Address]bool // to be published by this machine; protected by Daemon.mu
}

// openStandby opens what two machines without a store are to each other.
func openStandby(d *Daemon, onions check.Dialer) (sharing, error) {
	cfg := d.cfg.Cluster.Standby
	own := alone{d.store}
	if cfg.Role == config.RoleActive {
		return &active{alone: own, d: d}, nil
	}
	s := &stander{alone: own, d: d, role: standby.Role(cfg.Role), woken: make(chan struct{}, 1), taken: map[descriptor.Address]bool{}}
	if cfg.Heartbeat == "" {
		return s, nil
	}
	address, port, err := config.CanaryTarget(cfg.Heartbeat)
	if err != nil {
		return nil, fmt.Errorf("reading cluster.standby.heartbeat: %w", err)
	}
	s.pulse = standby.NewPulse(standby.PulseConfig{
		Dial: func(ctx context.Context, circuit string) (net.Conn, error) {
			return dialBeat(ctx, onions, address, port, circuit)
		},
		Changed: func() { s.watcher.Hasten() }, Record: d.events.Record,
	})
	return s, nil
}

// dialBeat connects to a heartbeat.
func dialBeat(ctx context.Context, onions check.Dialer, a descriptor.Address, port uint16, circuit string) (net.Conn, error) {
	conn, _, err := onions.Dial(ctx, health.Visit{Address: a, Port: port, Circuit: circuit, Patient: true})
	return conn, err
}

// environ implements sharing.
func (s *stander) environ(env *balance.Env) {
	cfg := standby.Config{Role: s.role, Consensus: s.d.rooms.consensus, Fetcher: s.d.rooms, Runner: s, Record: s.d.events.Record}
	if s.role == standby.Watch {
		cfg.Runner = nil
	}
	if s.pulse != nil {
		cfg.Heartbeat = s.pulse.Beat
	}
	s.watcher = standby.New(cfg)
	record := env.Record
	env.Record = func(e event.Event) {
		s.watcher.Heed(e)
		record(e)
	}
}

// awake implements sharing.
func (s *stander) awake(a descriptor.Address) func() bool {
	return func() bool { return s.watcher.Awake(a) }
}

// publishes implements sharing.
func (s *stander) publishes(a descriptor.Address) bool { return s.taken[a] }

// changed implements sharing.
func (s *stander) changed() { wake(s.woken) }

// run implements sharing.
func (s *stander) run(ctx context.Context) {
	var wait sync.WaitGroup
	wait.Go(func() { s.watcher.Run(ctx) })
	wait.Go(func() { every(ctx, wantEvery, s.woken, func() { s.watcher.Set(s.services()) }) })
	if s.pulse != nil {
		wait.Go(func() { s.pulse.Run(ctx) })
	}
	wait.Wait()
}

// services lists what is to be followed.
func (s *stander) services() (list []standby.Service) {
	d := s.d
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range d.cfg.Cluster.Standby.Addresses {
		list = append(list, standby.Service{Address: a})
	}
	for a, r := range d.services {
		if r.cfg.Withdrawn {
			continue
		}
		if r.cancel == nil {
			r.Watch()
		}
		list = append(list, standby.Service{
			Address: a, Hosted: r.cfg.Hosted, Ordinary: r.cfg.Ordinary,
			View: func() backend.View { return s.view(a) },
			Revision: func(ctx context.Context, p descriptor.Period) (descriptor.RevisionKey, error) {
				return s.revision(ctx, a, p)
			},
		})
	}
	return list
}

// view returns the instances of a service.
func (s *stander) view(a descriptor.Address) backend.View {
	s.d.mu.Lock()
	r := s.d.services[a]
	s.d.mu.Unlock()
	if r == nil {
		return backend.View{}
	}
	return r.View()
}

// revision returns the key of a service's revision counters.
func (s *stander) revision(ctx context.Context, a descriptor.Address, p descriptor.Period) (descriptor.RevisionKey, error) {
	s.d.mu.Lock()
	r := s.d.services[a]
	if r == nil {
		s.d.mu.Unlock()
		return descriptor.RevisionKey{}, errNotConfigured
	}
	loan := r.keys.lend() // so that a reload does not close them meanwhile
	s.d.mu.Unlock()
	defer giveBack(loan)
	return loan.Custodian.RevisionKey(ctx, p)
}

// Start implements standby.Runner.
func (s *stander) Start(ctx context.Context, a descriptor.Address, floors []state.Ceiling) error {
	s.d.cease([]descriptor.Address{a}) // one that was removed and added again may be at its end
	if len(floors) > 0 {
		if err := standby.Raise(ctx, s.d.store, a, floors); err != nil {
			return err
		}
	}
	s.turn(a, true)
	if err := s.d.begin([]descriptor.Address{a})[a]; err != nil {
		s.turn(a, false)
		return err
	}
	return nil
}

// Stop implements standby.Runner.
func (s *stander) Stop(a descriptor.Address) {
	s.turn(a, false)
	s.d.cease([]descriptor.Address{a})
}

// turn notes whether this machine publishes a service.
func (s *stander) turn(a descriptor.Address, mine bool) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	if mine {
		s.taken[a] = true
	} else {
		delete(s.taken, a)
	}
}

// Made implements standby.Runner.
func (s *stander) Made(a descriptor.Address, m standby.Made) bool {
	s.d.mu.Lock()
	r := s.d.services[a]
	s.d.mu.Unlock()
	if r != nil && r.Made(m.Period, m.Counter, m.Signer) {
		return true
	}
	record, _, err := s.d.store.Service(a)
	return err == nil && standby.MadeBefore(record, m)
}

// describe implements sharing.
func (s *stander) describe(out *status.Snapshot) {
	c := s.status()
	out.Cluster = &c
}

func (s *stander) status() status.Cluster {
	out := s.d.standbyStatus()
	view := out.Standby
	for _, w := range s.watcher.Status() {
		view.Watched = append(view.Watched, status.Watched{
			Address: w.Address.String(), Taken: w.Taken, Since: w.Since, Why: string(w.Why), Revision: w.Counter, Made: w.Made, Read: w.Read,
			Until: w.Until, Alarm: w.Alarm,
		})
	}
	slices.SortFunc(view.Watched, func(a, b status.Watched) int { return strings.Compare(a.Address, b.Address) })
	if s.pulse != nil {
		beat := s.pulse.Beat()
		heard := time.Since(beat.Heard) <= standby.DefaultTiming.Beat
		says := heard && beat.Fit
		view.Heard = &says
		if err := s.pulse.Trouble(); err != nil && !heard {
			view.Silence = err.Error()
		}
	}
	return out
}

// owner implements sharing.
func (s *stander) owner(a descriptor.Address) *status.Owner {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	if s.taken[a] {
		return &status.Owner{Owning: status.OwningHere}
	}
	return &status.Owner{Owning: status.OwningElsewhere}
}

// operator implements sharing.
func (s *stander) operator() status.ClusterOperator { return standbyOrders{s.status} }

// tellStandby records an event of two machines without a store.
func (d *Daemon) tellStandby(level slog.Level, text string, attrs ...slog.Attr) {
	d.events.Record(event.Event{At: time.Now(), Kind: standby.Kind, Level: level, Text: text, Attrs: attrs})
}
