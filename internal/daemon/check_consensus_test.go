package daemon

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"onionbalancer/hsdir"
	"onionbalancer/internal/config"
	"onionbalancer/internal/tor"
	"onionbalancer/internal/tor/control"
	"onionbalancer/testnet/sim"
)

// onSimTor runs do with a checker and a connection to a simulated tor whose
// newest consensus is age old. Finding is the last one told.
func onSimTor(t *testing.T, age time.Duration, do func(ctx context.Context, net *sim.Network, c *checker, conn *tor.Tor, last *Finding)) {
	t.Helper()
	simulated(t, func(t *testing.T, net *sim.Network) {
		time.Sleep(2 * time.Minute)
		net.Tor().FreezeConsensus(true)
		time.Sleep(age)
		ctx, cancel := context.WithCancel(t.Context())
		client := control.New(control.Config{Dial: net.Dial})
		done := make(chan struct{})
		go func() { defer close(done); _ = client.Run(ctx) }()
		defer func() { cancel(); <-done }()
		conn := tor.New("simulated", client)
		if err := conn.Ready(ctx); err != nil {
			t.Fatal(err)
		}
		var last Finding
		do(ctx, net, &checker{cfg: new(config.Config), log: slog.New(slog.DiscardHandler), tell: func(f Finding) { last = f }, torLog: "see tor's log"}, conn, &last)
	})
}

// A tor that comes back after hours has an old consensus in its cache, and a new
// one in a moment. The clock has nothing to do with it.
func TestCheckWaitsForNewConsensus(t *testing.T) {
	onSimTor(t, 30*time.Hour, func(ctx context.Context, net *sim.Network, c *checker, conn *tor.Tor, last *Finding) {
		var log bytes.Buffer
		c.log = slog.New(slog.NewTextHandler(&log, nil))
		time.AfterFunc(20*time.Second, func() { net.Tor().FreezeConsensus(false); net.Tor().LoseConsensus(); net.Tor().RegainConsensus() })
		began := time.Now()
		if consensus := c.checkConsensus(ctx, conn); consensus == nil || !consensus.Live(time.Now()) {
			t.Errorf("got %+v", consensus)
		}
		if last.Level != LevelOK || !strings.Contains(last.Detail, " UTC, ") {
			t.Errorf("found %+v", last)
		}
		if took := time.Since(began); took > time.Minute || !strings.Contains(log.String(), "waiting for a consensus") {
			t.Errorf("after %v, logged %q", took, log.String())
		}
	})
}

// When no new one comes, it is said what tor says about it, and not the clock.
func TestCheckOldConsensus(t *testing.T) {
	for age, level := range map[time.Duration]Level{6 * time.Hour: LevelWarning, 30 * time.Hour: LevelFailed} {
		onSimTor(t, age, func(ctx context.Context, _ *sim.Network, c *checker, conn *tor.Tor, last *Finding) {
			began := time.Now()
			if c.checkConsensus(ctx, conn) == nil || time.Since(began) > consensusPatience {
				t.Errorf("no old one either, after %v", time.Since(began))
			}
			if last.Level != level || !strings.Contains(last.Detail, "UTC, over since 20") || !strings.Contains(last.Detail, "has no new consensus yet") ||
				strings.Contains(last.Detail+last.Fix, "clock") {
				t.Errorf("%v: found %+v", age, last)
			}
		})
	}
}

// A consensus that is not of today yet was signed by many whose clocks are right.
func TestCheckClockBehind(t *testing.T) {
	onSimTor(t, 0, func(ctx context.Context, _ *sim.Network, c *checker, conn *tor.Tor, _ *Finding) {
		now := time.Now()
		for ahead, want := range map[time.Duration]string{0: "", time.Minute: "", time.Hour: "this machine's clock says " + utc(now)} {
			err := c.outdated(ctx, conn, &hsdir.Consensus{ValidAfter: now.Add(ahead), ValidUntil: now.Add(ahead + 3*time.Hour)})
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "set the clock right")) {
				t.Errorf("%v ahead: %v, want %q", ahead, err, want)
			}
		}
	})
}
