package tor

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/internal/health"
	"onionbalancer/internal/tor/control"
)

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// TestSpread: every tor gets about its share, whatever the order of the tors,
// and with one tor more only that one takes over.
func TestSpread(t *testing.T) {
	tor := func(name string) *Tor { return New(name, nil) }
	list := addresses(4000)
	p := NewPool(tor("tor"), tor("tor-2"), tor("tor-3"), tor("tor-4"))
	other := NewPool(tor("tor-5"), tor("tor-4"), tor("tor-3"), tor("tor-2"), tor("tor"))
	count, moved := map[string]int{}, 0
	for _, a := range list {
		name, now := p.For(a).Name(), other.For(a).Name()
		count[name]++
		if now != name && now != "tor-5" {
			t.Fatalf("moved from %s to %s", name, now)
		}
		if now != name {
			moved++
		}
	}
	for name, n := range count {
		if n < 850 || n > 1150 {
			t.Errorf("%s has %d of 4000", name, n)
		}
	}
	if moved < 650 || moved > 950 {
		t.Errorf("%d of 4000 moved to the fifth", moved)
	}
}

// TestDeadTor: a tor that dies keeps its services for the grace period, then
// they move; they return when it has been well for long enough. The services of
// the others stay where they are.
func TestDeadTor(t *testing.T) {
	for name, trouble := range map[string]struct{ begin, end func(*fakeTor) }{
		"not connected": {func(f *fakeTor) { f.setDown(true) }, func(f *fakeTor) { f.setDown(false) }},
		"no consensus":  {func(f *fakeTor) { f.set(infoExpiry, "") }, func(f *fakeTor) { f.setConsensus(time.Hour) }},
		"old consensus": {func(f *fakeTor) { f.setConsensus(0) }, func(f *fakeTor) { f.setConsensus(time.Hour) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fakes := []*fakeTor{{}, {}, {}}
				// Connect again soon, so that the times below are the pool's.
				p := run(t, control.Config{MaxBackoff: time.Second}, fakes...)
				list := addresses(100)
				before, changed := assigned(p, list), p.Changed()
				dead := p.Tors()[1]
				time.Sleep(time.Hour)
				trouble.begin(fakes[1])
				time.Sleep(p.times.grace - p.times.look)
				synctest.Wait()
				if closed(changed) || !maps.Equal(before, assigned(p, list)) {
					t.Fatal("moved within the grace period")
				}
				time.Sleep(3 * p.times.look)
				synctest.Wait()
				if !closed(changed) {
					t.Fatal("nobody was told")
				}
				changed = p.Changed()
				for a, now := range assigned(p, list) {
					if now == dead || before[a] != dead && now != before[a] {
						t.Errorf("moved from %s to %s", before[a].Name(), now.Name())
					}
				}
				if s := p.Statuses(); !s[0].Serving || s[1].Serving || !s[2].Serving {
					t.Errorf("status %+v", s)
				}
				if w := p.Warnings(); len(w) != 1 || !strings.Contains(w[0], "fake-2 does not serve") {
					t.Errorf("warnings %q", w)
				}
				time.Sleep(time.Hour)
				trouble.end(fakes[1])
				time.Sleep(p.times.settle - p.times.look)
				synctest.Wait()
				if closed(changed) {
					t.Error("moved back before the tor had settled")
				}
				time.Sleep(3 * p.times.look)
				synctest.Wait()
				if !closed(changed) || !maps.Equal(before, assigned(p, list)) || !p.Statuses()[1].Serving {
					t.Error("not moved back")
				}
			})
		})
	}
}

// TestRestartingTor: short losses of the connection move nothing.
func TestRestartingTor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fakes := []*fakeTor{{}, {}}
		p := run(t, control.Config{}, fakes...)
		time.Sleep(time.Minute)
		changed := p.Changed()
		for range 20 {
			fakes[0].setDown(true)
			time.Sleep(10 * time.Second)
			fakes[0].setDown(false)
			time.Sleep(20 * time.Second)
		}
		if closed(changed) {
			t.Error("services moved")
		}
	})
}

// TestAllDown: when no tor is left, services stay; the first tor that is back
// takes them all at once, with a consensus or, while no tor has one, without.
func TestAllDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fakes := []*fakeTor{{}, {}}
		p := run(t, control.Config{MaxBackoff: time.Second}, fakes...)
		list := addresses(20)
		before := assigned(p, list)
		time.Sleep(time.Minute)
		for _, f := range fakes {
			f.setDown(true)
		}
		time.Sleep(time.Hour)
		if !maps.Equal(before, assigned(p, list)) {
			t.Error("moved, with no tor to move to")
		}
		only := func(when string, want *Tor) {
			t.Helper()
			time.Sleep(2 * p.times.look)
			synctest.Wait()
			for a, now := range assigned(p, list) {
				if now != want {
					t.Fatalf("%s: %v is at %s", when, a, now.Name())
				}
			}
		}
		fakes[0].set(infoExpiry, "")
		fakes[0].setDown(false)
		only("one is back, without a consensus", p.Tors()[0])
		fakes[1].setDown(false)
		only("the other is back with one", p.Tors()[1])
	})
}

// TestMuteTor: a tor that answers, and through which no HSDir does, loses its
// services to the others while these are better off; it is tried again, ever more
// rarely, and keeps them when it is well.
func TestMuteTor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fakes := []*fakeTor{{}, {}}
		p := run(t, control.Config{}, fakes...)
		list := addresses(8)
		before := assigned(p, list)
		// pass has each address uploaded once a minute, each time to another HSDir,
		// and returns how often services moved.
		pass := func(d time.Duration) (moves int) {
			for minute := range int(d / time.Minute) {
				changed := p.Changed()
				for n, a := range list {
					go func() {
						ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
						defer cancel()
						_ = p.For(a).Poster().HSPost(ctx, a.Label(), fmt.Sprintf("%040X", 100*minute+n), []byte("hs-descriptor 3\n"))
					}()
				}
				time.Sleep(time.Minute)
				if closed(changed) {
					moves++
				}
			}
			return moves
		}
		if pass(20*time.Minute) > 0 {
			t.Error("moved while all was well")
		}
		fakes[1].setMute(true)
		if moves := pass(muteAfter + 2*time.Minute); moves != 1 || p.Statuses()[1].Serving {
			t.Errorf("moved %d times when the tor is mute", moves)
		}
		if w := p.Warnings(); len(w) != 1 || !strings.Contains(w[0], "fake-2 does not serve, its services moved to the other tors: no HSDir answers uploads") {
			t.Errorf("warnings %q", w)
		}
		if moves := pass(16 * time.Hour); moves < 6 || moves > 16 {
			t.Errorf("moved %d times in 16 hours of a mute tor", moves)
		}
		fakes[1].setMute(false)
		if pass(muteRetryMax + time.Hour); !maps.Equal(before, assigned(p, list)) || len(p.Warnings()) > 0 {
			t.Errorf("not moved back: %q", p.Warnings())
		}
		fakes[0].setMute(true) // and then the other: the network itself is away
		pass(3 * time.Minute)
		fakes[1].setMute(true)
		if moves := pass(2 * time.Hour); moves > 0 {
			t.Errorf("moved %d times, with no tor that is better off", moves)
		}
		for _, f := range fakes {
			f.setMute(false)
		}
		pass(10 * time.Minute)
		for range 120 { // some HSDirs are down, and nothing else is uploaded
			for n := range muteHSDirs - 1 {
				p.Tors()[1].uploaded(time.Now(), time.Now(), fmt.Sprint(n), context.DeadlineExceeded)
			}
			p.Tors()[0].uploaded(time.Now(), time.Now(), "another", nil)
			time.Sleep(time.Minute)
		}
		if !maps.Equal(before, assigned(p, list)) {
			t.Error("moved for the sake of some HSDirs")
		}
	})
}

// TestOne: a pool of one asks its tor nothing.
func TestOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := new(fakeTor)
		p := run(t, control.Config{}, fake)
		changed := p.Changed()
		fake.set(infoExpiry, "")
		time.Sleep(time.Hour)
		fake.setDown(true)
		time.Sleep(time.Hour)
		for _, a := range addresses(5) {
			if p.For(a) != p.Tors()[0] {
				t.Error("another tor")
			}
		}
		if s := p.Statuses()[0]; closed(changed) || !s.Serving || s.Connected || !strings.Contains(s.Error, errDown.Error()) {
			t.Errorf("status %+v", s)
		}
	})
}

// TestSameGuard: tors that use the same guard are named, in log and status.
func TestSameGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c := strings.Repeat("A", 40), strings.Repeat("B", 40), strings.Repeat("C", 40)
		fakes := []*fakeTor{{}, {}, {}}
		var log bytes.Buffer
		p := run(t, control.Config{Log: slog.New(slog.NewTextHandler(&log, nil))}, fakes...)
		fakes[0].set("entry-guards", "$"+a+"~one up\r\n$"+b+"~two never-connected")
		fakes[1].set("entry-guards", "$"+b+"~two up\r\n$"+c+"~three unusable 2026-01-01 00:00:00")
		fakes[2].set("entry-guards", "$"+c+"~three up")
		time.Sleep(5 * time.Minute)
		for _, s := range p.Statuses() {
			if len(s.SameGuards) > 0 {
				t.Errorf("%s: %q", s.Name, s.SameGuards)
			}
		}
		fakes[2].set("entry-guards", "$"+c+"~three up\r\n$"+a+"~one up")
		time.Sleep(time.Hour)
		s := p.Statuses()
		if strings.Join(s[0].SameGuards, " ") != "fake-3" || len(s[1].SameGuards) > 0 || strings.Join(s[2].SameGuards, " ") != "fake-1" {
			t.Errorf("status %+v", s)
		}
		if w := p.Warnings(); len(w) != 1 || !strings.Contains(w[0], "fake-1 and fake-3 use the same guard") {
			t.Errorf("warnings %q", w)
		}
		if n := strings.Count(log.String(), "same guard"); n != 2 || strings.Contains(log.String(), a) {
			t.Errorf("logged %d times: %s", n, log.String())
		}
	})
}

// TestReady: the first tor that answers is enough.
func TestReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fakes := []*fakeTor{{down: true}, {}}
		p := run(t, control.Config{}, fakes...)
		if got, err := p.Ready(t.Context()); err != nil || got != p.Tors()[1] {
			t.Errorf("got %v, %v", got, err)
		}
		fakes[1].setDown(true)
		time.Sleep(time.Second)
		if _, err := p.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), errDown.Error()) {
			t.Errorf("got %v", err)
		}
	})
}

func TestEachConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := new(fakeTor)
		p := run(t, control.Config{}, fake)
		ctx, cancel := context.WithCancel(t.Context())
		times, done := 0, make(chan struct{})
		go func() { defer close(done); p.Tors()[0].EachConnect(ctx, func() { times++ }) }()
		time.Sleep(time.Minute)
		fake.setConsensus(time.Hour) // wakes, but is no connection
		fake.setDown(true)
		time.Sleep(time.Minute)
		fake.setDown(false)
		time.Sleep(time.Minute)
		cancel()
		<-done
		if times != 2 {
			t.Errorf("called %d times", times)
		}
	})
}

func TestSocks(t *testing.T) {
	for _, test := range []struct{ control, listeners, want string }{
		{"unix:/run/tor/control", `"127.0.0.1:9050" "unix:/run/tor/socks"`, "unix /run/tor/socks"},
		{"unix:/run/tor/control", `"unix:/run/with \"odd\" name/socks"`, `unix /run/with "odd" name/socks`},
		{"unix:/run/tor/control", `"127.0.0.1:9050"`, "tcp 127.0.0.1:9050"},
		{"127.0.0.1:9051", `"0.0.0.0:9050"`, "tcp 127.0.0.1:9050"},
		{"localhost:9051", `"[::1]:9050"`, "tcp [::1]:9050"},
		{"192.0.2.1:9051", `"127.0.0.1:9050" "0.0.0.0:9150"`, "tcp 192.0.2.1:9150"},
		{"192.0.2.1:9051", `"127.0.0.1:9050"`, ""},
		{"127.0.0.1:9051", "", ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			fake := new(fakeTor)
			p := run(t, control.Config{}, fake)
			only := p.Tors()[0]
			only.target = test.control
			fake.set("net/listeners/socks", test.listeners+" ")
			if err := only.Ready(t.Context()); err != nil {
				t.Fatal(err)
			}
			network, address, err := only.Socks(t.Context())
			if got := network + " " + address; err == nil && got != test.want || err != nil && test.want != "" {
				t.Errorf("%s at %s: %q, %v, want %q", test.listeners, test.control, got, err, test.want)
			}
			if err != nil && !strings.Contains(err.Error(), "SocksPort unix:") {
				t.Errorf("says not what to do: %v", err)
			}
		})
	}
}

// A visit goes through the tor that it names, whichever serves the address.
func TestVisitThroughNamedTor(t *testing.T) {
	p := NewPool(New("tor", nil), New("tor-2", nil), New("tor-3", nil))
	for _, a := range addresses(20) {
		for _, named := range p.tors {
			if got := p.through(health.Visit{Address: a, Via: named.name}); got != named {
				t.Errorf("through %s, want %s", got.name, named.name)
			}
		}
		if got := p.through(health.Visit{Address: a}); got != p.For(a) {
			t.Errorf("through %s, want the one that serves it", got.name)
		}
	}
}
