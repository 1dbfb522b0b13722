package daemon

import (
	"context"
	"encoding/base32"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/config"
	"onionbalancer/internal/state"
	"onionbalancer/internal/status"
	"onionbalancer/internal/tor"
	"onionbalancer/internal/tor/control"
	"onionbalancer/testnet/sim"
)

// writeKey makes a tor key directory whose seed begins with n.
func writeKey(t *testing.T, dir string, n byte) descriptor.Address {
	t.Helper()
	key, err := descriptor.IdentityKeyFromSeed(append([]byte{n}, make([]byte, 31)...))
	if err != nil {
		t.Fatal(err)
	}
	header := append([]byte("== ed25519v1-secret: type0 =="), 0, 0, 0)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hs_ed25519_secret_key"), append(header, key.Expanded()...), 0o600); err != nil {
		t.Fatal(err)
	}
	return key.Address()
}

// parse writes a configuration file and reads it.
func parse(t *testing.T, dir, text string) *config.Config {
	t.Helper()
	path := filepath.Join(dir, "balancer.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func service(key string, instances ...*sim.Instance) string {
	text := fmt.Sprintf("[[service]]\nkey = %q\n", key)
	for n, i := range instances {
		text += fmt.Sprintf("[[service.instance]]\nname = \"web%d\"\naddress = %q\n", n+1, i.Address())
	}
	return text
}

const torTable = "[tor]\ncontrol = \"127.0.0.1:1\"\n"

// simulated runs do with a simulated network, in virtual time.
func simulated(t *testing.T, do func(t *testing.T, net *sim.Network)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		net := sim.New(sim.Config{Seed: 1})
		defer net.Close()
		do(t, net)
	})
}

// onSim runs do with a daemon of cfg on a simulated network.
func onSim(t *testing.T, net *sim.Network, cfg *config.Config, do func(d *Daemon)) {
	t.Helper()
	onPrepared(t, net, cfg, func(*Daemon) {}, do)
}

// onPrepared does the same, with prepare before the daemon starts.
func onPrepared(t *testing.T, net *sim.Network, cfg *config.Config, prepare, do func(d *Daemon)) {
	t.Helper()
	d, err := New(cfg, "test", slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	d.open = func(context.Context, *config.Config, *slog.Logger) (*tor.Pool, error) {
		return tor.NewPool(tor.New("simulated", control.New(control.Config{Dial: net.Dial}))), nil
	}
	d.serve = func() {} // a real socket would stop virtual time
	d.dialer = net.Dialer()
	prepare(d)
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	do(d)
	d.Stop()
}

func states(s status.Snapshot) string {
	var list []string
	for _, service := range s.Services {
		list = append(list, fmt.Sprintf("%s %s %d", service.Address[:4], service.State, len(service.Instances)))
	}
	return strings.Join(list, ", ")
}

func TestReload(t *testing.T) {
	dir := t.TempDir()
	a, b := writeKey(t, filepath.Join(dir, "a"), 1), writeKey(t, filepath.Join(dir, "b"), 2)
	shortA, shortB := a.String()[:4], b.String()[:4]
	simulated(t, func(t *testing.T, net *sim.Network) {
		one, two, three := net.AddInstance(sim.InstanceConfig{}), net.AddInstance(sim.InstanceConfig{}), net.AddInstance(sim.InstanceConfig{})
		time.Sleep(2 * time.Minute)
		onSim(t, net, parse(t, dir, torTable+service("a", one, two)), func(d *Daemon) {
			pass := func() { time.Sleep(time.Minute); synctest.Wait() }
			want := func(when, want string) {
				t.Helper()
				pass()
				if got := states(d.Snapshot()); got != want {
					t.Errorf("%s: %q, want %q", when, got, want)
				}
			}
			want("at first", shortA+" ok 2")
			posts := net.Tor().Counts().Posts
			if err := d.Reload(parse(t, dir, torTable+service("a", one, two))); err != nil {
				t.Error(err)
			}
			want("the same again", shortA+" ok 2")
			if n := net.Tor().Counts().Posts - posts; n != 0 {
				t.Errorf("a reload that changed nothing made %d uploads", n)
			}
			if err := d.Reload(parse(t, dir, torTable+service("a", one, two, three))); err != nil {
				t.Error(err)
			}
			want("an instance more", shortA+" ok 3")
			if err := d.Reload(parse(t, dir, torTable+service("a", three)+service("b", one))); err != nil {
				t.Error(err)
			}
			list := []string{shortA + " ok 1", shortB + " ok 1"}
			if shortB < shortA {
				list[0], list[1] = list[1], list[0]
			}
			want("a service more", strings.Join(list, ", "))
			if r := net.NewClient(a, sim.ClientConfig{}).Request(); r.Err != nil || r.Instance != three {
				t.Errorf("a request after the change: %+v", r)
			}
			// A key that cannot be opened: nothing changes, and it is said why.
			err := d.Reload(parse(t, dir, torTable+service("a", three)+service("missing", one)))
			if err == nil || !strings.Contains(err.Error(), "missing") {
				t.Errorf("a missing key: %v", err)
			}
			want("after a bad reload", strings.Join(list, ", "))
			d.ReloadFailed(fmt.Errorf("line 3: unknown key"))
			reloads := d.Snapshot().Reloads
			if n := len(reloads); n != 5 || reloads[0].Error != "" || reloads[3].Error == "" || reloads[4].Error != "line 3: unknown key" {
				t.Errorf("reloads: %+v", reloads)
			}
			if err := d.Reload(parse(t, dir, torTable+service("b", one))); err != nil {
				t.Error(err)
			}
			want("a service less", shortB+" ok 1")
		})
	})
}

// One service that cannot be opened does not keep the others from starting.
func TestOneBadServiceAtStart(t *testing.T) {
	dir := t.TempDir()
	a := writeKey(t, filepath.Join(dir, "a"), 1)
	simulated(t, func(t *testing.T, net *sim.Network) {
		one := net.AddInstance(sim.InstanceConfig{})
		time.Sleep(2 * time.Minute)
		onSim(t, net, parse(t, dir, torTable+service("missing", one)+service("a", one)), func(d *Daemon) {
			time.Sleep(time.Minute)
			synctest.Wait()
			s := d.Snapshot()
			if got := states(s); got != a.String()[:4]+" ok 1" {
				t.Errorf("services: %q", got)
			}
			// The other warning is that both services have the same instance.
			if s.LeftOut != 1 || len(s.Warnings) != 2 || !strings.Contains(s.Warnings[0], "missing") || !strings.Contains(s.Warnings[1], "are one backend") {
				t.Errorf("warnings: %q", s.Warnings)
			}
		})
	})
}

func TestNoServiceAtAll(t *testing.T) {
	dir := t.TempDir()
	cfg := parse(t, dir, torTable+"[[service]]\nkey = \"missing\"\n[[service.instance]]\naddress = \""+writeKey(t, filepath.Join(dir, "a"), 1).String()+"\"\n")
	if _, err := New(cfg, "test", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("New without any usable service: %v", err)
	}
}

func TestFileThatContradictsItself(t *testing.T) {
	dir := t.TempDir()
	a, b := writeKey(t, filepath.Join(dir, "a"), 1), writeKey(t, filepath.Join(dir, "b"), 2)
	entry := func(key string, instance descriptor.Address) string {
		return fmt.Sprintf("[[service]]\nkey = %q\n[[service.instance]]\naddress = %q\n", key, instance)
	}
	for what, text := range map[string]string{
		"own address":     entry("a", a),
		"another service": entry("a", b) + entry("b", writeKey(t, filepath.Join(dir, "c"), 3)),
	} {
		if _, err := New(parse(t, dir, torTable+text), "test", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "service") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Two balancers with one state directory would work against each other.
func TestStateDirectoryInUse(t *testing.T) {
	dir := t.TempDir()
	writeKey(t, filepath.Join(dir, "a"), 1)
	simulated(t, func(t *testing.T, net *sim.Network) {
		one := net.AddInstance(sim.InstanceConfig{})
		cfg := parse(t, dir, torTable+service("a", one))
		onSim(t, net, cfg, func(*Daemon) {
			second, err := New(cfg, "test", slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			if err := second.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "another balancer") {
				t.Errorf("a second daemon: %v", err)
			}
		})
		onSim(t, net, cfg, func(*Daemon) {}) // free again
	})
}

// A state directory that cannot be written costs the memory, not the service.
func TestStateDirectoryUnwritable(t *testing.T) {
	dir := t.TempDir()
	writeKey(t, filepath.Join(dir, "a"), 1)
	simulated(t, func(t *testing.T, net *sim.Network) {
		one := net.AddInstance(sim.InstanceConfig{})
		time.Sleep(2 * time.Minute)
		cfg := parse(t, dir, "state_dir = \"state\"\n"+torTable+service("a", one))
		// Root may write to what is read-only, but no one into a directory.
		if err := os.MkdirAll(filepath.Join(cfg.StateDir, state.File), 0o700); err != nil {
			t.Fatal(err)
		}
		onSim(t, net, cfg, func(d *Daemon) {
			time.Sleep(time.Minute)
			synctest.Wait()
			got := d.Snapshot().Services[0]
			if got.State != status.StateDegraded || !strings.Contains(strings.Join(got.Warnings, " "), "state.db") {
				t.Errorf("service: %s, %q", got.State, got.Warnings)
			}
		})
	})
}

// CAA records and clients that no descriptor has room for are refused with the file,
// not when the descriptor is made: a reload leaves the old configuration in force.
func TestNoRoomInDescriptor(t *testing.T) {
	dir := t.TempDir()
	writeKey(t, filepath.Join(dir, "a"), 1)
	instance := fmt.Sprintf("[[service.instance]]\naddress = %q\n", writeKey(t, filepath.Join(dir, "b"), 2))
	caa := func(n int) string {
		return "caa = [" + strings.Repeat(`'0 issue "ca.example"', `, n) + "]\n"
	}
	clients := func(n int) string {
		sub := filepath.Join(dir, fmt.Sprint("clients", n))
		if err := os.MkdirAll(sub, 0o700); err != nil {
			t.Fatal(err)
		}
		for i := range n {
			key := make([]byte, 32)
			key[0], key[1] = byte(i), byte(i>>8)+2
			line := "descriptor:x25519:" + base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(key)
			if err := os.WriteFile(filepath.Join(sub, fmt.Sprint(i, ".auth")), []byte(line), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return fmt.Sprintf("clients = %q\n", sub)
	}
	for _, test := range []struct{ text, want string }{
		{caa(32) + clients(300), ""},
		{caa(33), "caa: more than 32"},
		{clients(500), "clients: 500 of them leave a descriptor no room"},
	} {
		cfg := parse(t, dir, torTable+"[[service]]\nkey = \"a\"\n"+test.text+instance)
		services, err := buildAll(cfg, slog.New(slog.DiscardHandler))
		release(maps.Values(services), slog.New(slog.DiscardHandler))
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%v, want %q", err, test.want)
		}
	}
}
