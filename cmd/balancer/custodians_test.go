package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"onionbalancer/internal/status"
	"onionbalancer/keystore/token/tokentest"
	"onionbalancer/testnet"
)

// custodians is a private network of real tor processes with two instances of
// one public address, a balancer in a process of its own, and visitors who come
// all the time, each for the first time.
type custodians struct {
	*testing.T
	net       *testnet.Network
	instances []*testnet.Service
	dir       string
	address   string
	run       *exec.Cmd
	log       *lockedLog
	points    int               // at most, in a descriptor
	revisions map[uint64]uint64 // the last revision counter of each period

	mu     sync.Mutex
	visits int
	lost   []string
}

// TestCustodians moves the key of one public address from custodian to custodian
// while it is visited: from disk under the seal of a token, its signing keys into
// the token, the token out of the machine and back, and the identity key off to
// a machine without a network. No visitor is lost and no upload refused.
func TestCustodians(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	c := newCustodians(ctx, t)
	hsm := tokentest.New(t)
	hsm.Make(t, tokentest.AES, "seal", "01")
	sealed := hsm.URI("seal") + "&x-sealed=" + filepath.Join(c.dir, "front.sealed")

	c.configure("front", "")
	c.start()
	c.published(ctx, "tor", "memory", time.Time{})
	stop := c.visit(ctx)
	defer stop()
	c.receive(ctx)

	c.balancer("key", "seal", filepath.Join(c.dir, "front"), "--with", sealed)
	if err := os.RemoveAll(filepath.Join(c.dir, "front")); err != nil {
		t.Fatal(err)
	}
	c.move(ctx, sealed, "", "sealed", "memory")
	c.move(ctx, sealed, hsm.URI(""), "sealed", "token")

	// The token is away when there is something to sign, and comes back.
	hsm.Remove(t)
	c.points = 2
	c.configure(sealed, hsm.URI(""))
	changed := time.Now()
	c.hangUp()
	c.await(ctx, "a warning about the token", func(s status.Service) bool {
		return slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.Contains(w, "sees no such token") })
	})
	hsm.Insert(t)
	c.published(ctx, "sealed", "token", changed)
	c.receive(ctx)

	c.points = 20
	c.ceremony(sealed, hsm.URI(""))
	c.move(ctx, "offline", hsm.URI(""), "offline", "token")

	stop()
	c.judge()
}

func newCustodians(ctx context.Context, t *testing.T) *custodians {
	t.Helper()
	// A socket's path must be short, and the test's own directory is not.
	dir, err := os.MkdirTemp("", "keys")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c := &custodians{T: t, dir: dir, log: new(lockedLog), points: 20, revisions: map[uint64]uint64{}}
	var made keyShown
	if err := json.Unmarshal(c.balancer("key", "new", filepath.Join(dir, "front"), "--json"), &made); err != nil {
		t.Fatal(err)
	}
	c.address = made.Address
	if c.net, err = testnet.Start(ctx, testnet.Config{Clients: []string{"visitor", "manager"}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.net.Stop() })
	c.instances, err = c.net.Services(ctx, "instances",
		testnet.ServiceConfig{Name: "web1", Masters: []string{c.address}},
		testnet.ServiceConfig{Name: "web2", Masters: []string{c.address}})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range c.instances {
		if err := s.Published(ctx); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// command prepares this very binary as balancer.
func (c *custodians) command(args ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		c.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Args = append([]string{"balancer"}, args...)
	return cmd
}

// balancer runs a command that has to succeed, and returns what it printed.
func (c *custodians) balancer(args ...string) []byte {
	c.Helper()
	cmd := c.command(args...)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		c.Fatalf("balancer %s: %v\n%s%s", strings.Join(args, " "), err, out, complaint.String())
	}
	return out
}

func (c *custodians) config() string { return filepath.Join(c.dir, "balancer.toml") }

// configure writes the configuration.
func (c *custodians) configure(key, signing string) {
	c.Helper()
	text := fmt.Sprintf("state_dir = \"state\"\n[tor]\ncontrol = %q\n[log]\nlevel = \"debug\"\n[[service]]\nkey = %q\nmax_introduction_points = %d\n",
		c.net.ControlTarget("manager"), key, c.points)
	if signing != "" {
		text += fmt.Sprintf("signing = %q\n", signing)
	}
	for _, s := range c.instances {
		text += fmt.Sprintf("[[service.instance]]\nname = %q\naddress = %q\n", s.Name(), s.Address())
	}
	if err := os.WriteFile(c.config(), []byte(text), 0o600); err != nil {
		c.Fatal(err)
	}
}

// start runs the balancer until the test ends.
func (c *custodians) start() {
	c.Helper()
	c.run = c.command("run", "--config", c.config())
	c.run.Stderr = c.log
	if err := c.run.Start(); err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() {
		_ = c.run.Process.Signal(syscall.SIGTERM)
		if err := c.run.Wait(); err != nil {
			c.Errorf("the balancer ended with %v", err)
		}
		if c.Failed() || testing.Verbose() {
			c.Logf("the balancer's log:\n%s", c.log.text.String())
		}
	})
}

// move has the running balancer take other custodians.
func (c *custodians) move(ctx context.Context, key, signing, form, where string) {
	c.Helper()
	c.configure(key, signing)
	moved := time.Now()
	c.hangUp()
	c.published(ctx, form, where, moved)
	c.receive(ctx)
}

// hangUp has the running balancer read its configuration again.
func (c *custodians) hangUp() {
	c.Helper()
	if err := c.run.Process.Signal(syscall.SIGHUP); err != nil {
		c.Fatal(err)
	}
}

// published waits until both descriptors, made after since and under the named
// custodians, are at all of their HSDirs, and checks their revision counters.
func (c *custodians) published(ctx context.Context, form, signing string, since time.Time) {
	c.Helper()
	what := fmt.Sprintf("descriptors under custody %s, signed in %s", form, signing)
	s := c.await(ctx, what, func(s status.Service) bool {
		if s.Custody.Form != form || s.Custody.Signing != signing || len(s.Descriptors) != 2 {
			return false
		}
		for _, d := range s.Descriptors {
			if d.Built.Before(since) || d.Confirmed < len(d.Slots) {
				return false
			}
		}
		return true
	})
	for _, d := range s.Descriptors {
		if d.Revision <= c.revisions[d.Period] {
			c.Errorf("%s: revision counter %d after %d", what, d.Revision, c.revisions[d.Period])
		}
		c.revisions[d.Period] = d.Revision
	}
	c.Logf("%s: confirmed", what)
}

// receive waits for a few visitors who come from now on.
func (c *custodians) receive(ctx context.Context) {
	c.Helper()
	visits := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.visits
	}
	for before := visits(); visits() <= before+visitorsEach; time.Sleep(50 * time.Millisecond) {
		if ctx.Err() != nil {
			c.Fatal("there were too few visitors")
		}
	}
}

// visitorsEach is how many have to find each custodian's descriptors.
const visitorsEach = 5

// await waits until the balancer's one service is as wanted.
func (c *custodians) await(ctx context.Context, what string, wanted func(status.Service) bool) status.Service {
	c.Helper()
	var last status.Snapshot
	for ctx.Err() == nil {
		snapshot, err := status.Query(ctx, filepath.Join(c.dir, "state", status.SocketName))
		if err == nil && len(snapshot.Services) == 1 {
			if wanted(snapshot.Services[0]) {
				return snapshot.Services[0]
			}
			last = snapshot
		}
		time.Sleep(200 * time.Millisecond)
	}
	shown, _ := json.Marshal(last.Services)
	c.Fatalf("there never were %s: %s", what, shown)
	return status.Service{}
}

// visit sends visitors until the function it returns is called.
func (c *custodians) visit(ctx context.Context) func() {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			began := time.Now()
			each, done := context.WithTimeout(ctx, time.Minute)
			_, err := c.net.Client("visitor").Get(each, fmt.Sprintf("visitor%d", n), "http://"+c.address+"/")
			done()
			c.mu.Lock()
			if err != nil && ctx.Err() == nil {
				c.lost = append(c.lost, fmt.Sprintf("visitor %d, who came at %s: %v", n, began.Format(time.TimeOnly), err))
			}
			c.visits++
			c.mu.Unlock()
			time.Sleep(300 * time.Millisecond)
		}
	})
	return func() { cancel(); group.Wait() }
}

// judge looks at what the visitors and the log say.
func (c *custodians) judge() {
	c.Helper()
	if len(c.lost) > 0 || c.visits < 4*visitorsEach {
		c.Errorf("%d of %d visitors lost:\n%s", len(c.lost), c.visits, strings.Join(c.lost, "\n"))
	}
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	if log := c.log.text.String(); strings.Contains(log, "UPLOAD_REJECTED") {
		c.Error("HSDirs refused uploads")
	}
}

// ceremony holds one for six periods, with the identity key under a token's seal
// and the signing keys on a token, and installs what it gives.
func (c *custodians) ceremony(key, signing string) {
	c.Helper()
	snapshot, err := status.Query(c.Context(), filepath.Join(c.dir, "state", status.SocketName))
	if err != nil {
		c.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(c.dir, name) }
	var asked struct{ Fingerprint string }
	out := c.balancer("ceremony", "request", "--dir", in("offline"), c.address, "--signing", signing,
		"--periods", "6", "--period-length", fmt.Sprintf("%dm", snapshot.Consensus.PeriodMinutes),
		"--rotation-offset", fmt.Sprintf("%ds", snapshot.Consensus.OffsetSeconds), "--out", in("request.json"), "--json")
	if err := json.Unmarshal(out, &asked); err != nil || asked.Fingerprint == "" {
		c.Fatalf("no fingerprint: %v in %s", err, out)
	}
	c.balancer("ceremony", "sign", in("request.json"), "--key", key, "--yes", asked.Fingerprint, "--out", in("bundle.json"))
	c.balancer("ceremony", "install", in("bundle.json"), "--dir", in("offline"))
}
