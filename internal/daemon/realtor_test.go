package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/config"
	"onionbalancer/internal/status"
	"onionbalancer/internal/tor/control"
	"onionbalancer/testnet/lab"
	"onionbalancer/testnet/lab/labtest"
)

// town is a lab with instances of some public addresses.
type town struct {
	*lab.Lab
	t *testing.T
}

// newTown starts a lab whose directory has the keys of the names, and returns their public
// addresses, which the instances answer under.
func newTown(ctx context.Context, t *testing.T, cfg lab.Config, names ...string) (w *town, public []descriptor.Address) {
	t.Helper()
	keys := t.TempDir() // the lab removes what is in its own
	for n, name := range names {
		public = append(public, writeKey(t, filepath.Join(keys, name), byte(n+1)))
		cfg.Masters = append(cfg.Masters, public[n].String())
	}
	w = &town{t: t, Lab: labtest.Start(ctx, t, cfg)}
	for _, name := range names {
		if err := os.Rename(filepath.Join(keys, name), filepath.Join(w.Dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return w, public
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
// goes on where the one before left off. The changes of the period and of the
// shared random value are the demonstration's (make demo ROTATE=1), and those of
// a month are the simulated network's.
func TestOnRealTor(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	w, public := newTown(ctx, t, lab.Config{Instances: 3, Managers: []string{lab.Manager, stranger}}, "a", "b")
	a, b := public[0], public[1]

	control := fmt.Sprintf("control = %q", w.Net.ControlTarget(lab.Manager))
	d, _ := w.daemon(ctx, "a", control)
	defer d.Stop()
	labtest.Reach(ctx, t, w.Lab, a.String(), 3)
	t.Run("an instance is drained", func(t *testing.T) { w.drained(ctx, t, d, a.String()) })
	t.Run("a tor of our own", func(t *testing.T) { w.ownTor(ctx, t, b.String()) })
	t.Run("tor dies and returns", func(t *testing.T) { w.torReturns(ctx, t, d, a.String()) })
	t.Run("restricted discovery", func(t *testing.T) { w.restricted(ctx, t, d, a, w.config("a", control)) })
	t.Run("an instance dies", func(t *testing.T) {
		calm(ctx, d)
		w.Instances[0].Kill()
		labtest.Serve(ctx, t, w.Lab, a.String(), 10, 1)
	})
}

// calm waits until the network changes nothing by itself for a while, which it does every
// two minutes: all instances have new introduction points then, and visitors of the old ones
// go on to those of the instance that is dead.
func calm(ctx context.Context, d *Daemon) {
	for left := time.Duration(0); (left < 30*time.Second || left > 100*time.Second) && ctx.Err() == nil; time.Sleep(time.Second) {
		left = time.Until(d.Snapshot().Consensus.NextChange)
	}
}

// config is a configuration for the key with the lines in its [tor] table.
func (w *town) config(key, tor string) string {
	return w.ServiceConfig(key+"-state", tor, key, "fetch_interval = \"15s\"")
}

// daemon starts a daemon for the key with the lines in its [tor] table.
func (w *town) daemon(ctx context.Context, key, tor string) (*Daemon, warnings) {
	w.t.Helper()
	cfg := parse(w.t, w.Dir, w.config(key, tor))
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

// drained takes an instance out, visits as someone who has no descriptor yet, and brings
// it back.
func (w *town) drained(ctx context.Context, t *testing.T, d *Daemon, address string) {
	order := func(word string) status.Answer {
		answer, err := d.Operate(ctx, status.Order{Word: word, Instance: "web1"})
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	began := time.Now()
	for answer := order("drain"); answer.Uses[0].Instance.Drain.Left.IsZero(); {
		time.Sleep(100 * time.Millisecond)
		var err error
		if answer, err = d.InstanceStatus("web1", ""); err != nil || ctx.Err() != nil {
			t.Fatalf("%+v, %v", answer, err)
		}
	}
	t.Logf("no HSDir has it any more after %s", time.Since(began).Round(10*time.Millisecond))
	w.forget(ctx, t)
	if answers := labtest.Serve(ctx, t, w.Lab, address, 60, 6); answers["web1"] != 0 || answers["web2"] == 0 || answers["web3"] == 0 {
		t.Errorf("visitors of a drained instance: %v", answers)
	}
	if answer := order("ready"); answer.Admin != "ready" {
		t.Errorf("ready: %+v", answer)
	}
	w.forget(ctx, t)
	labtest.Reach(ctx, t, w.Lab, address, 3)
}

// forget has the visitors' tor forget the descriptors that it has.
func (w *town) forget(ctx context.Context, t *testing.T) {
	visitor := control.New(control.Config{Dial: control.DialTarget(w.Net.Client(lab.Client).ControlAddress()),
		CookieFile: filepath.Join(w.Net.Dir(), lab.Client, "control_auth_cookie")})
	running, end := context.WithCancel(ctx)
	defer end()
	go func() { _ = visitor.Run(running) }()
	if err := errors.Join(visitor.Ready(ctx), visitor.Signal(ctx, "NEWNYM")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // tor acts on it within that
}

// ownTor publishes the second address through a tor that the daemon starts.
func (w *town) ownTor(ctx context.Context, t *testing.T, address string) {
	lines, err := w.JoiningTorrc()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.Dir, "joining"), []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	d, said := w.daemon(ctx, "b", "torrc = \"joining\"")
	labtest.Reach(ctx, t, w.Lab, address, 3)
	if list := said.take(); len(list) > 0 {
		t.Errorf("a normal start warns: %q", list)
	}
	snapshot, err := status.Query(ctx, filepath.Join(w.Dir, "b-state", status.SocketName))
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
	cfg, err := config.Load(filepath.Join(w.Dir, "balancer.toml"))
	if err != nil {
		t.Fatal(err)
	}
	var found findings
	if err := Check(ctx, cfg, false, slog.New(slog.DiscardHandler), found.tell); err != nil {
		t.Fatal(err)
	}
	instances := 0
	for _, f := range found {
		if f.Level == LevelFailed {
			t.Errorf("check: %+v", f)
		}
		if strings.HasPrefix(f.What, "instance ") && strings.HasPrefix(f.Detail, "3 introduction points") {
			instances++
		}
	}
	if instances != 3 {
		t.Errorf("check found %d instances in order:\n%s", instances, found)
	}
}

// torReturns kills the manager's tor and starts it again.
func (w *town) torReturns(ctx context.Context, t *testing.T, d *Daemon, address string) {
	manager := w.Net.Client(lab.Manager)
	manager.Kill()
	for d.Snapshot().Tor.Connected {
		time.Sleep(50 * time.Millisecond)
	}
	labtest.Serve(ctx, t, w.Lab, address, 3, 1)
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
	labtest.Serve(ctx, t, w.Lab, address, 3, 1)
}
