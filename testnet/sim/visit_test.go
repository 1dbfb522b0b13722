package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/health"
	"onionbalancer/internal/tor/control"
)

// dialing is a test's way to make visits.
type dialing struct {
	t *testing.T
	n *Network
}

// visit dials with a timeout, and says how long that took.
func (d dialing) visit(a descriptor.Address, circuit string, timeout time.Duration) (net.Conn, health.Trace, time.Duration, error) {
	ctx, cancel := context.WithTimeout(d.t.Context(), timeout)
	defer cancel()
	began := time.Now()
	conn, trace, err := d.n.Dialer().Dial(ctx, health.Visit{Address: a, Port: 80, Circuit: circuit, Patient: true})
	if conn != nil {
		d.t.Cleanup(func() { _ = conn.Close() }) // twice does no harm
	}
	return conn, trace, time.Since(began), err
}

// want dials, and fails unless the visit comes that far.
func (d dialing) want(when string, a descriptor.Address, circuit string, stage health.Stage, points int) (net.Conn, health.Trace) {
	d.t.Helper()
	conn, trace, took, err := d.visit(a, circuit, 30*time.Second)
	if trace.Stage != stage || (err == nil) != (stage == health.Connected) || (points >= 0 && len(trace.Points) != points) || trace.Via == "" {
		d.t.Errorf("%s: %+v after %s, %v; want stage %d and %d points", when, trace, took, err, stage, points)
	}
	return conn, trace
}

// get makes a request over a connection.
func get(conn net.Conn) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}}
	response, err := client.Get("http://web/")
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	return fmt.Sprint(response.StatusCode, " ", strings.TrimSpace(string(body))), err
}

func TestVisit(t *testing.T) {
	inNetwork(t, Config{Seed: 4}, func(t *testing.T, n *Network) {
		d := dialing{t, n}
		i := n.AddInstance(InstanceConfig{Start: time.Minute})
		time.Sleep(time.Minute)
		conn, trace := d.want("at first", i.Address(), "a", health.Connected, 1)
		if p := trace.Points[0]; !p.Acknowledged || !p.Answered || !pointsOf(t, n, i)[p.Relay] {
			t.Errorf("at first: %+v", trace)
		}
		if answer, err := get(conn); answer != "200 OK" || err != nil {
			t.Errorf("it answers %q, %v", answer, err)
		}
		conn, _ = d.want("on the same circuit", i.Address(), "a", health.Connected, 0)
		i.SetApplication(nil)
		if answer, err := get(conn); answer != "200 OK" || err != nil {
			t.Errorf("a connection of before: %q, %v", answer, err)
		}
		d.want("without an application", i.Address(), "a", health.Answered, 0)
		i.SetApplication(func(uint16, net.Conn) {})
		conn, _ = d.want("with one that hangs up", i.Address(), "a", health.Connected, 0)
		if answer, err := get(conn); err == nil {
			t.Errorf("one that hangs up says %q, %v", answer, err)
		}
		i.SetApplication(Web)

		conn, _ = d.want("before the freeze", i.Address(), "a", health.Connected, 0)
		i.SetFrozen(true)
		if answer, err := get(conn); err == nil {
			t.Errorf("a frozen instance says %q", answer)
		}
		d.want("frozen, a kept circuit", i.Address(), "a", health.Introduced, 0)
		_, trace = d.want("frozen, a new one", i.Address(), "b", health.Introduced, 3)
		if p := trace.Points[0]; !p.Acknowledged || p.Answered {
			t.Errorf("frozen: %+v", trace)
		}
		thawed := time.AfterFunc(5*time.Second, func() { i.SetFrozen(false) })
		defer thawed.Stop()
		conn, _ = d.want("thawed while we wait", i.Address(), "a", health.Connected, 0)

		time.AfterFunc(3*time.Second, func() { i.SetOnline(false) })
		began := time.Now()
		if _, err := io.ReadAll(conn); err == nil || time.Since(began) != 3*time.Second {
			t.Errorf("a stream to an instance that is killed ends after %s with %v", time.Since(began), err)
		}
		_, hasty, err := n.Dialer().Dial(t.Context(), health.Visit{Address: i.Address(), Port: 80, Circuit: "hasty"})
		if err == nil || hasty.Stage != health.NoPoint || len(hasty.Points) != 1 || hasty.Points[0].Acknowledged {
			t.Errorf("killed, and visited without patience: %+v, %v", hasty, err)
		}
		d.want("killed", i.Address(), "a", health.NoPoint, 2)
		i.SetOnline(true)
		time.Sleep(150*time.Second + time.Second) // its points are not known to have failed any more, but gone
		_, trace = d.want("back", i.Address(), "a", health.Connected, -1)
		if last := trace.Points[len(trace.Points)-1]; !last.Answered || !pointsOf(t, n, i)[last.Relay] {
			t.Errorf("back: %+v", trace)
		}
		time.Sleep(11 * time.Minute)
		d.want("on a circuit that nobody used", i.Address(), "a", health.Connected, 1)
		if got := n.Dialer().Visits(); got.Dials != 12 || got.Fresh != 6 {
			t.Errorf("%+v", got)
		}
	})
}

// New circuits go over all introduction points.
func TestVisitsRotate(t *testing.T) {
	inNetwork(t, Config{Seed: 4}, func(t *testing.T, n *Network) {
		i := n.AddInstance(InstanceConfig{})
		time.Sleep(time.Minute)
		asked := make(map[descriptor.Fingerprint]int)
		for k := range 60 {
			_, trace := dialing{t, n}.want("", i.Address(), fmt.Sprint(k), health.Connected, 1)
			asked[trace.Points[0].Relay]++
		}
		if len(asked) != 3 {
			t.Errorf("of three points these were asked: %v", asked)
		}
		for relay, times := range asked {
			if times < 10 {
				t.Errorf("%s was asked %d times of 60", relay, times)
			}
		}
	})
}

// A visit to the public address shows which instance's point answers, and which
// does not.
func TestVisitPublicAddress(t *testing.T) {
	inNetwork(t, Config{Seed: 4}, func(t *testing.T, n *Network) {
		a, b := n.AddInstance(InstanceConfig{}), n.AddInstance(InstanceConfig{})
		time.Sleep(time.Minute)
		c := &copier{service: newService(t, n), instances: []*Instance{a, b}}
		c.round()
		b.SetListed(c.key.Address(), false)
		of := pointsOf(t, n, b)
		silent := 0
		for k := range 40 {
			_, trace, _, _ := dialing{t, n}.visit(c.key.Address(), fmt.Sprint(k), time.Minute)
			for _, p := range trace.Points {
				if !p.Acknowledged || p.Answered == of[p.Relay] {
					t.Errorf("of the instance without the line: %t, %+v", of[p.Relay], p)
				}
				if !p.Answered {
					silent++
				}
			}
		}
		if silent == 0 {
			t.Error("the instance without the line was never asked")
		}
		dialing{t, n}.want("at its own address", b.Address(), "own", health.Connected, 1)
	})
}

// Our own tor may be what does not work.
func TestVisitWithoutTor(t *testing.T) {
	inNetwork(t, Config{Seed: 4}, func(t *testing.T, n *Network) {
		d := dialing{t, n}
		i := n.AddInstance(InstanceConfig{})
		time.Sleep(time.Minute)
		conn, _ := d.want("at first", i.Address(), "a", health.Connected, 1)
		n.Tor().SetOffline(true)
		if _, err := get(conn); err == nil {
			t.Error("an answer came through a tor that is cut off")
		}
		_, _, took, err := d.visit(i.Address(), "b", 20*time.Second)
		if !errors.Is(err, context.DeadlineExceeded) || took != 20*time.Second {
			t.Errorf("cut off: %v after %s", err, took)
		}
		d.want("cut off", i.Address(), "c", health.NoTor, 0)
		d.want("cut off, a kept circuit", i.Address(), "a", health.Introduced, 0)
		n.Tor().SetOffline(false)
		conn, _ = d.want("back", i.Address(), "d", health.Connected, 1)
		n.Tor().Restart(time.Minute, time.Minute)
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("a stream outlives its tor")
		}
		d.want("without tor", i.Address(), "d", health.NoTor, 0)
		time.Sleep(10 * time.Minute)
		d.want("with tor again", i.Address(), "d", health.Connected, 1)
	})
}

// A tor that is cut off hears of nothing that controllers have it do.
func TestOfflineControl(t *testing.T) {
	inNetwork(t, Config{Seed: 1}, func(t *testing.T, n *Network) {
		i := n.AddInstance(InstanceConfig{})
		time.Sleep(time.Minute)
		withControl(t, n, control.Config{}, func(ctx context.Context, c *control.Client) {
			if err := c.Ready(ctx); err != nil {
				t.Fatal(err)
			}
			dirs, _, err := n.Responsible(i.Address())
			if err != nil {
				t.Fatal(err)
			}
			fetch := func() error {
				short, cancel := context.WithTimeout(ctx, 20*time.Second)
				defer cancel()
				_, err := c.HSFetch(short, i.Address().Label(), dirs[0].Fingerprint())
				return err
			}
			n.Tor().SetOffline(true)
			if err := fetch(); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("cut off: %v", err)
			}
			n.Tor().SetOffline(false)
			if err := fetch(); err != nil {
				t.Errorf("back: %v", err)
			}
		})
	})
}

// The tor needs the key of a service that authorizes clients, and only while it
// has it.
func TestVisitWithClientKey(t *testing.T) {
	inNetwork(t, Config{Seed: 4}, func(t *testing.T, n *Network) {
		d := dialing{t, n}
		key, err := descriptor.ParseClientKey([]byte("descriptor:x25519:AEBAGBAFAYDQQCIKBMGA2DQPCAIREEYUCULBOGAZDINRYHI6D4QA"))
		if err != nil {
			t.Fatal(err)
		}
		i := n.AddInstance(InstanceConfig{Clients: []descriptor.AuthorizedClient{key.Client()}})
		time.Sleep(time.Minute)
		d.want("without the key", i.Address(), "a", health.NoPoint, 0)
		if err := n.Dialer().Authorize(t.Context(), i.Address(), key); err != nil {
			t.Fatal(err)
		}
		d.want("with it", i.Address(), "b", health.Connected, 1)
		if n.Dialer().Visits().Keys != 1 {
			t.Errorf("%+v", n.Dialer().Visits())
		}
		if err := n.Dialer().Revoke(t.Context(), i.Address()); err != nil {
			t.Fatal(err)
		}
		d.want("without it again", i.Address(), "c", health.NoPoint, 0)
		if n.Dialer().Visits().Keys != 0 {
			t.Errorf("%+v", n.Dialer().Visits())
		}
	})
}

// The same seed makes the same visits.
func TestVisitsAreDeterministic(t *testing.T) {
	run := func(seed uint64) string {
		var log string
		inNetwork(t, Config{Seed: seed}, func(t *testing.T, n *Network) {
			i := n.AddInstance(InstanceConfig{})
			time.Sleep(time.Minute)
			for k := range 30 {
				i.SetFrozen(k%5 == 4)
				_, trace, took, err := dialing{t, n}.visit(i.Address(), fmt.Sprint(k/3), 20*time.Second)
				log += fmt.Sprint(trace, took, err, ";")
			}
		})
		return log
	}
	once := run(1)
	if again := run(1); again != once {
		t.Error("two runs of one seed differ")
	}
	if other := run(2); other == once {
		t.Error("runs of different seeds are the same")
	}
}

// What a controller fetched is what visits use, of a new period too, in which revision
// counters are lower.
func TestVisitUsesWhatWasFetched(t *testing.T) {
	inNetwork(t, Config{Seed: 4, Tor: TorConfig{ConsensusDelay: time.Minute}}, func(t *testing.T, n *Network) {
		i := n.AddInstance(InstanceConfig{})
		withControl(t, n, control.Config{}, func(ctx context.Context, c *control.Client) {
			for hour := range 30 {
				time.Sleep(time.Hour)
				ring := n.Tor().Consensus().current()
				keys, err := i.Address().Keys(ring.key.period)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := c.HSFetch(ctx, i.Address().Label(), ring.fetch(&n.cfg, keys.Blinded)[0].Fingerprint()); err != nil {
					t.Fatal(err)
				}
				dialing{t, n}.want(fmt.Sprint("hour ", hour), i.Address(), fmt.Sprint(hour), health.Connected, 1)
			}
		})
	})
}
