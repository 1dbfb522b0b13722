// Package archtest holds the project to its structure: imports point one way.
package archtest

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "onionbalancer/"

// layers are the packages by height: one imports only from below its own layer,
// or from its own subtree. What is not listed is at the bottom and imports nothing
// that is.
var layers = [][]string{
	{"descriptor"},
	{"internal/health", "internal/clients", "hsdir", "selection", "keystore", "internal/tor", "internal/event", "internal/state", "internal/status", "internal/etcd"},
	{"internal/check", "internal/consensus", "internal/backend", "internal/credential", "internal/probe", "internal/advice", "internal/relayset"},
	{"internal/balance", "internal/standby", "internal/config", "internal/logging", "internal/hosting", "internal/cluster"},
	{"internal/daemon"},
	{"testnet"},
	{"cmd", "bench"},
}

// forbidden are imports that the layers alone would allow, directly or not.
var forbidden = []struct{ from, to string }{
	{"hsdir", "keystore"}, {"hsdir", "internal/event"}, {"selection", "hsdir"},
	{"keystore", "hsdir"}, {"keystore", "selection"}, {"keystore", "internal/tor"},
	{"internal/tor", "hsdir"}, {"internal/tor", "selection"}, {"internal/tor", "keystore"},
	{"internal/backend", "internal/credential"}, {"internal/credential", "internal/backend"},
	{"internal/backend", "selection"}, {"internal/credential", "hsdir"}, {"internal/credential", "selection"},
	{"internal/balance", "keystore"}, {"internal/balance", "internal/tor"}, {"internal/balance", "internal/config"},
	{"internal/standby", "keystore"}, {"internal/standby", "internal/tor"}, {"internal/standby", "internal/balance"},
	{"internal/check", "internal/tor"}, {"internal/advice", "internal/backend"}, {"internal/advice", "hsdir"}, {"internal/relayset", "internal/tor"},
	{"internal/etcd", "internal/state"}, {"internal/etcd", "descriptor"}, {"internal/cluster", "internal/tor"}, {"internal/cluster", "internal/config"}, {"internal/cluster", "keystore"},
	{"internal/daemon", "testnet"},
}

func within(pkg, room string) bool { return pkg == room || strings.HasPrefix(pkg, room+"/") }

// layer returns the height of a package; -1 is the bottom.
func layer(pkg string) int {
	return slices.IndexFunc(layers, func(rooms []string) bool {
		return slices.ContainsFunc(rooms, func(room string) bool { return within(pkg, room) })
	})
}

func TestImports(t *testing.T) {
	cmd := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}} | {{join .Deps " "}}`, "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	packages := 0
	for line := range strings.Lines(string(out)) {
		direct, all, _ := strings.Cut(strings.TrimSpace(line), " | ")
		names := strings.Fields(direct)
		from, found := strings.CutPrefix(names[0], module)
		if !found {
			continue
		}
		packages++
		for _, name := range names[1:] {
			if to, ours := strings.CutPrefix(name, module); ours && layer(to) > layer(from) {
				t.Errorf("%s imports %s, which is above it", from, to)
			}
		}
		for _, name := range strings.Fields(all) {
			to, ours := strings.CutPrefix(name, module)
			if ours && slices.ContainsFunc(forbidden, func(f struct{ from, to string }) bool { return within(from, f.from) && within(to, f.to) }) {
				t.Errorf("%s depends on %s", from, to)
			}
		}
	}
	if packages < 30 {
		t.Fatalf("%d packages found: the test shows nothing", packages)
	}
	for _, rooms := range layers {
		for _, room := range rooms {
			if !strings.Contains(string(out), module+room) {
				t.Errorf("there is no %s any more", room)
			}
		}
	}
}
