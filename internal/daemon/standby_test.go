package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/config"
	"onionbalancer/internal/status"
	"onionbalancer/internal/tor"
	"onionbalancer/internal/tor/control"
	"onionbalancer/testnet/sim"
)

// twoMachines are a service on a simulated network with two machines that stand in for each
// other, each with a tor and a daemon of its own.
type twoMachines struct {
	t               *testing.T
	net             *sim.Network
	address         descriptor.Address
	instances       []*sim.Instance
	active, standby *machine
	visits, lost    int
}

// machine is a host with a tor and, while it runs, a daemon.
type machine struct {
	w    *twoMachines
	name string
	tor  *sim.Tor
	cfg  *config.Config
	*Daemon

	mu     sync.Mutex
	conns  map[net.Conn]bool // to its tor
	dead   bool              // no connection is made
	frozen chan struct{}     // closed when it wakes; nil while it is awake
	beats  *beatListener     // nil while nobody listens for the heartbeat
}

// beatListener is where connections to the heartbeat's onion service arrive.
type beatListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *beatListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *beatListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *beatListener) Addr() net.Addr { return nil }

// served is a connection whose Close tells.
type served struct {
	net.Conn
	done func()
}

func (c served) Close() error { c.done(); return c.Conn.Close() }

// forward is the application of the heartbeat's onion service.
func (m *machine) forward(_ uint16, conn net.Conn) {
	m.pause()
	m.mu.Lock()
	l := m.beats
	m.mu.Unlock()
	if l == nil {
		return
	}
	done := make(chan struct{})
	select {
	case l.conns <- served{conn, sync.OnceFunc(func() { close(done) })}:
		<-done
	case <-l.closed:
	}
}

func (m *machine) pause() {
	m.mu.Lock()
	frozen := m.frozen
	m.mu.Unlock()
	if frozen != nil {
		<-frozen
	}
}

// slow is a connection of a machine that may be frozen.
type slow struct {
	net.Conn
	m *machine
}

func (c slow) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.m.pause()
	return n, err
}

func (c slow) Write(b []byte) (int, error) {
	c.m.pause()
	return c.Conn.Write(b)
}

func (m *machine) dial(ctx context.Context) (net.Conn, error) {
	m.mu.Lock()
	dead := m.dead
	m.mu.Unlock()
	if dead {
		return nil, errors.New("dead")
	}
	conn, err := m.tor.Dial(ctx)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conns[conn] = true
	return slow{conn, m}, nil
}

func (m *machine) start() {
	t := m.w.t
	t.Helper()
	log := io.Discard
	if os.Getenv("STANDBY_LOG") != "" {
		log = t.Output()
	}
	d, err := New(m.cfg, "test", slog.New(slog.NewTextHandler(log, nil)).With("machine", m.name))
	if err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	m.dead, m.conns = false, map[net.Conn]bool{}
	m.mu.Unlock()
	d.open = func(context.Context, *config.Config, *slog.Logger) (*tor.Pool, error) {
		return tor.NewPool(tor.New(m.name, control.New(control.Config{Dial: m.dial}))), nil
	}
	d.serve = func() {} // a real socket would stop virtual time
	d.listen = func(string, string) (net.Listener, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.beats = &beatListener{conns: make(chan net.Conn), closed: make(chan struct{})}
		return m.beats, nil
	}
	d.dialer = m.w.net.Dialer()
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.Daemon = d
}

// kill ends the machine's daemon, without that its tor learns of the end.
func (m *machine) kill() {
	if m.Daemon == nil {
		return
	}
	m.mu.Lock()
	m.dead = true
	for conn := range m.conns {
		_ = conn.Close()
	}
	m.mu.Unlock()
	m.Stop()
	m.Daemon = nil
	m.mu.Lock()
	defer m.mu.Unlock()
	m.beats = nil
}

// freeze stops all that the machine sends and hears until thaw.
func (m *machine) freeze() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.frozen = make(chan struct{})
}

func (m *machine) thaw() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.frozen != nil {
		close(m.frozen)
		m.frozen = nil
	}
}

// onTwoMachines runs do in virtual time, with both daemons started.
func onTwoMachines(t *testing.T, do func(*twoMachines)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := sim.New(sim.Config{Seed: 1, Params: map[string]int32{"hsdir_spread_store": 3, "hsdir_spread_fetch": 2}})
		defer n.Close()
		w := &twoMachines{t: t, net: n}
		for range 3 {
			w.instances = append(w.instances, n.AddInstance(sim.InstanceConfig{}))
		}
		beat := n.AddInstance(sim.InstanceConfig{})
		time.Sleep(2 * time.Minute) // until they are published
		machineOf := func(name string, tor *sim.Tor, table string) *machine {
			dir := t.TempDir()
			w.address = writeKey(t, filepath.Join(dir, "front"), 9)
			text := "state_dir = \"state\"\n" + torTable + "[cluster]\nname = \"two\"\nstore = \"standby\"\n[cluster.standby]\n" + table + service("front", w.instances...)
			return &machine{w: w, name: name, tor: tor, cfg: parse(t, dir, text)}
		}
		w.active = machineOf("active", n.AddTor(sim.TorConfig{}), "role = \"active\"\nlisten = \"127.0.0.1:9100\"\n")
		w.standby = machineOf("standby", n.Tor(), fmt.Sprintf("role = \"standby\"\nheartbeat = \"%s.onion:9100\"\n", beat.Address().Label()))
		beat.SetApplication(w.active.forward)
		defer func() {
			w.active.thaw()
			w.active.kill()
			w.standby.kill()
		}()
		w.active.start()
		time.Sleep(3 * time.Minute)
		w.standby.start()
		do(w)
	})
}

// run lets time pass, with a visit a minute.
func (w *twoMachines) run(d time.Duration) {
	for until := time.Now().Add(d); time.Now().Before(until); {
		time.Sleep(min(time.Minute, time.Until(until)))
		w.visits++
		if r := w.net.NewClient(w.address, sim.ClientConfig{}).Request(); r.Err != nil {
			w.lost++
			w.t.Logf("%s: a visit was lost: %v", time.Now().Format(time.TimeOnly), r.Err)
		}
	}
	synctest.Wait()
}

// until lets time pass until is is true, and returns for how long.
func (w *twoMachines) until(what string, most time.Duration, is func() bool) time.Duration {
	w.t.Helper()
	began := time.Now()
	for !is() {
		if time.Since(began) > most {
			w.t.Fatalf("%s: not within %s", what, most)
		}
		w.run(time.Minute)
	}
	return time.Since(began)
}

func (m *machine) watched() status.Watched { return m.Snapshot().Cluster.Standby.Watched[0] }

func (m *machine) taken() bool { return m.watched().Taken }

// state is the state of the service, and who publishes it.
func (m *machine) state() string {
	s := m.Snapshot().Services[0]
	if s.Owner == nil {
		return string(s.State)
	}
	return fmt.Sprintf("%s %s", s.State, s.Owner.Owning)
}

func (w *twoMachines) want(when string, m *machine, state string) {
	w.t.Helper()
	if got := m.state(); got != state {
		w.t.Errorf("%s: the service on the %s machine is %q, want %q: %q", when, m.name, got, state, m.Snapshot().Services[0].Warnings)
	}
}

// TestTwoMachines: the active one is killed, and the other publishes until it is back; the
// same if it is cut off for hours, and then goes on with what it had. No visitor notices.
func TestTwoMachines(t *testing.T) {
	onTwoMachines(t, func(w *twoMachines) {
		w.run(30 * time.Minute)
		w.want("at first", w.active, "ok")
		w.want("at first", w.standby, "elsewhere elsewhere")
		c := w.standby.Snapshot().Cluster
		if s := c.Standby; c.Mode != "standby" || c.Name != "two" || s.Role != "standby" || s.Heard == nil || !*s.Heard || s.Silence != "" || len(s.Watched) != 1 ||
			s.Watched[0].Address != w.address.String() || s.Watched[0].Taken || time.Since(s.Watched[0].Made) > time.Hour || s.Watched[0].Alarm != "" {
			t.Errorf("the standby at first: %+v, %+v", c, s)
		}
		if c := w.active.Snapshot().Cluster; c == nil || c.Standby.Role != "active" || len(c.Warnings) > 0 {
			t.Errorf("the active one at first: %+v", c)
		}
		if n := w.standby.tor.Counts().Posts; n != 0 {
			t.Errorf("the standby made %d uploads", n)
		}

		w.active.kill()
		t.Logf("killed: taken over after %s", w.until("taking over", 150*time.Minute, w.standby.taken))
		w.run(2 * time.Hour)
		w.want("killed", w.standby, "ok owned")
		if s := w.standby.Snapshot().Cluster.Standby; *s.Heard || s.Silence == "" {
			t.Errorf("the heartbeat of who was killed: %+v", s)
		}

		w.active.start()
		t.Logf("started again: yielded after %s", w.until("yielding", 15*time.Minute, func() bool { return !w.standby.taken() }))
		posts := w.standby.tor.Counts().Posts
		w.run(3 * time.Hour)
		w.want("started again", w.active, "ok")
		w.want("started again", w.standby, "elsewhere elsewhere")
		if n := w.standby.tor.Counts().Posts - posts; n != 0 {
			t.Errorf("%d uploads after yielding", n)
		}

		w.active.freeze()
		t.Logf("cut off: taken over after %s", w.until("taking over again", 150*time.Minute, w.standby.taken))
		w.run(4 * time.Hour)
		w.want("cut off", w.standby, "ok owned")
		w.active.thaw()
		t.Logf("back: yielded after %s", w.until("yielding again", 15*time.Minute, func() bool { return !w.standby.taken() }))
		w.run(3 * time.Hour)
		w.want("back", w.active, "ok")
		w.want("back", w.standby, "elsewhere elsewhere")
		if w.lost > 0 {
			t.Errorf("%d of %d visits lost", w.lost, w.visits)
		}
		counts := w.standby.Snapshot().Events
		if counts["standby"] < 4 {
			t.Errorf("events of the standby: %v", counts)
		}
		if why := w.standby.watched().Why; !strings.Contains(why, "active machine publishes again") {
			t.Errorf("why it yielded: %q", why)
		}
	})
}
