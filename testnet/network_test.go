package testnet

import (
	"context"
	"io"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if role := os.Getenv("TESTNET_CHILD"); role != "" {
		child(role)
	}
	goleak.VerifyTestMain(m)
}

// TestNetwork goes through what tests of other packages rely on, on one
// network: starting takes most of the time.
func TestNetwork(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	began := time.Now()
	var last Progress
	n, err := Start(ctx, Config{
		Relays: 8, Clients: []string{"c1", "manager"},
		ConsensusParams: []string{"hsdir_n_replicas=2", "hsdir_spread_store=3"},
		Progress:        func(p Progress) { last = p },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Stop()
	t.Logf("started after %v", time.Since(began))
	for _, name := range []string{"c1", "manager"} {
		if !n.Client(name).upToDate() {
			t.Errorf("%s is not ready for the whole network", name)
		}
	}
	if last.Running != 13 || !last.Consensus || last.Relays != 11 || last.Wanted != 11 || last.Clients != 100 {
		t.Errorf("the last progress was %q (%+v)", last, last)
	}

	web := service(ctx, t, n, ServiceConfig{Name: "web"})
	expect(ctx, t, n, web, "web\n")
	t.Logf("first answer after %v", time.Since(began))

	t.Run("consensus", func(t *testing.T) { testConsensus(ctx, t, n) })
	t.Run("control port", func(t *testing.T) { testControlPort(t, n) })
	t.Run("bulk", func(t *testing.T) { testBulk(ctx, t, n, web) })
	t.Run("instances", func(t *testing.T) { testInstances(ctx, t, n, web) })
	t.Run("faults", func(t *testing.T) { testFaults(ctx, t, n, web) })
	t.Run("kill and restart", func(t *testing.T) { testKillAndRestart(ctx, t, n, web) })
	t.Run("stop", func(t *testing.T) { testStop(ctx, t, n) })
}

// service starts a service and waits until it can be reached.
func service(ctx context.Context, t *testing.T, n *Network, config ServiceConfig) *Service {
	t.Helper()
	s, err := n.Service(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Published(ctx); err != nil {
		t.Fatal(err)
	}
	return s
}

// expect fetches from a service as a user of its own.
func expect(ctx context.Context, t *testing.T, n *Network, s *Service, want string) {
	t.Helper()
	body, err := n.Client("c1").Get(ctx, t.Name()+s.Name(), s.URL("/"))
	if err != nil || body != want {
		t.Errorf("fetching from %s: got %q, %v; want %q", s.Name(), body, err, want)
	}
}

func testConsensus(ctx context.Context, t *testing.T, n *Network) {
	c, err := n.Consensus(ctx)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	if c.Relays != 11 || c.HSDirs != 11 || c.Stable != 11 || c.VotingInterval() != DefaultVotingInterval {
		t.Errorf("got %d relays, %d HSDirs, %d stable, a voting interval of %v", c.Relays, c.HSDirs, c.Stable, c.VotingInterval())
	}
	if c.ValidAfter.After(now) || now.Sub(c.ValidAfter) > 2*DefaultVotingInterval {
		t.Errorf("at %v, the consensus is valid after %v", now, c.ValidAfter)
	}
	for what, next := range map[string]time.Time{"period": c.NextPeriod(), "shared random value": c.NextSharedRandom()} {
		if left := next.Sub(c.ValidAfter); left <= 0 || left > 24*DefaultVotingInterval {
			t.Errorf("the next %s begins %v after the consensus", what, left)
		}
	}
}

func testControlPort(t *testing.T, n *Network) {
	if got := n.ControlTarget("nobody"); got != "" {
		t.Errorf("a client that does not exist has control port %q", got)
	}
	conn, err := textproto.Dial("tcp", n.ControlTarget("manager"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.PrintfLine("PROTOCOLINFO 1"); err != nil {
		t.Fatal(err)
	}
	line, err := conn.ReadLine()
	if err != nil || line != "250-PROTOCOLINFO 1" {
		t.Errorf("the control port answered %q, %v", line, err)
	}
}

func testBulk(ctx context.Context, t *testing.T, n *Network, web *Service) {
	const size = 1 << 20 // 1 MiB
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, web.URL("/bulk?bytes=1048576"), nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := n.Client("c1").HTTP("bulk").Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if got, err := io.Copy(io.Discard, response.Body); got != size || err != nil {
		t.Errorf("got %d bytes, %v; want %d", got, err, size)
	}
	if _, err := n.Client("c1").Get(ctx, "bulk", web.URL("/bulk?bytes=-1")); err == nil {
		t.Error("a negative amount was served")
	}
}

// testInstances runs two instances in one tor; an instance serves its own
// address too.
func testInstances(ctx context.Context, t *testing.T, n *Network, master *Service) {
	services, err := n.Services(ctx, "pair",
		ServiceConfig{Name: "one", Masters: []string{master.Address()}},
		ServiceConfig{Name: "two", Masters: []string{master.Address()}, IntroductionPoints: 5})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range services {
		if err := s.Published(ctx); err != nil {
			t.Fatal(err)
		}
		expect(ctx, t, n, s, s.Name()+"\n")
		if got := s.Requests(); got != 1 {
			t.Errorf("%s counted %d requests, not 1", s.Name(), got)
		}
	}
	one := services[0]
	if err := one.SetMasters("example.onion"); err == nil {
		t.Error("an invalid address came into ob_config")
	}
	if err := one.SetMasters(services[1].Address()); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(filepath.Join(one.Dir(), "ob_config"))
	if want := "MasterOnionAddress " + services[1].Address() + "\n"; err != nil || string(text) != want {
		t.Errorf("ob_config has %q, %v; want %q", text, err, want)
	}
	if _, err := n.Service(ctx, ServiceConfig{Name: "bad", Masters: []string{"example.onion"}}); err == nil {
		t.Error("an instance of an invalid address was started")
	}
}

func testKillAndRestart(ctx context.Context, t *testing.T, n *Network, web *Service) {
	before, address := web.PID(), web.Address()
	web.Kill()
	if gone(before) != nil || web.PID() != 0 {
		t.Errorf("tor %d runs after Kill", before)
	}
	// The client would go on trying for two minutes.
	short, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if body, err := n.Client("c1").Get(short, "dead", web.URL("/")); err == nil {
		t.Errorf("a dead service answered %q", body)
	}
	if err := web.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if err := web.Published(ctx); err != nil {
		t.Fatal(err)
	}
	if web.Address() != address || web.PID() == before {
		t.Errorf("restarted as %s, pid %d; was %s, pid %d", web.Address(), web.PID(), address, before)
	}
	expect(ctx, t, n, web, "web\n")
	c1 := n.Client("c1")
	c1.Kill()
	if err := c1.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	expect(ctx, t, n, web, "web\n")
}

// testFaults has a service fail in ways from which it comes back as it was.
func testFaults(ctx context.Context, t *testing.T, n *Network, web *Service) {
	fails := func(what string) {
		t.Helper()
		short, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		if body, err := n.Client("c1").Get(short, what, web.URL("/")); err == nil {
			t.Errorf("%s, it answered %q", what, body)
		}
	}
	web.StopBackend()
	web.StopBackend()
	fails("without its web server")
	if err := web.StartBackend(); err != nil {
		t.Fatal(err)
	}
	expect(ctx, t, n, web, "web\n")
	if err := web.Freeze(); err != nil {
		t.Fatal(err)
	}
	fails("frozen")
	if err := web.Thaw(); err != nil {
		t.Fatal(err)
	}
	expect(ctx, t, n, web, "web\n")
	if err := web.SetMasters(web.Address()); err == nil {
		t.Error("a service that is no instance got an ob_config")
	}
}

func testStop(ctx context.Context, t *testing.T, n *Network) {
	pids := n.PIDs()
	if len(pids) < 13 {
		t.Errorf("only %d tors run", len(pids))
	}
	for range 2 {
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
	}
	if err := gone(pids...); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(n.Dir()); !os.IsNotExist(err) {
		t.Errorf("the temporary directory is still there: %v", err)
	}
	if _, err := n.Service(ctx, ServiceConfig{Name: "late"}); err == nil || strings.Contains(err.Error(), "panic") {
		t.Errorf("starting a service on a stopped network: %v", err)
	}
}
