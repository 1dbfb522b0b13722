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

// shardSnapshot has two shards as well, one of which needs somebody to look.
func shardSnapshot() status.Snapshot {
	s := wellSnapshot()
	instance := func(name string, state status.State, more ...string) status.Instance {
		return status.Instance{Name: name, State: state, Admin: "ready", Warnings: more, Renewed: statusNow, LastFetch: statusNow}
	}
	s.Shards = []status.Shard{
		{
			Name: "s1", State: status.StateOK, Strategy: "spread", Customers: status.Customers{Active: 240, Suspended: 3, OK: 239, Starting: 1}, Spares: 25, Lines: 268,
			Oldest: statusNow.Add(-2 * time.Hour), Instances: []status.Instance{instance("s1a", status.StateOK), instance("s1b", status.StateOK)},
			Custody: status.SharedCustody{Forms: map[string]int{"tor": 200, "sealed": 40}, CertifiedUntil: statusNow},
		},
		{
			Name: "s2-of-a-longer-name", State: status.StateDegraded, Strategy: "spread", Customers: status.Customers{Active: 7, OK: 2, Degraded: 4, Failed: 1}, Lines: 7,
			Instances: []status.Instance{instance("s2a", status.StateOK, "a longer text about this one"), instance("the-other", status.StateDown)}, Warnings: []string{"no spare key is left"}, Needy: 7,
			Attention: []status.Attention{{Customer: "kalypso", State: status.StateFailed, Text: "nobody\ncertifies"}},
		},
	}
	return s
}

func TestStatusShards(t *testing.T) {
	s := shardSnapshot()
	out, _, err := statusOf(t, s)
	if err == nil || !strings.Contains(err.Error(), "1 customer of shard s2-of-a-longer-name failed") {
		t.Errorf("a failed customer: %v", err)
	}
	for _, line := range []string{
		"shard                state     customers  ok   degraded  starting  failed  spares  oldest descriptor  instances",
		"s1                   OK        240        239  0         1         0       25      2h0m0s ago         2 of 2 ok",
		"s2-of-a-longer-name  DEGRADED  7          2    4         0         1       0       none               1 of 2 ok; the-other down",
		"  WARNING  no spare key is left",
		"  kalypso  is failed: nobody; certifies",
		"  and  6 more",
	} {
		if !strings.Contains("\n"+out, "\n"+line+"\n") {
			t.Errorf("no line %q in\n%s", line, out)
		}
	}
	if shards, services := strings.Index(out, "s1 "), strings.Index(out, "a.onion"); shards < 0 || services < shards {
		t.Errorf("shards are not first:\n%s", out)
	}
	out, _, err = statusOf(t, s, "--shard", "s1")
	for _, text := range []string{
		"shard s1  OK, strategy spread\n",
		"  customers: 240 active (239 ok, 0 degraded, 1 starting, 0 failed), 3 suspended, 0 removed\n",
		"  custody: 200 with tor's hs_ed25519_secret_key, 40 with ",
		"  s1b       ok     0       0",
	} {
		if err != nil || !strings.Contains(out, text) {
			t.Errorf("no %q in %v\n%s", text, err, out)
		}
	}
	if out, _, err = statusOf(t, s, "--shard", "s2-of-a-longer-name", "--json"); err == nil || !strings.Contains(out, `"customers_in_need": 7`) {
		t.Errorf("as JSON: %v\n%s", err, out)
	}
	if _, _, err = statusOf(t, s, "--shard", "s3"); err == nil || !strings.Contains(err.Error(), `no shard "s3", but s1, s2-of-a-longer-name`) {
		t.Errorf("no shard: %v", err)
	}
}

// A warning below a row moves no column of the rows after it.
func TestStatusAligned(t *testing.T) {
	out, _, _ := statusOf(t, shardSnapshot(), "--shard", "s2-of-a-longer-name")
	column := func(name, value string) int {
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, "  "+name) {
				return strings.Index(line, value)
			}
		}
		return -1
	}
	if a, b := column("s2a ", "none"), column("the-other ", "none"); a < 0 || a != b {
		t.Errorf("column %d and %d:\n%s", a, b, out)
	}
	if !strings.Contains(out, "\n    WARNING  a longer text about this one\n") {
		t.Errorf("no warning below its row:\n%s", out)
	}
}

// customerOperator knows one customer.
type customerOperator struct {
	drainOperator
	customer status.Customer
}

func (o *customerOperator) CustomerStatus(name string) (status.Customer, error) {
	if name != o.customer.Name {
		return o.customer, &status.RefusedError{Status: 404, Reason: "there is no such customer"}
	}
	return o.customer, nil
}

func TestStatusCustomer(t *testing.T) {
	service := wellSnapshot().Services[0]
	o := &customerOperator{customer: status.Customer{Name: "kalypso", Shard: "s1", Hosted: "active", Since: statusNow, Service: &service, Address: "a.onion"}}
	of := func(args ...string) (string, error) {
		dir, err := os.MkdirTemp("", "status") // a socket's path must be short
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		path := filepath.Join(dir, "s")
		serveOperator(t, path, wellSnapshot(), o)
		out, _, err := runStatus(append(args, "--socket", path)...)
		return out, err
	}
	out, err := of("--customer", "kalypso")
	if err != nil || !strings.HasPrefix(out, "customer kalypso of shard s1\n  active since 2026-11-20 09:30:00 UTC\n\na.onion  OK, strategy spread\n") {
		t.Errorf("%v\n%s", err, out)
	}
	service.State = status.StateFailed
	if _, err = of("--customer", "kalypso", "--json"); err == nil || !strings.Contains(err.Error(), "kalypso is failed") {
		t.Errorf("failed: %v", err)
	}
	o.customer.Hosted, o.customer.Service = "suspended", nil
	if out, err = of("--customer", "kalypso"); err != nil || !strings.Contains(out, "nothing is published of a.onion") {
		t.Errorf("suspended: %v\n%s", err, out)
	}
	if _, err = of("--customer", "calypso"); err == nil || !strings.Contains(err.Error(), "no such customer") {
		t.Errorf("another: %v", err)
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
	s.Shards = []status.Shard{{
		Name: evil, State: evil, Strategy: evil, Instances: s.Services[0].Instances, Warnings: []string{evil}, Attention: []status.Attention{{Customer: evil, State: evil, Text: evil}}, Needy: 1,
		Custody: status.SharedCustody{Forms: map[string]int{evil: 1}, Customer: evil, Ahead: &status.Ahead{}},
	}}
	more, _, _ := statusOf(t, s)
	shard, _, _ := statusOf(t, s, "--shard", evil)
	for _, text := range []string{out, more, shard, err.Error()} {
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
