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
	"sync/atomic"
	"testing"
	"time"

	"onionbalancer/internal/status"
	"onionbalancer/keystore/token/tokentest"
	"onionbalancer/testnet/lab"
	"onionbalancer/testnet/lab/labtest"
)

// custodians is a lab with two instances of one public address, a balancer in a
// process of its own, and visitors who come all the time, each for the first time.
type custodians struct {
	*testing.T
	*lab.Lab
	token     *tokentest.Token
	address   string
	run       *lab.Process
	points    int               // at most, in a descriptor
	revisions map[uint64]uint64 // the last revision counter of each period
	visitors  lab.Tally
}

// TestRealTor takes one network of real tor processes through what custodians and
// an intruder do.
func TestRealTor(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	c := newCustodians(ctx, t)
	c.configure("front", "")
	c.start()
	c.published(ctx, "tor", "memory", time.Time{})
	if !t.Run("custodians", func(t *testing.T) { c.on(t).moveCustodians(ctx, c.token) }) {
		return
	}
	t.Run("intruder", func(t *testing.T) { c.on(t).breakIn(ctx) })
}

// on is c for a part of a test.
func (c *custodians) on(t *testing.T) *custodians {
	c.T = t
	return c
}

// moveCustodians moves the key of one public address from custodian to custodian
// while it is visited: from disk under the seal of a token, its signing keys into
// the token, the token out of the machine and back, and the identity key off to
// a machine without a network. No visitor is lost and no upload refused.
func (c *custodians) moveCustodians(ctx context.Context, hsm *tokentest.Token) {
	hsm.Make(c.T, tokentest.AES, "seal", "01")
	sealed := hsm.URI("seal") + "&x-sealed=" + filepath.Join(c.Dir, "front.sealed")
	stop := c.visit(ctx)
	defer stop()
	c.receive(ctx)

	c.balancer("key", "seal", filepath.Join(c.Dir, "front"), "--with", sealed)
	if err := os.RemoveAll(filepath.Join(c.Dir, "front")); err != nil {
		c.Fatal(err)
	}
	c.move(ctx, sealed, "", "sealed", "memory")
	c.move(ctx, sealed, hsm.URI(""), "sealed", "token")

	// The token is away when there is something to sign, and comes back.
	hsm.Remove(c.T)
	c.points = 2
	c.configure(sealed, hsm.URI(""))
	changed := time.Now()
	c.hangUp()
	c.await(ctx, "a warning about the token", func(s status.Service) bool {
		return slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.Contains(w, "sees no such token") })
	})
	hsm.Insert(c.T)
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
	c := &custodians{T: t, token: tokentest.NewApart(t), points: 20, revisions: map[uint64]uint64{}}
	keys := t.TempDir()
	var made keyShown
	if err := json.Unmarshal(c.balancer("key", "new", filepath.Join(keys, "front"), "--json"), &made); err != nil {
		t.Fatal(err)
	}
	c.address = made.Address
	c.Lab = labtest.Start(ctx, t, lab.Config{Masters: []string{c.address}, Instances: 2})
	if err := os.Rename(filepath.Join(keys, "front"), filepath.Join(c.Dir, "front")); err != nil {
		t.Fatal(err)
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
	cmd.Env = append(os.Environ(), c.token.Env())
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

func (c *custodians) config() string { return filepath.Join(c.Dir, "balancer.toml") }
func (c *custodians) socket() string { return filepath.Join(c.Dir, "state", status.SocketName) }

// configure writes the configuration.
func (c *custodians) configure(key, signing string) {
	c.Helper()
	options := fmt.Sprintf("max_introduction_points = %d", c.points)
	if signing != "" {
		options += fmt.Sprintf("\nsigning = %q", signing)
	}
	text := "log.level = \"debug\"\n" + c.BalancerConfig(key, options)
	if err := os.WriteFile(c.config(), []byte(text), 0o600); err != nil {
		c.Fatal(err)
	}
}

// start runs the balancer until the test ends.
func (c *custodians) start() {
	c.Helper()
	var err error
	if c.run, err = lab.Run(c.command("run", "--config", c.config()), filepath.Join(c.Dir, "balancer.log")); err != nil {
		c.Fatal(err)
	}
	t := c.T
	t.Cleanup(func() {
		if err := c.run.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() || testing.Verbose() {
			t.Logf("the balancer's log:\n%s", c.log())
		}
	})
}

// log is what the balancer has logged.
func (c *custodians) log() string {
	text, err := os.ReadFile(c.run.Log)
	if err != nil {
		c.Error(err)
	}
	return string(text)
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
	if err := c.run.Reload(); err != nil {
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

// receive waits for a few visitors who are answered from now on.
func (c *custodians) receive(ctx context.Context) {
	c.Helper()
	for before := len(c.visitors.Times()); len(c.visitors.Times()) <= before+visitorsEach; time.Sleep(50 * time.Millisecond) {
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
	s, err := lab.Await(ctx, c.socket(), wanted)
	if err != nil {
		shown, _ := json.Marshal(s)
		c.Fatalf("there never were %s: %v: %s", what, err, shown)
	}
	return s
}

// visit sends visitors until the function it returns is called.
func (c *custodians) visit(ctx context.Context) func() {
	var over atomic.Bool
	var group sync.WaitGroup
	group.Go(func() { _ = c.VisitEvery(ctx, c.address, time.Second/2, over.Load, &c.visitors) })
	return func() { over.Store(true); group.Wait() }
}

// judge looks at what the visitors and the log say.
func (c *custodians) judge() {
	c.Helper()
	lost, answered := c.visitors.Failures(), len(c.visitors.Times())
	if len(lost) > 0 || answered < 4*visitorsEach {
		c.Errorf("%d visitors lost, %d answered:\n%s", len(lost), answered, strings.Join(lost, "\n"))
	}
	if strings.Contains(c.log(), "UPLOAD_REJECTED") {
		c.Error("HSDirs refused uploads")
	}
}

// ceremony holds one for six periods, with the identity key under a token's seal
// and the signing keys on a token, and installs what it gives.
func (c *custodians) ceremony(key, signing string) {
	c.Helper()
	snapshot, err := status.Query(c.Context(), c.socket())
	if err != nil {
		c.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(c.Dir, name) }
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
