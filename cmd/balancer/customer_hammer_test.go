package main

import (
	be "encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"onionbalancer/descriptor"
	"onionbalancer/internal/hosting"
	"onionbalancer/internal/hosting/api"
	"onionbalancer/internal/hosting/api/apitest"
	"onionbalancer/internal/status"
)

// hammered is a balancer without a tor, with a shard.
type hammered struct {
	t       *testing.T
	process *exec.Cmd
	client  api.Client
	config  string
}

// newHammered makes a shard with spares, and starts balancer.
func newHammered(t *testing.T, spares int) *hammered {
	t.Helper()
	dir, err := os.MkdirTemp("", "hammer") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for n := range spares {
		writeSpare(t, filepath.Join(dir, "s1"), n)
	}
	h := &hammered{t: t, config: filepath.Join(dir, "balancer.toml"), client: api.Client(filepath.Join(dir, "state", status.SocketName))}
	text := fmt.Sprintf("state_dir = \"state\"\n[tor]\ncontrol = \"127.0.0.1:1\"\n[[shard]]\nname = \"s1\"\ncustomers = \"s1\"\n[[shard.instance]]\naddress = %q\n", apitest.Address(1))
	if err := os.WriteFile(h.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	h.start()
	return h
}

// writeSpare writes the n-th spare key of the shard in dir, where "balancer shard" puts
// it, which waits for the disk each time.
func writeSpare(t *testing.T, dir string, n int) {
	t.Helper()
	seed := make([]byte, 32)
	be.BigEndian.PutUint64(seed, uint64(n)+2)
	key, err := descriptor.IdentityKeyFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	spare := filepath.Join(dir, ".spares", key.Address().Label())
	header := append([]byte("== ed25519v1-secret: type0 =="), 0, 0, 0)
	if err := errors.Join(os.MkdirAll(spare, 0o700), os.WriteFile(filepath.Join(spare, "hs_ed25519_secret_key"), append(header, key.Expanded()...), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// start starts balancer, and waits until it answers.
func (h *hammered) start() {
	h.t.Helper()
	h.process = exec.Command("balancer", "run", "--config", h.config)
	if err := h.process.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = h.process.Process.Kill(); _ = h.process.Wait() })
	for range 1000 {
		if s, err := h.client.Shards(h.t.Context()); err == nil && len(s) > 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	h.t.Fatal("no balancer answers")
}

// resident is the memory of the process, in MiB.
func (h *hammered) resident() int {
	h.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.process.Process.Pid))
	if err != nil {
		h.t.Fatal(err)
	}
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(text)
	if m == nil {
		h.t.Fatalf("no VmRSS in %s", text)
	}
	kib, _ := strconv.Atoi(string(m[1]))
	return kib >> 10
}

// TestHammerDaemon: a balancer as it is installed answers each of many requests at a time,
// none with 500, and its customers are who was added.
func TestHammerDaemon(t *testing.T) {
	count, rate := 500, 0
	if os.Getenv("BALANCER_SOAK") != "" {
		count, rate = 10_000, 1000
	}
	h := newHammered(t, count/5)
	before, start := h.resident(), time.Now()
	answers := apitest.Hammer(t, string(h.client), count, rate)
	t.Logf("%d requests in %v: %v; %d MiB resident, then %d", count, time.Since(start), answers, before, h.resident())
	if answers[0] > 0 || answers[500] > 0 || answers[503] > 0 {
		t.Errorf("unanswered or failed: %v", answers)
	}
	names, addresses := 0, make(map[string]bool)
	for _, state := range []hosting.State{"", hosting.Removed} {
		for c, err := range h.client.All(t.Context(), api.Query{State: state}) {
			if err != nil {
				t.Fatal(err)
			}
			names++
			addresses[c.Address.String()] = true
		}
	}
	if names != answers[201] || len(addresses) != names {
		t.Errorf("%d customers with %d addresses, and %d were added", names, len(addresses), answers[201])
	}
	if grown := h.resident() - before; grown > 100+answers[201]/5 {
		t.Errorf("it has grown by %d MiB", grown)
	}
}

// TestKilledDuringAdds: a balancer is killed in the midst of many adds. Who was answered is
// there, under that address, when it runs again, and who asks again is there once.
func TestKilledDuringAdds(t *testing.T) {
	const count = 1000
	h := newHammered(t, count)
	name := func(n int) string { return fmt.Sprintf("c%04d", n) }
	var mu sync.Mutex
	answered := make(map[string]descriptor.Address)
	kill := sync.OnceFunc(func() { _ = h.process.Process.Kill() })
	inParallel(count, func(n int) {
		d, _, err := h.client.Add(t.Context(), name(n), "", "")
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			answered[name(n)] = d.Address
		}
		if len(answered) >= count/3 {
			kill()
		}
	})
	if len(answered) == count {
		t.Error("all were answered: the test shows nothing")
	}
	_ = h.process.Wait()
	h.start()
	t.Logf("%d of %d were answered", len(answered), count)
	for n, want := range answered {
		if d, err := h.client.Customer(t.Context(), n); err != nil || d.Address != want || d.State != hosting.Active {
			t.Errorf("%s, who was answered %s: %s, %s, %v", n, want, d.Address, d.State, err)
		}
	}
	inParallel(count, func(n int) {
		if _, _, err := h.client.Add(t.Context(), name(n), "", ""); err != nil {
			t.Error(err)
		}
	})
	names, addresses := make(map[string]int), make(map[descriptor.Address]bool)
	for c, err := range h.client.All(t.Context(), api.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		names[c.Name]++
		addresses[c.Address] = true
	}
	if len(names) != count || len(addresses) != count {
		t.Errorf("%d names and %d addresses", len(names), len(addresses))
	}
	for n, times := range names {
		if times > 1 {
			t.Errorf("%s is there %d times", n, times)
		}
	}
}

// inParallel calls do with the numbers below count, many at a time.
func inParallel(count int, do func(n int)) {
	var group errgroup.Group
	group.SetLimit(50)
	for n := range count {
		group.Go(func() error { do(n); return nil })
	}
	_ = group.Wait()
}
