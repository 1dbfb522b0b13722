package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/tor/control"
)

// The tests of this file are our control client's conversation with the
// simulated tor.

func TestFetch(t *testing.T) {
	inNetwork(t, Config{Seed: 1}, func(t *testing.T, n *Network) {
		i := n.AddInstance(InstanceConfig{})
		withControl(t, n, control.Config{}, func(ctx context.Context, c *control.Client) {
			if err := c.Ready(ctx); err != nil {
				t.Fatal(err)
			}
			ring := n.Tor().Consensus().current()
			keys, err := i.Address().Keys(ring.key.period)
			if err != nil {
				t.Fatal(err)
			}
			dirs := ring.fetch(&n.cfg, keys.Blinded)
			var bodies [][]byte
			for _, r := range dirs {
				body, err := c.HSFetch(ctx, i.Address().Label(), r.Fingerprint())
				if err != nil {
					t.Fatalf("fetching from %s: %v", r.Nickname(), err)
				}
				if _, err := new(descriptor.Decoder).Decode(body, keys, nil, time.Now()); err != nil {
					t.Fatalf("decoding what %s has: %v", r.Nickname(), err)
				}
				bodies = append(bodies, body)
			}
			if bytes.Equal(bodies[0], bodies[1]) {
				t.Error("two HSDirs have the same bytes: a service encrypts again for each")
			}
			for reason, faults := range map[string]Faults{
				"NOT_FOUND": {Amnesia: true}, "QUERY_REJECTED": {RejectFetches: true},
				"UNEXPECTED": {Overloaded: true}, "BAD_DESC": {Forge: Tampered},
			} {
				dirs[0].SetFaults(faults)
				_, err := c.HSFetch(ctx, i.Address().Label(), dirs[0].Fingerprint())
				if got := (*control.HSDescError)(nil); !errors.As(err, &got) || got.Reason() != reason {
					t.Errorf("%+v: %v, want %s", faults, err, reason)
				}
			}
			dirs[0].SetFaults(Faults{Forge: Tampered})
			n.Tor().SetFaults(ControlFaults{Trusting: true})
			if _, err := c.HSFetch(ctx, i.Address().Label(), dirs[0].Fingerprint()); err != nil {
				t.Errorf("a trusting tor: %v", err)
			}
			dirs[1].SetFaults(Faults{Silent: true})
			short, cancel := context.WithTimeout(ctx, 20*time.Second)
			defer cancel()
			if _, err := c.HSFetch(short, i.Address().Label(), dirs[1].Fingerprint()); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a silent HSDir: %v", err)
			}
			dirs[2].SetFaults(Faults{Delay: 15 * time.Second})
			start := time.Now()
			if _, err := c.HSFetch(ctx, i.Address().Label(), dirs[2].Fingerprint()); err != nil || time.Since(start) < 15*time.Second {
				t.Errorf("a slow HSDir: %v after %s", err, time.Since(start))
			}
			var refused *control.ReplyError
			_, err = c.HSFetch(ctx, i.Address().Label(), "0123456789012345678901234567890123456789")
			if !errors.As(err, &refused) || refused.Code != 552 {
				t.Errorf("an unknown HSDir: %v", err)
			}
		})
	})
}

func TestPost(t *testing.T) {
	inNetwork(t, Config{Seed: 1}, func(t *testing.T, n *Network) {
		s := newService(t, n)
		i := n.AddInstance(InstanceConfig{})
		var told []string
		to := n.Relays()[3]
		n.OnPost(func(p Posted) {
			if p.Through == n.Tor() && p.Address == s.key.Address() && p.To == to {
				told = append(told, fmt.Sprint(p.Counter, p.Stored))
			}
		})
		withControl(t, n, control.Config{}, func(ctx context.Context, c *control.Client) {
			if err := c.Ready(ctx); err != nil {
				t.Fatal(err)
			}
			points := decode(t, n, i, nil).IntroductionPoints
			period := n.Consensus().Period()
			address, dir := s.key.Address().Label(), to
			if err := c.HSPost(ctx, address, dir.Fingerprint(), s.encode(period, 7, points...)); err != nil {
				t.Fatal(err)
			}
			if _, revision := dir.Stored(s.keys(period).Blinded); revision != 7 {
				t.Errorf("revision %d stored, want 7", revision)
			}
			err := c.HSPost(ctx, address, dir.Fingerprint(), s.encode(period, 7, points...))
			if got := (*control.HSDescError)(nil); !errors.As(err, &got) || got.Reason() != "UPLOAD_REJECTED" {
				t.Errorf("an equal revision counter: %v", err)
			}
			dir.SetFaults(Faults{Overloaded: true})
			err = c.HSPost(ctx, address, dir.Fingerprint(), s.encode(period, 8, points...))
			if got := (*control.HSDescError)(nil); !errors.As(err, &got) || got.Reason() != "UNEXPECTED" {
				t.Errorf("an overloaded HSDir: %v", err)
			}
			var refused *control.ReplyError
			err = c.HSPost(ctx, address, dir.Fingerprint(), Tampered(s.encode(period, 9, points...)))
			if !errors.As(err, &refused) || refused.Code != 554 {
				t.Errorf("a tampered descriptor: %v", err)
			}
			if got := n.Tor().Counts(); got.Posts != 3 || got.Stored != 1 || got.Rejected != 1 {
				t.Errorf("counts %+v", got)
			}
		})
		if want := []string{"7 true", "7 false", "8 false"}; !slices.Equal(told, want) {
			t.Errorf("told %q, want %q", told, want)
		}
	})
}

func TestReconnect(t *testing.T) {
	inNetwork(t, Config{Seed: 1}, func(t *testing.T, n *Network) {
		i := n.AddInstance(InstanceConfig{})
		withControl(t, n, control.Config{}, func(ctx context.Context, c *control.Client) {
			ready := func() {
				t.Helper()
				synctest.Wait() // until the client knows that it lost the connection
				if err := c.Ready(ctx); err != nil {
					t.Fatal(err)
				}
			}
			fetch := func() error {
				ring := n.Consensus().current()
				keys, err := i.Address().Keys(ring.key.period)
				if err != nil {
					return err
				}
				dir := ring.fetch(&n.cfg, keys.Blinded)[0]
				short, cancel := context.WithTimeout(ctx, time.Minute)
				defer cancel()
				_, err = c.HSFetch(short, i.Address().Label(), dir.Fingerprint())
				return err
			}
			ready()
			n.Tor().CutReply("GETINFO", 1000)
			if _, err := c.GetInfo(ctx, consensusKey); err == nil {
				t.Error("a reply cut short was taken for whole")
			}
			ready()
			n.Tor().CutReply("HSFETCH", 3)
			if err := fetch(); err == nil {
				t.Error("a fetch whose reply was cut short succeeded")
			}
			ready()
			n.Tor().GarbleReply("GETINFO", []byte("\x00\xff nonsense\r\n\r\n"))
			if _, err := c.GetInfo(ctx, "version"); err == nil {
				t.Error("garbage was taken for a reply")
			}
			ready()
			watch := c.Watch(ctx)
			n.Tor().Restart(time.Minute, time.Minute)
			if err := fetch(); err == nil {
				t.Error("a fetch while tor was down succeeded")
			}
			ready()
			var refused *control.ReplyError
			if _, err := c.GetInfo(ctx, consensusKey); !errors.As(err, &refused) || refused.Code != 551 {
				t.Errorf("asking a tor that has just restarted for its consensus: %v", err)
			}
			if body, err := c.GetInfo(ctx, "md/all"); err != nil || len(body) != 0 {
				t.Errorf("md/all of a tor without a consensus: %d bytes, %v", len(body), err)
			}
			for n.Tor().Consensus() == nil {
				<-watch
			}
			ready()
			if err := fetch(); err != nil {
				t.Errorf("after the restart: %v", err)
			}
		})
	})
}

func TestWatchConsensus(t *testing.T) {
	inNetwork(t, Config{Seed: 1, Tor: TorConfig{ConsensusDelay: 5 * time.Minute}}, func(t *testing.T, n *Network) {
		withControl(t, n, control.Config{}, func(ctx context.Context, c *control.Client) {
			if err := c.Ready(ctx); err != nil {
				t.Fatal(err)
			}
			watch := c.Watch(ctx)
			for range 30 {
				<-watch
				body, err := c.GetInfo(ctx, consensusKey)
				if err != nil {
					t.Fatal(err)
				}
				if want := n.Tor().Consensus().Text(); string(body) != string(want) {
					t.Fatalf("the consensus read has %d bytes, want %d", len(body), len(want))
				}
			}
			if hours := time.Since(start2000).Hours(); hours < 28 || hours > 31 {
				t.Errorf("30 consensuses took %.1f hours", hours)
			}
			n.Tor().FreezeConsensus(true)
			before := n.Tor().Consensus()
			time.Sleep(5 * time.Hour)
			if n.Tor().Consensus() != before {
				t.Error("a frozen tor got a consensus")
			}
			n.Tor().FreezeConsensus(false)
			time.Sleep(time.Hour)
			if n.Tor().Consensus() == before {
				t.Error("a tor that thawed got no consensus")
			}
		})
	})
}

// start2000 is when every bubble of synctest begins.
var start2000 = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
