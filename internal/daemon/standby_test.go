package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/config"
	"onionbalancer/internal/event"
	"onionbalancer/internal/status"
	"onionbalancer/internal/tor"
	"onionbalancer/internal/tor/control"
	"onionbalancer/testnet/sim"
)

// refusal is the error of an upload that an HSDir refused.
type refusal struct{}

func (refusal) Error() string  { return "refused" }
func (refusal) Reason() string { return "UPLOAD_REJECTED" }

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

func (m *machine) watched() status.Watched {
	list := m.Snapshot().Cluster.Standby.Watched
	n := slices.IndexFunc(list, func(s status.Watched) bool { return s.Address == m.w.address.String() })
	if n < 0 {
		return status.Watched{}
	}
	return list[n]
}

func (m *machine) taken() bool { return m.watched().Taken }

// state is the state of the service, and who publishes it.
func (m *machine) state() string {
	s := m.Snapshot().Services[0]
	if s.Owner == nil {
		return string(s.State)
	}
	return fmt.Sprintf("%s %s", s.State, s.Owner.Owning)
}

// want fails the test unless the service is in a state within minutes: it is another while an
// HSDir is changed for the next.
func (w *twoMachines) want(when string, m *machine, state string) {
	w.t.Helper()
	for n := 0; n < 10 && m.state() != state; n++ {
		w.run(time.Minute)
	}
	if got := m.state(); got != state {
		w.t.Errorf("%s: the service on the %s machine is %q, want %q: %+v", when, m.name, got, state, m.Snapshot().Services[0])
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
		for _, m := range []*machine{w.active, w.standby} {
			if got := m.services[w.address].cfg.Reclaim; got != (m == w.active) {
				t.Errorf("the %s machine publishes above the other: %t", m.name, got)
			}
		}
		if n := w.standby.tor.Counts().Posts; n != 0 {
			t.Errorf("the standby made %d uploads", n)
		}

		w.active.kill()
		t.Logf("killed: taken over after %s", w.until("taking over", 150*time.Minute, w.standby.taken))
		w.run(2 * time.Hour)
		w.want("killed", w.standby, "ok owned")
		before := w.standby.watched().Read
		for !w.standby.watched().Read.After(before) { // until a moment after a reading
			time.Sleep(time.Second)
		}
		before = w.standby.watched().Read
		w.standby.env.Record(event.Event{Kind: event.UploadFailed, Level: slog.LevelDebug, Service: w.address, Attrs: []slog.Attr{slog.Any("error", refusal{})}})
		time.Sleep(time.Minute)
		if !w.standby.watched().Read.After(before) {
			t.Error("HSDirs that refused were not asked soon")
		}
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
		if w.active.Snapshot().Cluster.Warnings != nil {
			t.Errorf("warnings of the active one: %q", w.active.Snapshot().Cluster.Warnings)
		}
		if why := w.standby.watched().Why; !strings.Contains(why, "active machine publishes again") {
			t.Errorf("why it yielded: %q", why)
		}
	})
}

// TestTwoMachinesAtRandom: either machine is killed or cut off at random times, never both for
// long, and comes back. "make soak" does so for a month.
func TestTwoMachinesAtRandom(t *testing.T) {
	days := 1
	if os.Getenv("BALANCER_SOAK") != "" {
		days = 30
	}
	onTwoMachines(t, func(w *twoMachines) {
		random := rand.New(rand.NewPCG(12, 4))
		between := func(low, high time.Duration) time.Duration {
			return low + time.Duration(random.Int64N(int64(high-low)))
		}
		w.run(time.Hour)
		takeovers := 0
		for end := time.Now().AddDate(0, 0, days); time.Now().Before(end); w.run(between(3*time.Hour, 6*time.Hour)) {
			m := w.active
			if random.IntN(3) == 0 {
				m = w.standby
			}
			before := w.standby.taken()
			fail, mend := m.kill, m.start
			if random.IntN(2) == 0 {
				fail, mend = m.freeze, m.thaw
			}
			fail()
			w.run(between(time.Minute, 6*time.Hour))
			if m == w.active && w.standby.taken() && !before {
				takeovers++
			}
			mend()
		}
		w.want("at the end", w.active, "ok")
		w.want("at the end", w.standby, "elsewhere elsewhere")
		a, b := w.active.tor.Counts(), w.standby.tor.Counts()
		t.Logf("%d days: %d takeovers, %d of %d visits lost; the active one made %d uploads, %d refused; the other %d, %d refused",
			days, takeovers, w.lost, w.visits, a.Posts, a.Rejected, b.Posts, b.Rejected)
		if w.lost > 0 {
			t.Errorf("%d of %d visits lost", w.lost, w.visits)
		}
	})
}

// TestStandbyHurries: when the backends' introduction points are others than those published,
// and the active machine is silent, the other one takes over in minutes.
func TestStandbyHurries(t *testing.T) {
	onTwoMachines(t, func(w *twoMachines) {
		w.run(15 * time.Minute)
		w.active.kill()
		for _, i := range w.instances {
			i.ReplacePoints()
		}
		took := w.until("taking over", 12*time.Minute, w.standby.taken)
		t.Logf("taken over after %s, %d visits lost", took, w.lost)
		w.run(2 * time.Minute)
		before := w.lost
		w.run(time.Hour)
		if w.lost > before {
			t.Errorf("%d visits lost after the takeover", w.lost-before)
		}
		w.want("taken over", w.standby, "ok owned")
		if why := w.standby.watched().Why; !strings.Contains(why, "no published introduction point") {
			t.Errorf("why: %q", why)
		}
	})
}

// TestStandbyRestarts: the standby is started again while it publishes, and goes on; its
// services are changed by reloads while it publishes and while it does not.
func TestStandbyRestarts(t *testing.T) {
	onTwoMachines(t, func(w *twoMachines) {
		dir := filepath.Dir(w.standby.cfg.File)
		text, err := os.ReadFile(w.standby.cfg.File)
		if err != nil {
			t.Fatal(err)
		}
		second := writeKey(t, filepath.Join(dir, "second"), 8)
		watched := func() (list []string) {
			for _, s := range w.standby.Snapshot().Cluster.Standby.Watched {
				list = append(list, fmt.Sprint(s.Address[:4], " ", s.Taken))
			}
			return list
		}
		reload := func(when, text string, want ...string) {
			t.Helper()
			if err := w.standby.Reload(parse(t, dir, text)); err != nil {
				t.Fatal(err)
			}
			w.run(time.Minute)
			slices.Sort(want)
			if got := watched(); !slices.Equal(got, want) {
				t.Errorf("%s: watched are %q, want %q", when, got, want)
			}
		}
		front, other := w.address.String()[:4], second.String()[:4]
		reload("a service more", string(text)+service("second", w.instances[0]), front+" false", other+" false")
		w.active.kill()
		w.until("taking over", 150*time.Minute, w.standby.taken)
		reload("a service less", string(text), front+" true")
		w.standby.kill()
		w.standby.start()
		if got := w.until("going on", 10*time.Minute, w.standby.taken); got > 5*time.Minute {
			t.Errorf("started again, it went on after %s", got)
		}
		w.run(3 * time.Hour)
		w.want("started again", w.standby, "ok owned")
		reload("fewer backends", strings.Replace(string(text), w.instances[2].Address().String(), w.net.AddInstance(sim.InstanceConfig{}).Address().String(), 1), front+" true")
		w.run(10 * time.Minute)
		w.want("fewer backends", w.standby, "ok owned")
		posts := w.standby.tor.Counts().Posts
		reload("removed", strings.ReplaceAll(string(text), "\"front\"", "\"second\""), other+" false")
		w.run(3 * time.Minute) // in five it takes the other over, which nobody publishes
		if n := w.standby.tor.Counts().Posts - posts; n != 0 {
			t.Errorf("%d uploads for a service that was removed", n)
		}
		if w.lost > 0 {
			t.Errorf("%d of %d visits lost", w.lost, w.visits)
		}
	})
}

// TestHeartbeatUnfit: an active machine whose tor is cut off says so.
func TestHeartbeatUnfit(t *testing.T) {
	onTwoMachines(t, func(w *twoMachines) {
		w.run(10 * time.Minute)
		w.active.tor.SetOffline(true)
		w.until("unfit", 4*time.Hour, func() bool {
			s := w.standby.Snapshot().Cluster.Standby
			return !*s.Heard && s.Silence == ""
		})
		w.active.tor.SetOffline(false)
		w.until("fit again", 30*time.Minute, func() bool { return *w.standby.Snapshot().Cluster.Standby.Heard })
		if w.lost > 0 {
			t.Errorf("%d of %d visits lost", w.lost, w.visits)
		}
	})
}

// TestWatch: a machine without keys tells when what is published gets old.
func TestWatch(t *testing.T) {
	onTwoMachines(t, func(w *twoMachines) {
		dir := t.TempDir()
		watch := &machine{w: w, name: "watch", tor: w.net.AddTor(sim.TorConfig{}), cfg: parse(t, dir, "state_dir = \"state\"\n"+torTable+
			"[cluster]\nstore = \"standby\"\n[cluster.standby]\nrole = \"watch\"\naddresses = \""+w.address.String()+"\"\n")}
		watch.start()
		defer watch.kill()
		w.run(time.Hour)
		s := watch.Snapshot()
		if c := s.Cluster; c.Standby.Role != "watch" || c.Standby.Heard != nil || len(s.Services) != 0 || s.LeftOut != 0 || len(s.Warnings) != 0 ||
			c.Standby.Watched[0].Alarm != "" || c.Standby.Watched[0].Revision == 0 || time.Since(c.Standby.Watched[0].Made) > 2*time.Hour {
			t.Errorf("all is well: %+v, %q, %+v", c.Standby, s.Warnings, s)
		}
		if err := watch.Reload(watch.cfg); err != nil {
			t.Errorf("a reload: %v", err)
		}
		w.standby.kill()
		w.active.kill()
		alarm := func(text string) func() bool {
			return func() bool {
				got := watch.watched().Alarm
				return strings.Contains(got, text) && (text != "" || got == "")
			}
		}
		w.until("not renewed", 150*time.Minute, alarm("not been renewed"))
		w.until("gone", 150*time.Minute, alarm("do not have the descriptor"))
		w.active.start()
		w.until("back", 20*time.Minute, alarm(""))
		if n := watch.tor.Counts().Posts; n != 0 {
			t.Errorf("it made %d uploads", n)
		}
	})
}

func TestListenBeat(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "beat")
	stale, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := stale.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := listenBeat("unix", path)
	if err != nil {
		t.Fatalf("where a killed daemon listened: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o666 {
		t.Errorf("the socket: %v, %v", info.Mode(), err)
	}
	if _, err := listenBeat("unix", path); err == nil || !strings.Contains(err.Error(), "something else answers") {
		t.Errorf("where another one listens: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenBeat("unix", path); err == nil {
		t.Error("where a file is")
	}
	if content, err := os.ReadFile(path); string(content) != "precious" {
		t.Errorf("the file is %q now, %v", content, err)
	}
	if l, err = listenBeat("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
}

// TestCheckTwoMachines: what check says of the published descriptors and the heartbeat.
func TestCheckTwoMachines(t *testing.T) {
	onTwoMachines(t, func(w *twoMachines) {
		w.run(10 * time.Minute)
		services, err := buildAll(w.standby.cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer release(maps.Values(services), slog.New(slog.DiscardHandler))
		rooms := w.standby.rooms
		says := func(change func(*config.Config)) string {
			cfg := *w.standby.cfg
			change(&cfg)
			consensus, err := rooms.consensus.Consensus()
			if err != nil {
				t.Fatal(err)
			}
			var found findings
			c := &checker{cfg: &cfg, tell: found.tell}
			if cfg.Cluster.Standby.Role == config.RoleStandby {
				c.services = slices.Collect(maps.Values(services))
			}
			c.checkPublished(w.t.Context(), rooms.tors.Tors()[0], consensus)
			c.checkBeat(w.t.Context(), w.net.Dialer())
			return found.String()
		}
		want := func(when, got string, wants ...string) {
			t.Helper()
			for _, want := range wants {
				if !strings.Contains(got, want) {
					t.Errorf("%s: no %q in\n%s", when, want, got)
				}
			}
		}
		as := func(*config.Config) {}
		want("all well", says(as), "ok published descriptor of "+w.address.Short()+": it has 9 introduction points", "ok heartbeat of the active machine: it publishes all services")
		want("a watch", says(func(c *config.Config) {
			c.Cluster.Standby = config.Standby{Role: config.RoleWatch, Addresses: []descriptor.Address{w.address, {1}}}
		}), "ok published descriptor of "+w.address.Short(), "warning published descriptor of "+descriptor.Address{1}.Short())
		if got := says(func(c *config.Config) { c.Cluster.Standby = config.Standby{Role: config.RoleActive} }); got != "" {
			t.Errorf("the active one: %s", got)
		}
		web := w.net.AddInstance(sim.InstanceConfig{})
		web.SetApplication(func(_ uint16, conn net.Conn) { _, _ = io.WriteString(conn, "SSH-2.0-\r\n") })
		time.Sleep(2 * time.Minute)
		want("something else", says(func(c *config.Config) { c.Cluster.Standby.Heartbeat = web.Address().Label() + ".onion:22" }),
			"failed heartbeat of the active machine: what answers is no heartbeat", "cluster.standby.listen")
		w.active.kill()
		want("killed", says(as), "warning heartbeat of the active machine: none")
	})
}

// TestCheckListen: what check says of where the heartbeat is answered.
func TestCheckListen(t *testing.T) {
	dir := t.TempDir()
	says := func(listen string) string {
		var found findings
		(&checker{cfg: &config.Config{Cluster: config.Cluster{Store: config.StoreStandby, Standby: config.Standby{Role: config.RoleActive, Listen: listen}}}, tell: found.tell}).checkListen()
		return found.String()
	}
	path := filepath.Join(dir, "beat")
	if got := says(""); got != "" {
		t.Errorf("nowhere: %s", got)
	}
	if got := says("unix:" + path); !strings.HasPrefix(got, "ok ") {
		t.Errorf("a socket: %s", got)
	}
	if got := says("unix:" + path + "/none/beat"); !strings.HasPrefix(got, "failed ") {
		t.Errorf("a socket in no directory: %s", got)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listen := l.Addr().String()
	lines := make(chan string)
	go func() {
		for line := range lines {
			if conn, err := l.Accept(); err == nil {
				_, _ = io.WriteString(conn, line)
				_ = conn.Close()
			}
		}
	}()
	for line, want := range map[string]string{"1 fit\n": "ok ", "1 unfit\n": "warning ", "hello\n": "failed "} {
		lines <- line
		if got := says(listen); !strings.HasPrefix(got, want) {
			t.Errorf("%q: %s", line, got)
		}
	}
	close(lines)
	_ = l.Close()
	if got := says(listen); !strings.HasPrefix(got, "ok ") {
		t.Errorf("a port: %s", got)
	}
}

// What an active machine says of itself is true while it is configured anew, and of a service
// that it cannot open: nobody but the other machine publishes that one.
func TestActiveReload(t *testing.T) {
	dir := t.TempDir()
	writeKey(t, filepath.Join(dir, "a"), 1)
	b := writeKey(t, filepath.Join(dir, "b"), 2)
	simulated(t, func(t *testing.T, net *sim.Network) {
		one := net.AddInstance(sim.InstanceConfig{})
		time.Sleep(2 * time.Minute)
		text := torTable + "[cluster]\nstore = \"standby\"\n[cluster.standby]\nrole = \"active\"\n" + service("a", one) + service("b", one)
		if err := os.Rename(filepath.Join(dir, "b"), filepath.Join(dir, "gone")); err != nil {
			t.Fatal(err)
		}
		onSim(t, net, parse(t, dir, text), func(d *Daemon) {
			settle(5 * time.Minute)
			of := d.sharing.(*active)
			if d.services[b] != nil || of.fit() {
				t.Error("it says that it publishes a service whose key is not there")
			}
			if err := os.Rename(filepath.Join(dir, "gone"), filepath.Join(dir, "b")); err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				for range 100 {
					of.fit()
					of.status()
					time.Sleep(time.Millisecond)
				}
			}()
			for range 10 {
				if err := d.Reload(parse(t, dir, text)); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Millisecond)
			}
			<-done
			settle(5 * time.Minute)
			if !of.fit() {
				t.Error("it publishes both, and says that it does not")
			}
		})
	})
}
