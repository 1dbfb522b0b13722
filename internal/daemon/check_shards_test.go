package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/hosting"
	"onionbalancer/internal/probe"
	"onionbalancer/internal/state"
	"onionbalancer/internal/tor"
	"onionbalancer/internal/tor/control"
	"onionbalancer/testnet/sim"
)

// anyInstance is the address of an instance that nobody fetches.
const anyInstance = "zkorpcleemqj5fkprbp7k7no4sio4qrrmy72zwixbn7dhhwruajlcqid.onion"

func shardTable(name, customers string) string {
	return fmt.Sprintf("[[shard]]\nname = %q\ncustomers = %q\n[[shard.instance]]\nname = \"web1\"\naddress = %q\n", name, customers, anyInstance)
}

// spareKey makes the nth key a spare of the shard in dir.
func spareKey(t *testing.T, dir string, n byte) descriptor.Address {
	t.Helper()
	a := writeKey(t, filepath.Join(dir, "new"), n)
	spares := filepath.Join(dir, ".spares")
	if err := errors.Join(os.MkdirAll(spares, 0o700), os.Rename(filepath.Join(dir, "new"), filepath.Join(spares, a.Label()))); err != nil {
		t.Fatal(err)
	}
	return a
}

// wholeShard makes a shard with two customers and five spares, of which it returns one, and the
// files of its replica.
func wholeShard(t *testing.T, dir string) (shop, blog, spare descriptor.Address) {
	t.Helper()
	shop, blog = writeKey(t, filepath.Join(dir, "shop"), 1), writeKey(t, filepath.Join(dir, "blog"), 2)
	for n := range byte(hosting.FewSpares) {
		spare = spareKey(t, dir, 100+n)
	}
	writeLines(t, dir)
	return shop, blog, spare
}

// writeLines writes the ob_config of the shard's replica.
func writeLines(t *testing.T, dir string) {
	t.Helper()
	d, err := hosting.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := d.Lines()
	if err == nil {
		_, err = d.WriteLines("s1", "web1", lines)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestCheckShards(t *testing.T) {
	for name, test := range map[string]struct {
		harm func(t *testing.T, dir string) error
		more string   // tables
		want []string // findings; none but ok of the whole
	}{
		"whole":            {nil, "", nil},
		"no directory":     {func(t *testing.T, dir string) error { return os.RemoveAll(dir) }, "", []string{"failed shard s1: opening the directory of a shard: ", "balancer shard new s1"}},
		"others may write": {func(t *testing.T, dir string) error { return os.Chmod(dir, 0o777) }, "", []string{"failed shard s1: ", "chmod go-w"}},
		"a key to read": {func(t *testing.T, dir string) error {
			return os.Chmod(filepath.Join(dir, "shop/hs_ed25519_secret_key"), 0o644)
		}, "", []string{"failed shard s1: ", "chmod 600"}},
		"a damaged key": {func(t *testing.T, dir string) error {
			return os.WriteFile(filepath.Join(dir, "shop/hs_ed25519_secret_key"), []byte("=="), 0o600)
		}, "", []string{"failed shard s1: opening key "}},
		"a foreign file": {func(t *testing.T, dir string) error { return os.WriteFile(filepath.Join(dir, "notes"), nil, 0o600) }, "", []string{"warning shard s1: ", "notes is not a customer's: it is not a directory -> move it elsewhere"}},
		"no spares":      {func(t *testing.T, dir string) error { return os.RemoveAll(filepath.Join(dir, ".spares")) }, "", []string{"warning shard s1: no spare key", "balancer shard refill s1"}},
		"a line missing": {func(t *testing.T, dir string) error { spareKey(t, dir, 4); return nil }, "", []string{"failed shard s1: the ob_config that was written for web1 lacks 1 line that it should answer for"}},
		"no files":       {func(t *testing.T, dir string) error { return os.RemoveAll(filepath.Join(dir, ".replicas")) }, "", []string{"warning shard s1: no files were written for the replica web1"}},
		"an empty ob_config": {func(t *testing.T, dir string) error {
			return os.WriteFile(filepath.Join(dir, ".replicas/web1/ob_config"), nil, 0o600)
		}, "", []string{"warning shard s1: ", "no address: tor crashes"}},
		"sealed, no token": {func(t *testing.T, dir string) error {
			return os.Rename(filepath.Join(dir, "shop/hs_ed25519_secret_key"), filepath.Join(dir, "shop/key.sealed"))
		}, "", []string{"failed shard s1: opening sealed key"}},
		"a wrong spare": {func(t *testing.T, dir string) error {
			a, err := descriptor.ParseAddress(anyInstance)
			if err != nil {
				return err
			}
			return os.Rename(filepath.Join(dir, "blog"), filepath.Join(dir, ".spares", a.Label()))
		}, "", []string{"failed shard s1: ", "whoever gets it could not be visited"}},
		"a service's key": {nil, "[[service]]\nkey = \"s1/shop\"\n[[service.instance]]\naddress = \"cf5mytdfe5ldzihkeiksupcesqgk5cdvdfwymtapb2ktmlftxbfjcaid.onion\"\n",
			[]string{"failed addresses: ", "a customer of the shard \"s1\""}},
		"one directory": {func(t *testing.T, dir string) error { return os.Symlink(dir, dir+"-too") }, shardTable("s2", "s1-too"),
			[]string{"failed shard s2: it has the same directory as the shard s1"}},
		"a customer twice": {func(t *testing.T, dir string) error {
			writeKey(t, filepath.Join(dir+"b", "shop"), 1)
			return nil
		}, shardTable("s2", "s1b"), []string{"warning shard s2: customer shop is in the shard s1 as well", "balancer customer move shop s2"}},
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			dir := filepath.Join(top, "s1")
			wholeShard(t, dir)
			if test.harm != nil {
				if err := test.harm(t, dir); err != nil {
					t.Fatal(err)
				}
			}
			said := checkOffline(t, top, "state_dir = \"state\"\n"+shardTable("s1", "s1")+test.more)
			for _, want := range test.want {
				if !strings.Contains(said, want) {
					t.Errorf("no %q in\n%s", want, said)
				}
			}
			if bad := strings.Contains(said, "failed ") || strings.Contains(said, "warning shard"); bad != (test.want != nil) {
				t.Errorf("said\n%s", said)
			}
		})
	}
}

// checkOffline returns the findings about a configuration.
func checkOffline(t *testing.T, dir, text string) string {
	t.Helper()
	var found findings
	if err := Check(t.Context(), parse(t, dir, text), true, slog.New(slog.DiscardHandler), found.tell); err != nil {
		t.Fatal(err)
	}
	return found.String()
}

// TestCheckShardCounts: what is good of a shard is said as well.
func TestCheckShardCounts(t *testing.T) {
	dir := t.TempDir()
	wholeShard(t, filepath.Join(dir, "s1"))
	said := checkOffline(t, dir, "state_dir = \"state\"\n"+shardTable("s1", "s1"))
	for _, want := range []string{"ok shard s1: 2 customers, 5 spares, 0 keys pending; 7 lines in the ob_config of its replicas", "ok shard s1: 7 keys opened"} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in\n%s", want, said)
		}
	}
}

// TestCheckCustomerRecords: a customer on record has its key, or had it given just now.
func TestCheckCustomerRecords(t *testing.T) {
	dir := t.TempDir()
	shop, _, spare := wholeShard(t, filepath.Join(dir, "s1"))
	unknown, err := descriptor.ParseAddress("cf5mytdfe5ldzihkeiksupcesqgk5cdvdfwymtapb2ktmlftxbfjcaid.onion")
	if err != nil {
		t.Fatal(err)
	}
	store, err := state.Open(filepath.Join(dir, "state"), state.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []hosting.Customer{
		{Name: "shop", Address: shop, Shard: "s1", State: hosting.Active},
		{Name: "new", Address: spare, Shard: "s1", State: hosting.Active},
		{Name: "lost", Address: unknown, Shard: "s1", State: hosting.Suspended},
	} {
		change, err := state.Put(state.CustomerKey(c.Address), 0, c)
		if err == nil {
			_, err = store.Swap(t.Context(), change)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	said := checkOffline(t, dir, "state_dir = \"state\"\n"+shardTable("s1", "s1"))
	if !strings.Contains(said, "failed shard s1: there is no key for the customer lost") || strings.Count(said, "failed ") != 1 {
		t.Errorf("said\n%s", said)
	}
	said = checkOffline(t, dir, "state_dir = \"state\"\n"+shardTable("s2", "s1"))
	if !strings.Contains(said, `warning customers: 3 customers of the shard "s1", which the configuration does not have`) {
		t.Errorf("said\n%s", said)
	}
}

// TestCheckShardModes: the files are root's to check for the user who will run.
func TestCheckShardModes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root")
	}
	dir := t.TempDir()
	wholeShard(t, filepath.Join(dir, "s1"))
	if err := filepath.WalkDir(filepath.Join(dir, "s1"), func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, 65534, 65534))
	}); err != nil {
		t.Fatal(err)
	}
	if said := checkOffline(t, dir, "state_dir = \"state\"\n"+shardTable("s1", "s1")); strings.Contains(said, "failed shard") {
		t.Errorf("said\n%s", said)
	}
}

// TestCheckManyKeys: of many faults some are told.
func TestCheckManyKeys(t *testing.T) {
	dir := t.TempDir()
	for n := range 40 {
		name := filepath.Join(dir, "s1", fmt.Sprint("customer", n))
		writeKey(t, name, byte(n))
		if n%2 == 0 {
			if err := os.WriteFile(filepath.Join(name, "hs_ed25519_secret_key"), []byte(time.Now().String()), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	said := checkOffline(t, dir, "state_dir = \"state\"\n"+shardTable("s1", "s1"))
	if told := strings.Count(said, "customer"); !strings.Contains(said, "10 more of its keys cannot be used") || told > 40 {
		t.Errorf("told of %d in\n%s", told, said)
	}
}

// TestCheckShardInstances: the instances of a shard are fetched as those of a service.
func TestCheckShardInstances(t *testing.T) {
	dir := t.TempDir()
	wholeShard(t, filepath.Join(dir, "s1"))
	simulated(t, func(t *testing.T, net *sim.Network) {
		one := net.AddInstance(sim.InstanceConfig{})
		time.Sleep(2 * time.Minute)
		text := strings.Replace(shardTable("s1", "s1"), anyInstance, one.Address().String(), 1)
		ctx, cancel := context.WithCancel(t.Context())
		client := control.New(control.Config{Dial: net.Dial})
		ended := make(chan struct{})
		go func() { defer close(ended); _ = client.Run(ctx) }()
		defer func() { cancel(); <-ended }()
		conn := tor.New("simulated", client)
		if err := conn.Ready(ctx); err != nil {
			t.Fatal(err)
		}
		var found findings
		c := &checker{cfg: parse(t, dir, "state_dir = \"state\"\n"+text), log: slog.New(slog.DiscardHandler), tell: found.tell}
		c.checkKeys(ctx)
		consensus := c.checkConsensus(ctx, conn)
		if len(c.shards) != 1 || consensus == nil {
			t.Fatalf("%d shards, consensus %v\n%s", len(c.shards), consensus, found)
		}
		c.checkInstances(ctx, conn, consensus, "shard "+c.shards[0].name, c.shards[0].Config)
		for _, want := range []string{"ok instance s1 web1: 3 introduction points", "ok shard s1: all 3 introduction points of 1 instance fit"} {
			if !strings.Contains(found.String(), want) {
				t.Errorf("no %q in\n%s", want, found)
			}
		}
	})
}

// TestCheckShardProbes: the line of a probe address is written with the others.
func TestCheckShardProbes(t *testing.T) {
	dir := t.TempDir()
	wholeShard(t, filepath.Join(dir, "s1"))
	said := func() string {
		return checkOffline(t, dir, "state_dir = \"state\"\ncheck = { probe = true }\n"+shardTable("s1", "s1"))
	}
	if got := said(); !strings.Contains(got, "warning probe address of s1 web1: balancer makes it at its start") {
		t.Errorf("before the first start:\n%s", got)
	}
	instance, err := descriptor.ParseAddress(anyInstance)
	if err != nil {
		t.Fatal(err)
	}
	store, err := state.Open(filepath.Join(dir, "state"), state.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	key, err := probe.Open(store, instance)
	if err := errors.Join(err, store.Close()); err != nil {
		t.Fatal(err)
	}
	if got := said(); !strings.Contains(got, "warning probe address of s1 web1: the ob_config that was written for it lacks the line") {
		t.Errorf("without the line:\n%s", got)
	}
	d, err := hosting.OpenDir(filepath.Join(dir, "s1"))
	if err != nil {
		t.Fatal(err)
	}
	lines, err := d.Lines()
	if err == nil {
		_, err = d.WriteLines("s1", "web1", append(lines, key.Address()))
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := said(); !strings.Contains(got, "ok probe address of s1 web1: its ob_config has the line") || strings.Contains(got, "failed ") {
		t.Errorf("with the line:\n%s", got)
	}
}
