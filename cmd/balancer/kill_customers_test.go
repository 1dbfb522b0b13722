package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/hosting"
	"onionbalancer/internal/hosting/api"
	"onionbalancer/internal/status"
)

// spareKeys makes keys of a shard that nobody has yet.
func spareKeys(t *testing.T, dir string, count int) {
	t.Helper()
	for n := range count {
		key, err := descriptor.IdentityKeyFromSeed(append(make([]byte, 30), byte(n>>8), byte(n)))
		if err != nil {
			t.Fatal(err)
		}
		spare := filepath.Join(dir, ".spares", key.Address().Label())
		if err := os.MkdirAll(spare, 0o700); err != nil {
			t.Fatal(err)
		}
		content := append([]byte("== ed25519v1-secret: type0 ==\x00\x00\x00"), key.Expanded()...)
		if err := os.WriteFile(filepath.Join(spare, "hs_ed25519_secret_key"), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A balancer that is killed in the midst of 1,000 adds by its socket has each one that was
// answered when it runs again, none twice, and answers the same requests as before.
func TestKilledWhileAddingCustomers(t *testing.T) {
	const adds, atOnce = 1000, 20
	dir := t.TempDir()
	spareKeys(t, filepath.Join(dir, "s1"), adds)
	path := filepath.Join(dir, "balancer.toml")
	// There is no tor: customers are added all the same.
	text := "state_dir = \"state\"\n[tor]\ncontrol = \"unix:" + dir + "/none\"\n[[shard]]\nname = \"s1\"\ncustomers = \"s1\"\n" +
		"[[shard.instance]]\naddress = \"zkorpcleemqj5fkprbp7k7no4sio4qrrmy72zwixbn7dhhwruajlcqid.onion\"\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	client := api.Client(filepath.Join(dir, "state", status.SocketName))
	var mu sync.Mutex
	answered := map[string]descriptor.Address{}
	for life := 0; len(answered) < adds; life++ {
		if life == 30 {
			t.Fatalf("only %d of %d adds were answered", len(answered), adds)
		}
		cmd := exec.Command("balancer", "run", "--config", path)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
			if _, err := client.Shards(t.Context()); err == nil {
				break
			} else if time.Now().After(deadline) {
				_ = cmd.Process.Kill()
				t.Fatal(err)
			}
		}
		killAt := len(answered) + 1 + rand.N(adds/2)
		if life >= 3 {
			killAt = 2 * adds // it may finish
		}
		var wait sync.WaitGroup
		for worker := range atOnce {
			wait.Go(func() {
				for n := worker; n < adds; n += atOnce {
					name := fmt.Sprint("customer", n)
					mu.Lock()
					before, known := answered[name]
					mu.Unlock()
					if known && n%7 != 0 { // a few are asked for again
						continue
					}
					c, _, err := client.Add(t.Context(), name, "", fmt.Sprint("request", n))
					if err != nil {
						return // it was killed
					}
					mu.Lock()
					if known && c.Address != before {
						t.Errorf("%s has another address than before", name)
					}
					answered[name] = c.Address
					if len(answered) == killAt {
						_ = cmd.Process.Kill()
					}
					mu.Unlock()
				}
			})
		}
		wait.Wait()
		if len(answered) == adds {
			checkAdded(t, client, dir, answered)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// checkAdded compares what a balancer has with what was answered.
func checkAdded(t *testing.T, client api.Client, dir string, answered map[string]descriptor.Address) {
	t.Helper()
	owners := map[descriptor.Address]string{}
	for c, err := range client.All(t.Context(), api.Query{Limit: 300}) {
		if err != nil {
			t.Fatal(err)
		}
		if owners[c.Address] != "" || answered[c.Name] != c.Address || c.State != hosting.Active {
			t.Errorf("%+v; %s was answered, and %q has the address", c, answered[c.Name], owners[c.Address])
		}
		owners[c.Address] = c.Name
		if _, err := os.Stat(filepath.Join(dir, "s1", c.Name, "hs_ed25519_secret_key")); err != nil {
			t.Error(err)
		}
	}
	if len(owners) != len(answered) {
		t.Errorf("%d customers are there, %d were answered", len(owners), len(answered))
	}
	if shards, err := client.Shards(t.Context()); err != nil || len(shards) != 1 || shards[0].Active != len(answered) || shards[0].Spares != 0 {
		t.Errorf("%+v, %v", shards, err)
	}
}
