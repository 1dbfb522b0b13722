package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"onionbalancer/internal/config"
	"onionbalancer/internal/status"
	"onionbalancer/testnet"
)

// town is a private network of real tor processes with three instances of two
// public addresses, and a visitor.
type town struct {
	t         *testing.T
	net       *testnet.Network
	instances []*testnet.Service
	dir       string
	visits    int
}

// warnings gathers what a logger has said aloud, without tor's own lines.
type warnings struct {
	slog.Handler
	mu   *sync.Mutex
	list *[]string
}

func (w warnings) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn && !strings.HasPrefix(r.Message, "tor: ") {
		w.mu.Lock()
		*w.list = append(*w.list, r.Message)
		w.mu.Unlock()
	}
	return w.Handler.Handle(ctx, r)
}

func (w warnings) WithAttrs(attrs []slog.Attr) slog.Handler {
	w.Handler = w.Handler.WithAttrs(attrs)
	return w
}

func (w warnings) take() (list []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append(list, *w.list...)
}

// TestOnRealTor takes one network through what a daemon lives through. Each part
// goes on where the one before left off.
func TestOnRealTor(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Minute)
	defer cancel()
	// A unix socket's path must be short, and the test's own directory is not.
	dir, err := os.MkdirTemp("", "daemon")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	a, b := writeKey(t, filepath.Join(dir, "a"), 1), writeKey(t, filepath.Join(dir, "b"), 2)
	w := &town{t: t, dir: dir}
	w.net, err = testnet.Start(ctx, testnet.Config{Clients: []string{"visitor", "manager"}})
	if err != nil {
		t.Fatal(err)
	}
	defer w.net.Stop()
	for _, name := range []string{"web1", "web2", "web3"} {
		s, err := w.net.Service(ctx, testnet.ServiceConfig{Name: name, Masters: []string{a.String(), b.String()}})
		if err != nil {
			t.Fatal(err)
		}
		w.instances = append(w.instances, s)
	}
	for _, s := range w.instances {
		if err := s.Published(ctx); err != nil {
			t.Fatal(err)
		}
	}

	d, _ := w.daemon(ctx, "a", fmt.Sprintf("control = %q\n", w.net.ControlTarget("manager")))
	defer d.Stop()
	w.everyInstance(ctx, "at first", a.String(), 3)
	t.Run("a tor of our own", func(t *testing.T) { w.ownTor(ctx, t, b.String()) })
	t.Run("tor dies and returns", func(t *testing.T) { w.torReturns(ctx, t, d, a.String()) })
	t.Run("an instance dies", func(t *testing.T) {
		w.instances[0].Kill()
		w.reach(ctx, t, a.String(), 10)
		if err := w.instances[0].Restart(ctx); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("period and shared random value change", func(t *testing.T) { w.rotation(ctx, t, a.String()) })
}

// daemon starts a daemon for the key with the lines in its [tor] table.
func (w *town) daemon(ctx context.Context, key, tor string) (*Daemon, warnings) {
	w.t.Helper()
	text := fmt.Sprintf("state_dir = %q\n[tor]\n%s", key+"-state", tor)
	text += fmt.Sprintf("[[service]]\nkey = %q\nfetch_interval = \"15s\"\n", key)
	for _, s := range w.instances {
		text += fmt.Sprintf("[[service.instance]]\nname = %q\naddress = %q\n", s.Name(), s.Address())
	}
	cfg := parse(w.t, w.dir, text)
	said := warnings{slog.NewTextHandler(w.t.Output(), nil), new(sync.Mutex), new([]string)}
	d, err := New(cfg, "test", slog.New(said))
	if err != nil {
		w.t.Fatal(err)
	}
	if err := d.Start(ctx); err != nil {
		w.t.Fatal(err)
	}
	return d, said
}

// visit fetches from address as somebody new and returns who answered.
func (w *town) visit(ctx context.Context, address string, n int) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	body, err := w.net.Client("visitor").Get(ctx, fmt.Sprintf("visitor%d", n), "http://"+address+"/")
	return strings.TrimSpace(body), err
}

// everyInstance visits until count instances have answered.
func (w *town) everyInstance(ctx context.Context, when, address string, count int) {
	w.t.Helper()
	answered := map[string]int{}
	for len(answered) < count {
		w.visits++
		body, err := w.visit(ctx, address, w.visits)
		if ctx.Err() != nil {
			w.t.Fatalf("%s: only %v answered", when, answered)
		}
		if err != nil {
			// Nothing is published yet; tor's client takes a moment to give up.
			time.Sleep(200 * time.Millisecond)
			continue
		}
		answered[body]++
	}
}

// reach makes visits, none of which may fail.
func (w *town) reach(ctx context.Context, t *testing.T, address string, visits int) {
	t.Helper()
	for range visits {
		w.visits++
		if _, err := w.visit(ctx, address, w.visits); err != nil {
			t.Errorf("a visit: %v", err)
		}
	}
}

// ownTor publishes the second address through a tor that the daemon starts.
func (w *town) ownTor(ctx context.Context, t *testing.T, address string) {
	text, err := os.ReadFile(filepath.Join(w.net.Dir(), "manager", "torrc"))
	if err != nil {
		t.Fatal(err)
	}
	lines := "TestingTorNetwork 1\n"
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "DirAuthority") {
			lines += line
		}
	}
	if err := os.WriteFile(filepath.Join(w.dir, "joining"), []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	d, said := w.daemon(ctx, "b", "torrc = \"joining\"\n")
	w.everyInstance(ctx, "with a tor of our own", address, 3)
	if list := said.take(); len(list) > 0 {
		t.Errorf("a normal start warns: %q", list)
	}
	snapshot, err := status.Query(ctx, filepath.Join(w.dir, "b-state", status.SocketName))
	if err != nil || !snapshot.Tor.Own || !snapshot.Tor.Connected {
		t.Errorf("status: %+v, %v", snapshot.Tor, err)
	}
	w.check(ctx, t)
	d.Stop()
	if _, err := os.Stat(strings.TrimPrefix(snapshot.Tor.Socket, "unix:")); !os.IsNotExist(err) {
		t.Errorf("our tor's socket after Stop: %v", err)
	}
}

// check runs Check beside the daemon, whose tor it shares.
func (w *town) check(ctx context.Context, t *testing.T) {
	cfg, err := config.Load(filepath.Join(w.dir, "balancer.toml"))
	if err != nil {
		t.Fatal(err)
	}
	var findings []Finding
	if err := Check(ctx, cfg, false, slog.New(slog.DiscardHandler), func(f Finding) { findings = append(findings, f) }); err != nil {
		t.Fatal(err)
	}
	instances := 0
	for _, f := range findings {
		if f.Level == LevelFailed {
			t.Errorf("check: %+v", f)
		}
		if strings.HasPrefix(f.What, "instance ") && strings.HasPrefix(f.Detail, "3 introduction points") {
			instances++
		}
	}
	if instances != 3 {
		t.Errorf("check found %d instances in order: %+v", instances, findings)
	}
}

// torReturns kills the manager's tor and starts it again.
func (w *town) torReturns(ctx context.Context, t *testing.T, d *Daemon, address string) {
	manager := w.net.Client("manager")
	manager.Kill()
	for d.Snapshot().Tor.Connected {
		time.Sleep(50 * time.Millisecond)
	}
	w.reach(ctx, t, address, 3)
	if err := manager.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	returned := time.Now()
	for fresh := false; !fresh; {
		if ctx.Err() != nil {
			t.Fatalf("the instances are not fetched again: %+v", d.Snapshot())
		}
		time.Sleep(50 * time.Millisecond)
		s := d.Snapshot()
		fresh = s.Tor.Connected
		for _, i := range s.Services[0].Instances {
			fresh = fresh && i.LastFetch.After(returned) && i.Error == ""
		}
	}
	w.reach(ctx, t, address, 3)
}

// rotation visits twice a second, with a client that keeps its descriptor as
// tor does, until both the period and the shared random value have changed.
func (w *town) rotation(ctx context.Context, t *testing.T, address string) {
	before, err := w.net.Consensus(ctx)
	if err != nil {
		t.Fatal(err)
	}
	last := before.NextPeriod()
	if before.NextSharedRandom().After(last) {
		last = before.NextSharedRandom()
	}
	until := last.Add(3 * before.VotingInterval())
	var wait sync.WaitGroup
	var mu sync.Mutex
	visits, lost, slowest := 0, []error{}, time.Duration(0)
	for time.Now().Before(until) && ctx.Err() == nil {
		w.visits++
		visitor := w.visits
		wait.Go(func() {
			began := time.Now()
			_, err := w.visit(ctx, address, visitor)
			mu.Lock()
			defer mu.Unlock()
			visits++
			slowest = max(slowest, time.Since(began))
			if err != nil {
				lost = append(lost, fmt.Errorf("the visit of %s: %w", began.Format(time.TimeOnly), err))
			}
		})
		time.Sleep(500 * time.Millisecond)
	}
	wait.Wait()
	t.Logf("%d visits, %d lost, the slowest took %v", visits, len(lost), slowest)
	for _, err := range lost {
		t.Error(err)
	}
	after, err := w.net.Consensus(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if after.ValidAfter.Before(last) {
		t.Errorf("the last consensus is of %s, before the changes were over at %s: the test shows nothing", after.ValidAfter, last)
	}
}
