package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"onionbalancer/internal/socket"
	"onionbalancer/internal/status"
)

var statusNow = time.Date(2026, 11, 20, 9, 30, 0, 0, time.UTC)

// wellSnapshot is of a daemon that needs nobody.
func wellSnapshot() status.Snapshot {
	return status.Snapshot{
		Version: "v1", PID: 7, Now: statusNow, Started: statusNow.Add(-time.Hour), Config: "/etc/balancer/balancer.toml", Loaded: statusNow.Add(-time.Minute),
		Tors: []status.Tor{{Name: "tor-1", Connected: true, Serving: true, Version: "0.4.8.1", Control: "unix:/run/tor/control"},
			{Name: "tor-2", Version: "0.4.8.1", Control: "unix:/run/tor/two", Error: "it is gone"}},
		Consensus: status.Consensus{Known: true, ValidAfter: statusNow.Add(-30 * time.Minute), NextChange: statusNow.Add(150 * time.Minute), HSDirs: 4000},
		Services: []status.Service{{
			Address: "a.onion", State: status.StateOK, Strategy: "spread", Custody: status.Custody{Form: "tor", Signing: "memory"},
			Instances: []status.Instance{
				{Name: "web1", State: status.StateOK, Renewed: statusNow.Add(-time.Minute), LastFetch: statusNow},
				{Name: "web2", State: status.StateOK, Renewed: statusNow.Add(-91*time.Minute + time.Second), RenewedBefore: true, LastFetch: statusNow},
				{Name: "web3", State: status.StateOK, Renewed: statusNow.Add(-26 * time.Hour), RenewedBefore: true, LastFetch: statusNow},
			},
		}},
	}
}

// statusOf runs the command against a daemon that tells s.
func statusOf(t *testing.T, s status.Snapshot, args ...string) (out, errs string, err error) {
	t.Helper()
	dir, err := os.MkdirTemp("", "status") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	serveStatus(t, path, s)
	return runStatus(append(args, "--socket", path)...)
}

func runStatus(args ...string) (out, errs string, err error) {
	var stdout, stderr bytes.Buffer
	root := newRootCommand()
	root.SetArgs(append([]string{"status"}, args...))
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	err = root.Execute()
	return stdout.String(), stderr.String(), err
}

// The exit status tells a monitor whether an operator is needed.
func TestStatusExit(t *testing.T) {
	for what, test := range map[string]struct {
		change func(*status.Snapshot)
		bad    string // in the error, empty for none
	}{
		"all well":          {func(*status.Snapshot) {}, ""},
		"degraded":          {func(s *status.Snapshot) { s.Services[0].State = status.StateDegraded }, ""},
		"starting":          {func(s *status.Snapshot) { s.Services[0].State = status.StateStarting }, "a.onion is starting"},
		"failed":            {func(s *status.Snapshot) { s.Services[0].State = status.StateFailed }, "a.onion is failed"},
		"left out":          {func(s *status.Snapshot) { s.LeftOut = 1 }, "1 service left out"},
		"control port lost": {func(s *status.Snapshot) { s.Tors[0].Connected = false }, "tor's control port"},
		"a refused reload": {func(s *status.Snapshot) { s.Reloads = []status.Event{{At: statusNow, What: "reload", Error: "no"}} },
			"refused at 2026-11-20 09:30:00 UTC"},
		"a reload after it": {func(s *status.Snapshot) { s.Reloads = []status.Event{{Error: "no"}, {}} }, ""},
	} {
		s := wellSnapshot()
		test.change(&s)
		for _, args := range [][]string{nil, {"--json"}} {
			_, _, err := statusOf(t, s, args...)
			switch {
			case test.bad == "" && err != nil:
				t.Errorf("%s %v: %v", what, args, err)
			case test.bad != "" && (err == nil || !strings.Contains(err.Error(), test.bad)):
				t.Errorf("%s %v: %v, want %q in it", what, args, err, test.bad)
			}
		}
	}
}

func TestStatusView(t *testing.T) {
	s := wellSnapshot()
	s.Reloads = []status.Event{{At: statusNow, Error: "/etc/balancer/balancer.toml:1: stratgy: unknown key\n/etc/balancer/balancer.toml:3: service.key: is missing"}}
	s.Services[0].ReadBack = statusNow.Add(-time.Minute)
	s.Services[0].Visited = statusNow.Add(-2 * time.Minute)
	s.Warnings = []string{"services left out: one\ntwo"}
	instances := s.Services[0].Instances
	instances[1].Check = &status.Check{Operating: "up", At: statusNow, Seconds: 0.44}
	instances[2].Check = &status.Check{Operating: "down", At: statusNow, Since: statusNow.Add(-time.Minute), Error: "status 500"}
	out, _, _ := statusOf(t, s)
	for _, line := range []string{
		"REFUSED        at 2026-11-20 09:30:00 UTC the configuration was not taken over, the old one stays in force:",
		"               /etc/balancer/balancer.toml:1: stratgy: unknown key",
		"               /etc/balancer/balancer.toml:3: service.key: is missing",
		"configuration  /etc/balancer/balancer.toml, in force since 2026-11-20 09:29:00 UTC",
		"tor            connected, version 0.4.8.1 (unix:/run/tor/control)",
		"tor            not connected: it is gone; its services moved to the others (unix:/run/tor/two)",
		"consensus      of 2026-11-20 09:00:00 UTC, 4000 HSDirs, next change at 2026-11-20 12:00:00 UTC",
		"WARNING        services left out: one",
		"  read back: clients got the published descriptor 1m0s ago",
		"  visited: the public address answered 2m0s ago",
		"               two",
		"web1 ok 0 0 0 % none 1m0s ago 0s ago",
		"web2 ok 0 0 0 % up, 0.4 s before 08:00 UTC 0s ago",
		"web3 ok 0 0 0 % down since 1m0s ago before 2026-11-19 07:30 UTC 0s ago",
		"check status 500",
	} {
		if !strings.Contains("\n"+out, "\n"+line+"\n") && !strings.Contains(strings.Join(strings.Fields(out), " "), line) {
			t.Errorf("no line %q in\n%s", line, out)
		}
	}
	if !strings.HasPrefix(out, "REFUSED") {
		t.Errorf("a refused configuration is not at the top:\n%s", out)
	}
}

// Nothing in an answer moves the cursor, or begins a line.
func TestStatusHostile(t *testing.T) {
	const evil = "x\x1b[2J\r\u202egnp\n\nballot OK"
	s := status.Snapshot{
		Version: evil, Config: evil, Warnings: []string{evil}, Reloads: []status.Event{{Error: evil}},
		Tors: []status.Tor{{Control: evil, Error: evil}}, Consensus: status.Consensus{Error: evil},
		Services: []status.Service{{
			Address: evil, State: evil, Strategy: evil, Warnings: []string{evil}, Custody: status.Custody{Form: evil, Signing: evil},
			Instances:   []status.Instance{{Name: evil, State: evil, Error: evil, Warnings: []string{evil}}},
			Descriptors: []status.Descriptor{{Which: evil, Reason: evil, Slots: []status.Slot{{HSDir: evil, Error: evil}}}},
		}},
	}
	out, _, err := statusOf(t, s)
	s.Tors[0].Connected, s.Tors[0].Version, s.Consensus.Known = true, evil, true
	more, _, _ := statusOf(t, s)
	for _, text := range []string{out, more, err.Error()} {
		if strings.ContainsAny(text, "\x1b\r\u202e") || strings.Contains(text, "\nballot") {
			t.Errorf("got through: %q", text)
		}
	}
}

// With a configuration that cannot be read any more the daemon is found all the
// same, and the file's fault is said.
func TestStatusBrokenConfiguration(t *testing.T) {
	dir, err := os.MkdirTemp("", "status")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "balancer.toml")
	for _, test := range []struct{ state, text string }{
		{"elsewhere", "# state_dir = \"commented\"\nstate_dir = \"elsewhere\" # here\n[[service]\nkey = \"front\"\n"},
		{"state", "[log]\nstate_dir = \"of the log\"\n"},
		{"state", "\x00\x01"},
	} {
		if err := os.WriteFile(file, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		socket := filepath.Join(dir, test.state, status.SocketName)
		_, _, err := runStatus("--config", file)
		if err == nil || !strings.Contains(err.Error(), "no balancer answers at "+socket) || !strings.Contains(err.Error(), file+":") {
			t.Errorf("%q, nobody running: %v", test.text, err)
		}
		if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
			t.Fatal(err)
		}
		t.Run(test.state, func(t *testing.T) {
			serveStatus(t, socket, wellSnapshot())
			out, errs, err := runStatus("--config", file)
			if err != nil || !strings.Contains(out, "a.onion") {
				t.Errorf("%q: %v\n%s", test.text, err, out)
			}
			if !strings.HasPrefix(errs, "warning: ") || !strings.Contains(errs, file+":") {
				t.Errorf("%q: warned of %q", test.text, errs)
			}
			if out, _, err := runStatus("--config", file, "--metrics"); err != nil || !strings.Contains(out, "balancer_build_info") {
				t.Errorf("%q, --metrics: %v", test.text, err)
			}
		})
	}
	if _, _, err := runStatus("--config", filepath.Join(dir, "none.toml")); err == nil || !errors.Is(err, os.ErrNotExist) || strings.Contains(err.Error(), "answers") {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestStatusForbidden(t *testing.T) {
	err := asked(&socket.ForbiddenError{Socket: "/var/lib/balancer/status.sock", User: "balancer"}, nil)
	want := "permission denied: /var/lib/balancer/status.sock is open to the user balancer, and to root; run: runuser -u balancer -- "
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%v, want %s…", err, want)
	}
	if err := asked(&socket.ForbiddenError{Socket: "/s"}, nil); strings.Contains(err.Error(), "runuser") {
		t.Errorf("as nobody knows whom: %v", err)
	}
}

func TestCustodyText(t *testing.T) {
	now := time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)
	dark := now.Add(11*24*time.Hour + 3*time.Hour)
	for _, test := range []struct {
		custody status.Custody
		want    string
	}{
		{status.Custody{Form: "tor", Signing: "memory"}, "tor's hs_ed25519_secret_key, signing keys in memory; no certificate yet"},
		{status.Custody{Form: "pem", Signing: "token", CertifiedUntil: now},
			"PKCS #8 in PEM, as OnionBalance writes it, signing keys on a token; certified until 2026-11-20 09:00 UTC"},
		{status.Custody{Form: "offline", Signing: "disk", Ahead: &status.Ahead{Periods: 12, Horizon: 60, DarkAt: dark, RenewBy: dark.Add(-12 * time.Hour)}},
			"certificates prepared offline, signing keys on disk; 12 periods left of 60, until 2026-12-01 12:00 UTC (in 11 days); renew before 2026-12-01 00:00 UTC"},
		{status.Custody{Form: "offline", Signing: "disk", SameExpiry: true, Ahead: &status.Ahead{Periods: 1, Horizon: 60, DarkAt: dark, RenewBy: dark}},
			"certificates prepared offline, signing keys on disk; 1 period left of 60, until 2026-12-01 12:00 UTC (in 11 days); renew before 2026-12-01 12:00 UTC; " +
				"HSDirs see a certificate whose expiry stays the same, of an earlier version: the next ceremony ends that"},
		{status.Custody{Form: "offline", Signing: "disk", Ahead: &status.Ahead{Horizon: 60, DarkAt: now}},
			"certificates prepared offline, signing keys on disk; the certificates ENDED at 2026-11-20 09:00 UTC"},
		{status.Custody{Form: "offline", Signing: "token", Ahead: &status.Ahead{}},
			"certificates prepared offline, signing keys on a token; NO CERTIFICATE for the present period"},
	} {
		if got := custodyText(now, test.custody); got != test.want {
			t.Errorf("%+v:\n%q, want\n%q", test.custody, got, test.want)
		}
	}
}
