package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"onionbalancer/descriptor"
	"onionbalancer/internal/clients"
)

// TestClientAdd: what is shown to the client is the other half of what the daemon
// reads, and names the service; and a client without room is refused by name.
func TestClientAdd(t *testing.T) {
	dir := t.TempDir()
	shown, err := makeKey(filepath.Join(dir, "front"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := filepath.Join(dir, "balancer.toml")
	text := "[[service]]\nkey = \"front\"\nclients = \"authorized\"\n[[service.instance]]\naddress = \"zkorpcleemqj5fkprbp7k7no4sio4qrrmy72zwixbn7dhhwruajlcqid.onion\"\n"
	if err := os.WriteFile(cfg, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("balancer", "client", "add", "alice", "--config", cfg).Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderrOf(err))
	}
	kept, err := exec.Command("balancer", "client", "add", "bob", "--config", cfg, "--out", filepath.Join(dir, "bob.auth_private")).Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderrOf(err))
	}
	file, err := os.ReadFile(filepath.Join(dir, "bob.auth_private"))
	if err != nil {
		t.Fatal(err)
	}
	place := filepath.Join(dir, "authorized")
	list, err := clients.Read(place)
	if err != nil {
		t.Fatal(err)
	}
	halves := map[descriptor.AuthorizedClient]int{}
	for _, word := range strings.Fields(string(out) + string(file)) {
		key, err := descriptor.ParseClientKey([]byte(word))
		if err != nil || strings.HasPrefix(word, "descriptor:") {
			continue
		}
		halves[key.Client()]++
		if a, has := key.Address(); has && a.String() != shown.Address {
			t.Errorf("a line for %s", a)
		}
	}
	if len(list) != 2 || halves[list[0].Key] != 2 || halves[list[1].Key] != 1 {
		t.Errorf("%+v, shown are the halves of %v", list, halves)
	}
	if secret := strings.TrimSpace(string(file[strings.LastIndexByte(string(file), ':')+1:])); strings.Contains(string(kept), secret) {
		t.Error("what is written to a file is shown as well")
	}

	for n := range new(descriptor.Contents).MaxClients(0) - 2 {
		key := descriptor.AuthorizedClient{PublicKey: [32]byte{byte(n), byte(n>>8) + 2}}
		if err := os.WriteFile(clients.Path(place, fmt.Sprint("c", n)), []byte(key.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	said, err := exec.Command("balancer", "client", "add", "zoe", "--config", cfg, "--out", filepath.Join(dir, "zoe")).CombinedOutput()
	if err == nil || !strings.Contains(string(said), "there is no room for zoe\n") {
		t.Errorf("one too many: %v\n%s", err, said)
	}
	if _, err := os.Lstat(filepath.Join(dir, "zoe")); err == nil {
		t.Error("one too many has got a key")
	}
}
