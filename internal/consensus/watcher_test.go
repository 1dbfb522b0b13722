package consensus

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/internal/event"
	"onionbalancer/internal/tor/control"
	"onionbalancer/testnet/sim"
)

// halfway is a Source whose tor has nothing but an answer to why.
type halfway struct {
	Source
	percent atomic.Int32
	why     error
}

// buffer is what a log was written to.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (h *halfway) GetInfo(context.Context, string) ([]byte, error) { return nil, errors.New("551") }
func (h *halfway) Watch(context.Context) <-chan struct{} {
	ch := make(chan struct{}, 1)
	ch <- struct{}{}
	return ch
}
func (h *halfway) WhyNoConsensus(context.Context, error) (int, error) {
	return int(h.percent.Load()), h.why
}

// follow runs a Watcher in virtual time and gives what it has logged so far, from
// warnings on.
func follow(t *testing.T, source Source, test func(n *Watcher, warnings func() string)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var out buffer
		n := New(source, event.Log(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn})), nil))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); n.Run(ctx) }()
		synctest.Wait()
		test(n, func() string { synctest.Wait(); return out.String() })
		cancel()
		<-done
	})
}

// A tor that is on its way to a consensus is no trouble, until it stays where it
// is.
func TestStartingIsQuiet(t *testing.T) {
	h := &halfway{why: errors.New("tor is starting")}
	follow(t, h, func(n *Watcher, warnings func() string) {
		for percent := int32(0); percent < 90; percent += 10 {
			h.percent.Store(percent)
			time.Sleep(50 * time.Second)
			if _, err := n.Consensus(); warnings() != "" || !errors.Is(err, ErrNone) {
				t.Fatalf("at %d: %v, logged %s", percent, err, warnings())
			}
		}
		time.Sleep(3 * time.Minute)
		_, err := n.Consensus()
		if err == nil || errors.Is(err, ErrNone) || !strings.Contains(warnings(), "tor is starting") {
			t.Errorf("three minutes at one place: %v, logged %q", err, warnings())
		}
	})
}

// What tor cannot fix by itself is said at once, and once.
func TestObstacleIsLoud(t *testing.T) {
	h := &halfway{why: errors.New("the network is off")}
	h.percent.Store(-1)
	follow(t, h, func(n *Watcher, warnings func() string) {
		time.Sleep(30 * time.Second)
		_, err := n.Consensus()
		if err == nil || errors.Is(err, ErrNone) || strings.Count(warnings(), "the network is off") != 1 {
			t.Errorf("%v, logged %q", err, warnings())
		}
	})
}

// bare is a Source whose tor has the consensus before any microdescriptor.
type bare struct {
	*control.Client
	until time.Time
}

func (b *bare) GetInfo(ctx context.Context, key string) ([]byte, error) {
	if key == infoMicrodescs && time.Now().Before(b.until) {
		return nil, nil
	}
	return b.Client.GetInfo(ctx, key)
}

// A consensus without a microdescriptor leads nowhere yet.
func TestMicrodescriptorsOnTheirWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := sim.New(sim.Config{Seed: 1})
		defer net.Close()
		time.Sleep(2 * time.Minute)
		ctx, cancel := context.WithCancel(t.Context())
		client := control.New(control.Config{Dial: net.Dial})
		n := New(&bare{client, time.Now().Add(10 * time.Second)}, func(event.Event) {})
		done := make(chan struct{}, 2)
		go func() { _ = client.Run(ctx); done <- struct{}{} }()
		go func() { n.Run(ctx); done <- struct{}{} }()
		time.Sleep(5 * time.Second)
		if c, err := n.Consensus(); c != nil || !errors.Is(err, ErrNone) {
			t.Errorf("without any: %v, %v", c, err)
		}
		time.Sleep(time.Minute)
		if c, err := n.Consensus(); c == nil || len(c.HSDirs) == 0 {
			t.Errorf("with them: %v, %v", c, err)
		}
		cancel()
		<-done
		<-done
	})
}

// stale is a Source whose tor has only what it kept from yesterday.
type stale struct {
	*control.Client
	why error
	off bool
}

func (s *stale) WhyNoConsensus(context.Context, error) (int, error) {
	if s.off {
		return -1, s.why
	}
	return 100, s.why
}

// The consensus in the cache of a tor that was down for long is waited over, for
// a while: it leads to the wrong HSDirs, and a newer one is on its way.
func TestOldCache(t *testing.T) {
	for _, off := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			net := sim.New(sim.Config{Seed: 1})
			defer net.Close()
			time.Sleep(2 * time.Minute)
			net.Tor().FreezeConsensus(true)
			time.Sleep(6 * time.Hour)
			ctx, cancel := context.WithCancel(t.Context())
			client := control.New(control.Config{Dial: net.Dial})
			n := New(&stale{Client: client, why: errors.New("old"), off: off}, func(event.Event) {})
			done := make(chan struct{}, 2)
			go func() { _ = client.Run(ctx); done <- struct{}{} }()
			go func() { n.Run(ctx); done <- struct{}{} }()
			time.Sleep(30 * time.Second)
			c, err := n.Consensus()
			if off && c == nil || !off && (c != nil || !errors.Is(err, ErrNone)) {
				t.Errorf("off %v, after half a minute: %v, %v", off, c, err)
			}
			time.Sleep(2 * time.Minute)
			if c, _ := n.Consensus(); c == nil {
				t.Errorf("off %v: not even the old one is taken", off)
			}
			cancel()
			<-done
			<-done
		})
	}
}

// TestFamilies: who asks for other families has the consensus read again, once.
func TestFamilies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := sim.New(sim.Config{Seed: 1})
		defer net.Close()
		time.Sleep(2 * time.Minute)
		ctx, cancel := context.WithCancel(t.Context())
		client := control.New(control.Config{Dial: net.Dial})
		n := New(client, func(event.Event) {})
		done := make(chan struct{}, 2)
		go func() { _ = client.Run(ctx); done <- struct{}{} }()
		go func() { n.Run(ctx); done <- struct{}{} }()
		time.Sleep(time.Minute)
		before, err := n.Consensus()
		if before == nil {
			t.Fatal(err)
		}
		for _, news := range []bool{true, false} {
			n.Families([][20]byte{{1}})
			time.Sleep(time.Second)
			after, _ := n.Consensus()
			if (after != before) != news || !after.ValidAfter.Equal(before.ValidAfter) {
				t.Errorf("news %t: %p, then %p", news, before, after)
			}
			before = after
		}
		cancel()
		<-done
		<-done
	})
}
