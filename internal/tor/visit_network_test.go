package tor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"onionbalancer/descriptor"
	"onionbalancer/internal/event"
	"onionbalancer/internal/health"
	"onionbalancer/internal/tor/control"
	"onionbalancer/testnet"
)

// visits is a private network with services that fail in all ways, and two tors that
// visit them: one of our own, and one of a user, whose SOCKS port has no ExtendedErrors.
type visits struct {
	net   *testnet.Network
	pools map[string]*Pool
	web   map[string]*testnet.Service
}

func startVisits(ctx context.Context, t *testing.T) *visits {
	t.Helper()
	v := &visits{pools: map[string]*Pool{}, web: map[string]*testnet.Service{}}
	var err error
	if v.net, err = testnet.Start(ctx, testnet.Config{Relays: 8, Clients: []string{"user"}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.net.Stop() })
	for _, name := range []string{"ok", "frozen", "killed", "locked"} {
		// Port 81 leads nowhere; port 82 is not there.
		service, err := v.net.Service(ctx, testnet.ServiceConfig{Name: name, Options: []string{"HiddenServicePort 81 127.0.0.1:1"}})
		if err != nil {
			t.Fatal(err)
		}
		v.web[name] = service
	}
	clientKey := filepath.Join(v.web["locked"].Dir(), "authorized_clients", "us.auth")
	if err := os.WriteFile(clientKey, []byte("descriptor:x25519:"+publicHalf), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := v.web["locked"].Restart(ctx); err != nil {
		t.Fatal(err)
	}
	v.open(ctx, t, "user", Config{Control: []Control{{Target: v.net.ControlTarget("user")}}})
	dir, err := os.MkdirTemp("", "visit") // short, for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	v.open(ctx, t, "own", Config{Own: Own{Dir: dir, Torrc: v.torrc(ctx, t, dir)}})
	for _, service := range v.web {
		if err := service.Published(ctx); err != nil {
			t.Fatal(err)
		}
	}
	return v
}

// torrc makes a tor of our own one of the network.
func (v *visits) torrc(ctx context.Context, t *testing.T, dir string) string {
	t.Helper()
	authorities, err := v.pools["user"].tors[0].client.GetConf(ctx, "DirAuthority")
	if err != nil {
		t.Fatal(err)
	}
	lines := "TestingTorNetwork 1\nLearnCircuitBuildTimeout 0\nCircuitBuildTimeout 3\n"
	for _, a := range authorities {
		lines += "DirAuthority " + a + "\n"
	}
	path := filepath.Join(dir, "torrc")
	if err := os.WriteFile(path, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// open opens and runs a pool until the end of the test, and waits until it can visit.
func (v *visits) open(ctx context.Context, t *testing.T, name string, cfg Config) {
	t.Helper()
	p, err := Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	run, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); p.Run(run, func(event.Event) {}) }()
	t.Cleanup(func() { cancel(); <-done; p.Close() })
	for {
		if conn, err := p.tors[0].dialSocks(ctx); err == nil {
			_ = conn.Close()
			break
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%s: never ready: %+v", name, p.Statuses())
		}
	}
	v.pools[name] = p
}

// addressOf parses the address of a service.
func (v *visits) addressOf(t *testing.T, name string) descriptor.Address {
	t.Helper()
	a, err := descriptor.ParseAddress(v.web[name].Address())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// expected is how a visit should go.
type expected struct {
	stage  health.Stage
	err    error // that it wraps
	points bool  // whether some are tried
	last   health.PointResult
}

var errAny = errors.New("any")

// check makes a visit and compares it.
func (v *visits) check(ctx context.Context, t *testing.T, pool, what string, visit health.Visit, timeout time.Duration, want expected) {
	t.Helper()
	what = pool + ", " + what
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	began := time.Now()
	conn, trace, err := v.pools[pool].Dial(limited, visit)
	t.Logf("%-40s stage %d, %v, points %v, %v", what, trace.Stage, time.Since(began).Round(time.Millisecond), trace.Points, err)
	if conn != nil {
		_ = conn.Close()
	}
	if (err == nil) != (conn != nil) || (err == nil) != (want.err == nil) || want.err != errAny && !errors.Is(err, want.err) {
		t.Errorf("%s: error %v, want %v", what, err, want.err)
	}
	if err != nil && (strings.Contains(err.Error(), visit.Address.Label()) || strings.Contains(err.Error(), "\n")) {
		t.Errorf("%s: error %q", what, err)
	}
	if trace.Stage != want.stage || trace.Via != v.pools[pool].tors[0].Name() {
		t.Errorf("%s: trace %+v, want stage %d", what, trace, want.stage)
	}
	if want.points != (len(trace.Points) > 0) {
		t.Errorf("%s: points %+v, want some: %v", what, trace.Points, want.points)
		return
	}
	if !want.points {
		return
	}
	last := trace.Points[len(trace.Points)-1]
	if last.Relay == (descriptor.Fingerprint{}) || last.Acknowledged != want.last.Acknowledged || last.Answered != want.last.Answered {
		t.Errorf("%s: points %+v, want %+v in the end", what, trace.Points, want.last)
	}
}

// TestVisits: each way in which a visit ends, and what its trace says.
func TestVisits(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a network of tors")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	v := startVisits(ctx, t)
	var group errgroup.Group
	for pool := range v.pools {
		group.Go(func() error {
			v.visitLocked(ctx, t, pool) // first: it makes tor drop its circuits
			v.visitLiving(ctx, t, pool)
			return nil
		})
	}
	_ = group.Wait()
	if err := syscall.Kill(v.web["frozen"].PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	v.holdUntilKilled(ctx, t)
	for pool := range v.pools {
		group.Go(func() error {
			v.visitDead(ctx, t, pool)
			return nil
		})
	}
	_ = group.Wait()
	if err := syscall.Kill(v.web["frozen"].PID(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}

var (
	acknowledged = health.PointResult{Acknowledged: true}
	answered     = health.PointResult{Acknowledged: true, Answered: true}
)

func (v *visits) visitLiving(ctx context.Context, t *testing.T, pool string) {
	ok := v.addressOf(t, "ok")
	connected := expected{stage: health.Connected, points: true, last: answered}
	kept := expected{stage: health.Connected}
	v.check(ctx, t, pool, "a living service", health.Visit{Address: ok, Port: 80, Circuit: "a"}, 30*time.Second, connected)
	v.check(ctx, t, pool, "on the same circuit", health.Visit{Address: ok, Port: 80, Circuit: "a"}, 30*time.Second, kept)
	v.check(ctx, t, pool, "on a new circuit", health.Visit{Address: ok, Port: 80, Circuit: "b"}, 30*time.Second, connected)
	v.check(ctx, t, pool, "a port that leads nowhere", health.Visit{Address: ok, Port: 81, Circuit: "c"}, 30*time.Second,
		expected{health.Answered, health.ErrRefused, true, answered})
	v.check(ctx, t, pool, "a port that is not there", health.Visit{Address: ok, Port: 82, Circuit: "d"}, 30*time.Second,
		expected{health.Answered, health.ErrNoPort, true, answered})
	v.check(ctx, t, pool, "the same, circuit kept", health.Visit{Address: ok, Port: 82, Circuit: "a"}, 30*time.Second,
		expected{stage: health.Answered, err: health.ErrNoPort})
	v.check(ctx, t, pool, "no descriptor", health.Visit{Address: noService, Port: 80, Circuit: "a"}, 30*time.Second,
		expected{stage: health.NoPoint, err: errAny})
	for _, name := range []string{"frozen", "killed"} {
		v.check(ctx, t, pool, name+", before", health.Visit{Address: v.addressOf(t, name), Port: 80, Circuit: "kept"}, 30*time.Second, connected)
	}
}

func (v *visits) visitDead(ctx context.Context, t *testing.T, pool string) {
	frozen, killed := v.addressOf(t, "frozen"), v.addressOf(t, "killed")
	v.check(ctx, t, pool, "frozen, circuit kept", health.Visit{Address: frozen, Port: 80, Circuit: "kept"}, 2*time.Second,
		expected{stage: health.Introduced, err: context.DeadlineExceeded})
	v.check(ctx, t, pool, "frozen, new circuit", health.Visit{Address: frozen, Port: 80, Circuit: "new"}, 4*time.Second,
		expected{health.Introduced, context.DeadlineExceeded, true, acknowledged})
	v.check(ctx, t, pool, "killed, new circuit", health.Visit{Address: killed, Port: 80, Circuit: "new"}, 20*time.Second,
		expected{stage: health.NoPoint, err: errAny, points: true})
	// tor remembers for two minutes which points failed: the next visit tries another.
	v.check(ctx, t, pool, "killed, again", health.Visit{Address: killed, Port: 80, Circuit: "again"}, 20*time.Second,
		expected{stage: health.NoPoint, err: errAny, points: true})
	v.check(ctx, t, pool, "killed, patiently", health.Visit{Address: killed, Port: 80, Circuit: "patient", Patient: true}, 20*time.Second,
		expected{stage: health.NoPoint, err: errAny, points: true})
}

// holdUntilKilled measures how soon a kept stream shows that its service was killed.
func (v *visits) holdUntilKilled(ctx context.Context, t *testing.T) {
	conn, _, err := v.pools["own"].Dial(ctx, health.Visit{Address: v.addressOf(t, "killed"), Port: 80, Circuit: "kept"})
	if err != nil {
		t.Error(err)
		v.web["killed"].Kill()
		return
	}
	defer conn.Close()
	killed := make(chan time.Time, 1)
	go func() {
		killed <- time.Now()
		v.web["killed"].Kill()
		killed <- time.Now()
	}()
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	began := <-killed
	_, err = conn.Read(make([]byte, 1))
	t.Logf("the end of a kept stream showed %v after kill -9: %v", time.Since(began).Round(time.Millisecond), err)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the end of a kept stream did not show")
	}
	<-killed
}

// visitLocked: a service for authorized clients, with and without the key.
func (v *visits) visitLocked(ctx context.Context, t *testing.T, pool string) {
	p, address := v.pools[pool], v.addressOf(t, "locked")
	client := p.tors[0].client
	key, err := descriptor.ParseClientKey([]byte(privateHalf))
	if err != nil {
		t.Error(err)
		return
	}
	none := expected{stage: health.NoPoint, err: errAny}
	circuits := 0
	visit := func(what string, want expected) {
		circuits++
		v.check(ctx, t, pool, what, health.Visit{Address: address, Port: 80, Circuit: fmt.Sprint(circuits)}, 30*time.Second, want)
	}
	connected := expected{stage: health.Connected, points: true, last: answered}
	visit("locked", none)
	if err := p.Authorize(ctx, address, key); err != nil {
		t.Error(err)
	}
	visit("locked, with the key", connected)
	if err := client.Signal(ctx, "NEWNYM"); err != nil {
		t.Error(err)
	}
	visit("locked, after NEWNYM", connected)
	if err := p.Revoke(ctx, address); err != nil {
		t.Error(err)
	}
	if has := v.viewKeys(t, pool, address); has != "" {
		t.Errorf("%s: after Revoke tor has %q", pool, has)
	}
	// The operator's own key is neither replaced nor removed.
	if err := client.Signal(ctx, "NEWNYM"); err != nil { // drops the descriptor
		t.Error(err)
	}
	v.command(t, pool, "ONION_CLIENT_AUTH_ADD "+address.Label()+" x25519:"+wrongKey+" ClientName=operator")
	before := v.viewKeys(t, pool, address)
	if err := p.Authorize(ctx, address, key); err != nil {
		t.Error(err)
	}
	visit("locked, with the operator's wrong key", none)
	if err := p.Revoke(ctx, address); err != nil {
		t.Error(err)
	}
	if after := v.viewKeys(t, pool, address); after != before || !strings.Contains(after, "operator") {
		t.Errorf("%s: the operator's key is %q, was %q", pool, after, before)
	}
}

// viewKeys returns what a tor says of its client keys for an address.
func (v *visits) viewKeys(t *testing.T, pool string, address descriptor.Address) string {
	t.Helper()
	lines := v.command(t, pool, "ONION_CLIENT_AUTH_VIEW "+address.Label())
	return strings.Join(slices.DeleteFunc(lines, func(line string) bool { return !strings.HasPrefix(line, "250-CLIENT ") }), "\n")
}

// command sends a command to a tor as another program would.
func (v *visits) command(t *testing.T, pool, command string) (lines []string) {
	t.Helper()
	target, cookieFile := v.net.ControlTarget(pool), filepath.Join(v.net.Dir(), pool, "control_auth_cookie")
	if own := v.pools[pool].tors[0].own; own != nil {
		target, cookieFile = "unix:"+own.Socket(), filepath.Join(filepath.Dir(own.SocksSocket()), "cookie")
	}
	cookie, err := os.ReadFile(cookieFile)
	if err != nil {
		t.Error(err)
	}
	conn, err := control.DialTarget(target)(t.Context())
	if err != nil {
		t.Error(err)
		return nil
	}
	defer conn.Close()
	fmt.Fprintf(conn, "AUTHENTICATE %x\r\n%s\r\nQUIT\r\n", cookie, command)
	text, err := io.ReadAll(conn)
	if err != nil {
		t.Error(err)
	}
	return strings.Split(string(text), "\r\n")
}

const (
	privateHalf = "A4EASCQLBQGQ4DYQCEJBGFAVCYLRQGI2DMOB2HQ7EAQSEIZEEUTA"
	publicHalf  = "A64MKQSIO2DKPAYBQVP4W3J7NKFJCHGX6GMDVG2E3SO42IUDTURQ"
	wrongKey    = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
)

// noService is an address that no service has.
var noService = func() descriptor.Address {
	key, err := descriptor.IdentityKeyFromSeed(make([]byte, 32))
	if err != nil {
		panic(err)
	}
	return key.Address()
}()
