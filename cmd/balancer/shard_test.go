package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// runShard runs "balancer shard" with args, whose answer it decodes.
func runShard[T any](t *testing.T, args ...string) (answer T) {
	t.Helper()
	said := sayShard(t, append(args, "--json")...)
	if err := json.Unmarshal([]byte(said), &answer); err != nil || strings.Contains(said, "null") {
		t.Fatalf("%v: %s", err, said)
	}
	return answer
}

// sayShard is runShard for what it prints.
func sayShard(t *testing.T, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	root := newRootCommand()
	root.SetArgs(append([]string{"shard"}, args...))
	root.SetOut(&out)
	root.SetErr(t.Output())
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Fatalf("shard %s: %v", strings.Join(args, " "), err)
	}
	return out.String()
}

// A shard is made, filled again and told of without a balancer that runs. The files of a
// replica that was replaced keep new keys from becoming spares, and the command says so.
func TestShardCommands(t *testing.T) {
	dir := t.TempDir()
	customers, file := filepath.Join(dir, "s1"), filepath.Join(dir, "balancer.toml")
	made := runShard[shardNew](t, "new", "s1", "--customers", customers, "--replica", "web1", "--replica", "web2", "--keys", "3")
	configure := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("state_dir = \"state\"\n"+text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	configure(made.Configuration)
	if s := runShard[shardInstalled](t, "installed", "s1", "--config", file); s.Spares != 3 || s.Pending != 0 || s.Daemon {
		t.Errorf("installed: %+v", s)
	}
	if r := runShard[shardRefill](t, "refill", "s1", "--spares", "3", "--config", file); r.Made != 0 || len(r.Changed) != 0 || len(r.Unused) != 0 {
		t.Errorf("nothing to make: %+v", r)
	}
	configure(strings.Replace(made.Configuration, "web2", "web3", 1))
	if r := runShard[shardRefill](t, "refill", "s1", "--spares", "5", "--config", file); r.Made != 2 || r.Lines != 5 || !slices.Equal(r.Changed, []string{"web1", "web3"}) || !slices.Equal(r.Unused, []string{"web2"}) {
		t.Errorf("with another replica: %+v", r)
	}
	unused := filepath.Join(customers, ".replicas", "web2")
	if out := sayShard(t, "refill", "s1", "--spares", "5", "--config", file); !strings.Contains(out, "rm -r "+unused+"\n") {
		t.Error(out)
	}
	if s := runShard[shardInstalled](t, "installed", "s1", "--config", file); s.Spares != 3 || s.Pending != 2 {
		t.Errorf("installed, with the old files: %+v", s)
	}
	if err := os.RemoveAll(unused); err != nil {
		t.Fatal(err)
	}
	if s := runShard[shardInstalled](t, "installed", "s1", "--config", file); s.Spares != 5 || s.Pending != 0 {
		t.Errorf("installed: %+v", s)
	}
	list := runShard[[]shardView](t, "list", "--config", file)
	if len(list) != 1 || list[0].Lines != 5 || !slices.Equal(list[0].Replicas, []string{"web1", "web3"}) {
		t.Errorf("%+v", list)
	}
}
