package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"onionbalancer/keystore/token"
)

// rootCases are, for each command that writes or starts anything, command lines
// that have it do so in the directory theirs, which belongs to nobody.
var rootCases = map[string][][]string{
	"run":   {{"--config", "balancer.toml"}, {"--config", "theirs/balancer.toml"}},
	"check": {{"--config", "balancer.toml"}, {"--offline", "--json", "--config", "balancer.toml"}},
	"plan":  {{"--config", "balancer.toml"}, {"--json", "--config", "theirs/balancer.toml"}},
	"key new": {
		{"theirs/new"}, {"theirs/new.pem"},
		{"--seal", "pkcs11:object=x?module-path=/none&x-sealed=theirs/x", "--no-backup"},
		{"--seal", "pkcs11:object=x?module-path=/none&x-sealed=x", "--backup", "theirs/x"},
		{"--seal", "pkcs11:object=x?module-path=/none&x-sealed=x", "--spare", "pkcs11:object=y?module-path=/none&x-sealed=theirs/x"},
	},
	"key csr":    {{"--ca-nonce", "8rDWGfoV1TpKu7Kl", "--out", "theirs/x", "front"}},
	"key seal":   {{"front", "--with", "pkcs11:object=x?module-path=/none&x-sealed=theirs/x"}},
	"key rewrap": {{"pkcs11:object=x?x-sealed=y", "--with", "pkcs11:object=x?module-path=/none", "--out", "theirs/x"}},
	"client add": {
		{"alice", "--config", "balancer.toml"}, {"alice", "--config", "theirs.toml"}, {"alice", "--config", "mine.toml", "--out", "theirs/x"},
	},
	"client remove": {{"alice", "--config", "balancer.toml"}, {"alice", "--config", "theirs.toml"}},
	"ceremony request": {
		{"--dir", "theirs/off", "--out", "x"}, {"--dir", "theirs/new", "ADDRESS", "--out", "x"},
		{"--dir", "x", "ADDRESS", "--out", "theirs/x"}, {"--dir", "x", "ADDRESS", "--out", "y", "--split", "theirs/x"},
	},
	"ceremony sign":    {{"request.json", "--key", "front", "--out", "theirs/x", "--yes", "x"}, {"request.json", "--key", "front", "--split", "theirs/x", "--yes", "x"}},
	"ceremony install": {{"request.json", "--dir", "theirs/off"}},
	"descriptor fetch": {{"--config", "balancer.toml", "ADDRESS"}},
	"hsdirs":           {{"--config", "balancer.toml", "ADDRESS"}},
	"testnet up":       {{"--dir", "theirs/net"}, {"--detach", "--dir", "theirs/net"}},
	"testnet down":     {{"--dir", "theirs/net"}},
	"testnet status":   {{"--dir", "theirs"}},
	"demo":             {{"--dir", "theirs/demo"}},
	"shard new":        {{"s1", "--replica", "web1", "--customers", "theirs/new"}},
	"shard refill":     {{"s1", "--config", "shard.toml"}},
	"shard installed":  {{"s1", "--config", "shard.toml"}},
	"cluster key":      {{"theirs/x"}, {"--rotate", "add", "theirs/x"}},
	"customer import":  {{"front", "--shard", "s1", "--config", "shard.toml"}},
}

// onlyRead are the commands that write and start nothing.
var onlyRead = []string{
	"status", "drain", "ready", "maint", "weight", "load", "state show", "key show", "key caa", "client list", "ceremony show", "shard list", "descriptor show", "descriptor verify",
	"customer add", "customer suspend", "customer resume", "customer remove", "customer move", "customer list", "customer show", "customer events",
	"cluster status", "cluster drain", "cluster undrain", "cluster forget", "cluster restore",
	"version", "help",
	"completion bash", "completion zsh", "completion fish", "completion powershell", token.HelperArgument,
}

// TestRootInAnothersDirectory: root does nothing where another user could have it
// do anything, and is told how to do it as that user.
func TestRootInAnothersDirectory(t *testing.T) {
	root := newRootCommand()
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		path := strings.TrimPrefix(cmd.CommandPath(), "balancer ")
		if !cmd.HasSubCommands() && (rootCases[path] == nil) != slices.Contains(onlyRead, path) {
			t.Errorf("does %s write or start anything?", path)
		}
		for _, c := range cmd.Commands() {
			walk(c)
		}
	}
	walk(root)
	if os.Geteuid() != 0 {
		t.Skip("only root can give directories away")
	}
	dir := t.TempDir()
	address := anothersDirectory(t, dir)
	before := listing(t, dir)
	for path, list := range rootCases {
		for _, args := range list {
			line := strings.Fields(path)
			for _, arg := range args {
				line = append(line, strings.ReplaceAll(arg, "ADDRESS", address))
			}
			out := runHere(t, dir, line...)
			if want := "\nrun: runuser -u nobody -- balancer " + strings.Join(line[:len(strings.Fields(path))], " "); !strings.Contains(out, want) {
				t.Errorf("%q: no line to use instead:\n%s", line, out)
			}
			if after := listing(t, dir); after != before {
				t.Fatalf("%q: there were\n%s\nand now are\n%s", line, before, after)
			}
		}
	}
}

// anothersDirectory makes a directory of nobody's in dir, and returns the address
// of the key beside it.
func anothersDirectory(t *testing.T, dir string) string {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	const nobody = 65534
	must(os.MkdirAll(filepath.Join(dir, "theirs", "state"), 0o755))
	runHere(t, dir, "key", "new", "front")
	hostname, err := os.ReadFile(filepath.Join(dir, "front", "hostname"))
	must(err)
	address := strings.TrimSpace(string(hostname))
	runHere(t, dir, "ceremony", "request", "--dir", "theirs/off", address, "--out", "request.json", "--periods", "2")
	service := "[[service]]\nkey = \"/front\"\n[[service.instance]]\naddress = \"zkorpcleemqj5fkprbp7k7no4sio4qrrmy72zwixbn7dhhwruajlcqid.onion\"\n"
	for name, state := range map[string]string{"balancer.toml": "theirs/state", "theirs/balancer.toml": dir + "/state"} {
		text := fmt.Sprintf("state_dir = %q\n", state) + strings.Replace(service, "/front", dir+"/front", 1)
		must(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	shard := "[[shard]]\nname = \"s1\"\ncustomers = \"theirs\"\n" + strings.ReplaceAll(strings.SplitAfterN(service, "\n", 3)[2], "service", "shard")
	must(os.WriteFile(filepath.Join(dir, "shard.toml"), []byte(shard), 0o600))
	for _, whose := range []string{"theirs", "mine"} {
		text := strings.Replace(service, "/front", dir+"/front\"\nclients = \""+whose, 1)
		must(os.WriteFile(filepath.Join(dir, whose+".toml"), []byte(text), 0o600))
	}
	must(filepath.WalkDir(filepath.Join(dir, "theirs"), func(path string, _ fs.DirEntry, err error) error {
		must(err)
		return os.Lchown(path, nobody, nobody)
	}))
	return address
}

// listing is what there is below dir.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			fmt.Fprintf(&b, "%v %d %v %s\n", info.Mode(), info.Size(), info.ModTime().UnixNano(), path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
