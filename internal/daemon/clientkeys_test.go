package daemon

import (
	"bufio"
	"context"
	"crypto/rand"
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
	"onionbalancer/internal/tor"
	"onionbalancer/internal/tor/control"
	"onionbalancer/testnet/sim"
)

// keyring is a tor's control port with the commands for client keys, which it takes its
// time for.
type keyring struct {
	dial func(context.Context) (net.Conn, error)

	mu  sync.Mutex
	has map[string]bool // by label
}

func (k *keyring) Dial(ctx context.Context) (net.Conn, error) {
	up, err := k.dial(ctx)
	if err != nil {
		return nil, err
	}
	ours, theirs := net.Pipe()
	go func() { _, _ = io.Copy(ours, up); ours.Close() }()
	go func() {
		defer up.Close()
		lines := bufio.NewReader(ours)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			if command, rest, _ := strings.Cut(strings.TrimSpace(line), " "); strings.HasPrefix(command, "ONION_CLIENT_AUTH_") {
				time.Sleep(100 * time.Millisecond)
				_, _ = io.WriteString(ours, k.answer(command, rest[:56]))
			} else if _, err := io.WriteString(up, line); err != nil {
				return
			}
		}
	}()
	return theirs, nil
}

func (k *keyring) answer(command, label string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch command {
	case "ONION_CLIENT_AUTH_VIEW":
		if k.has[label] {
			return fmt.Sprintf("250-ONION_CLIENT_AUTH_VIEW %s\r\n250-CLIENT %s x25519:AAAA ClientName=balancer\r\n250 OK\r\n", label, label)
		}
		return fmt.Sprintf("250-ONION_CLIENT_AUTH_VIEW %s\r\n250 OK\r\n", label)
	case "ONION_CLIENT_AUTH_ADD":
		k.has[label] = true
	default:
		delete(k.has, label)
	}
	return "250 OK\r\n"
}

// A tor that goes on running has no client keys of the manager's any more once that has
// stopped: neither of instances nor of addresses that were visited.
func TestClientKeysAreTakenBack(t *testing.T) {
	dir := t.TempDir()
	writeKey(t, filepath.Join(dir, "a"), 1)
	key, err := descriptor.NewClientKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	simulated(t, func(t *testing.T, net *sim.Network) {
		one := net.AddInstance(sim.InstanceConfig{Clients: []descriptor.AuthorizedClient{key.Client()}})
		file := filepath.Join(dir, "web1.auth_private")
		if err := os.WriteFile(file, fmt.Appendf(nil, "%s:descriptor:x25519:%s\n", one.Address().Label(), key.Text()), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		cfg := parse(t, dir, torTable+service("a", one)+fmt.Sprintf("client_key = %q\n", file))
		ring := &keyring{dial: net.Dial, has: map[string]bool{}}
		d, err := New(cfg, "test", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		d.open = func(context.Context, *config.Config, *slog.Logger) (*tor.Pool, error) {
			return tor.NewPool(tor.New("simulated", control.New(control.Config{Dial: ring.Dial}))), nil
		}
		d.serve = func() {}
		if err := d.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		visited := d.cfg.Services[0].Instances[0].Spec
		visited.Address = descriptor.Address{7}
		d.rooms.checks.Visit(t.Context(), visited, key)
		synctest.Wait()
		ring.mu.Lock()
		if len(ring.has) != 2 {
			t.Errorf("while it runs, tor has %d client keys, want 2", len(ring.has))
		}
		ring.mu.Unlock()
		d.Stop()
		ring.mu.Lock()
		defer ring.mu.Unlock()
		if len(ring.has) != 0 {
			t.Errorf("tor still has the keys for %v", ring.has)
		}
	})
}
