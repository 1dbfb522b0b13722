package process

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"onionbalancer/internal/tor/control"
	"onionbalancer/testnet"
)

// A tor of our own on a private network: what tor's events look like, and that
// descriptors pass through unchanged in both directions.
func TestOnANetwork(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	network, err := testnet.Start(ctx, testnet.Config{Relays: 8, Clients: []string{"user"}})
	if err != nil {
		t.Fatal(err)
	}
	defer network.Stop()
	service, err := network.Service(ctx, testnet.ServiceConfig{Name: "web"})
	if err != nil {
		t.Fatal(err)
	}

	done := make(chan struct{})
	last := -1
	p := start(t, Config{
		Dir: shortDir(t), ExtraLines: joining(ctx, t, network.ControlTarget("user")),
		OnBootstrap: func(step control.Progress) {
			if step.Percent < last || last == 100 {
				t.Errorf("bootstrap went from %d %% to %+v", last, step)
			}
			if last = step.Percent; step.Done() {
				close(done)
			}
		},
	})
	c := connect(t, p)
	select {
	case <-done:
	case <-ctx.Done():
		t.Fatalf("no bootstrap: %+v", p.State())
	}
	if err := service.Published(ctx); err != nil {
		t.Fatal(err)
	}
	address := strings.TrimSuffix(service.Address(), ".onion")
	for try := 1; ; try++ {
		err := passThrough(ctx, t, c, address)
		if err == nil {
			break
		}
		if try == 3 { // it takes two seconds, and once in four minutes the period changes
			t.Fatal(err)
		}
		t.Log("once more, after:", err)
	}
	watchConsensus(ctx, t, c)
}

// passThrough takes a descriptor from one HSDir and brings it to another.
func passThrough(ctx context.Context, t *testing.T, c *control.Client, address string) error {
	t.Helper()
	have, without := fetchFromAll(ctx, t, c, address)
	if have.body == nil || without == "" {
		return fmt.Errorf("no HSDir with the descriptor, or none without: %.50q, %q", have.body, without)
	}
	var failure *control.HSDescError
	err := c.HSPost(ctx, address, have.hsdir, have.body)
	if !errors.As(err, &failure) || failure.Reason() != "UPLOAD_REJECTED" {
		return fmt.Errorf("posting it to where it is: %v, want UPLOAD_REJECTED", err)
	}
	if err := c.HSPost(ctx, address, without, have.body); err != nil {
		return fmt.Errorf("posting it elsewhere: %w", err)
	}
	again, err := c.HSFetch(ctx, address, without)
	if err != nil || !bytes.Equal(again, have.body) {
		return fmt.Errorf("it came back as %d bytes, %v, want %d", len(again), err, len(have.body))
	}
	var reply *control.ReplyError
	err = c.HSPost(ctx, address, without, []byte("hs-descriptor 3\n"))
	if !errors.As(err, &reply) || reply.Code != 554 {
		return fmt.Errorf("a malformed descriptor: %v, want 554", err)
	}
	return nil
}

// joining are the lines that make a tor one of the network that target is of.
func joining(ctx context.Context, t *testing.T, target string) []string {
	t.Helper()
	run, cancel := context.WithCancel(ctx)
	c := control.New(control.Config{Dial: control.DialTarget(target)})
	ended := make(chan struct{})
	go func() { defer close(ended); _ = c.Run(run) }()
	defer func() { cancel(); <-ended }()
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	authorities, err := c.GetConf(ctx, "DirAuthority")
	if err != nil || len(authorities) == 0 {
		t.Fatalf("authorities: %q, %v", authorities, err)
	}
	lines := []string{"TestingTorNetwork 1"}
	for _, a := range authorities {
		lines = append(lines, "DirAuthority "+a)
	}
	return lines
}

type fetched struct {
	hsdir string
	body  []byte
}

// fetchFromAll asks every HSDir at once, and gives one answer and one HSDir
// that has none.
func fetchFromAll(ctx context.Context, t *testing.T, c *control.Client, address string) (have fetched, without string) {
	t.Helper()
	hsdirs := hsdirsOf(ctx, t, c)
	bodies, failures := make([][]byte, len(hsdirs)), make([]error, len(hsdirs))
	var group errgroup.Group
	for i, hsdir := range hsdirs {
		group.Go(func() error {
			// A circuit may die without a word.
			for range 3 {
				try, cancel := context.WithTimeout(ctx, 20*time.Second)
				bodies[i], failures[i] = c.HSFetch(try, address, hsdir)
				cancel()
				if !errors.Is(failures[i], context.DeadlineExceeded) {
					break
				}
			}
			return nil
		})
	}
	_ = group.Wait()
	for i, err := range failures {
		var failure *control.HSDescError
		switch {
		case err == nil:
			have = fetched{hsdirs[i], bodies[i]}
			if !bytes.HasPrefix(bodies[i], []byte("hs-descriptor 3\n")) || bytes.Contains(bodies[i], []byte("\r")) {
				t.Errorf("descriptor %.80q…", bodies[i])
			}
		case errors.As(err, &failure) && failure.Reason() == "NOT_FOUND":
			without = hsdirs[i]
		default:
			t.Error(err)
		}
	}
	return have, without
}

// hsdirsOf reads the fingerprints of the HSDirs out of the consensus.
func hsdirsOf(ctx context.Context, t *testing.T, c *control.Client) (fingerprints []string) {
	t.Helper()
	consensus, err := c.GetInfo(ctx, "dir/status-vote/current/consensus-microdesc")
	if err != nil {
		t.Fatal(err)
	}
	identity := ""
	for line := range strings.Lines(string(consensus)) {
		words := strings.Fields(line)
		switch {
		case words[0] == "r":
			raw, err := base64.RawStdEncoding.DecodeString(words[2])
			if err != nil {
				t.Fatal(err)
			}
			identity = strings.ToUpper(hex.EncodeToString(raw))
		case words[0] == "s" && strings.Contains(line, " HSDir"):
			fingerprints = append(fingerprints, identity)
		}
	}
	return fingerprints
}

// watchConsensus waits for a wake that a new consensus explains.
func watchConsensus(ctx context.Context, t *testing.T, c *control.Client) {
	t.Helper()
	validAfter := func() string {
		v, err := c.GetInfo(ctx, "consensus/valid-after")
		if err != nil {
			t.Fatal(err)
		}
		return string(v)
	}
	watch := c.Watch(ctx)
	<-watch
	before := validAfter()
	select {
	case <-watch:
	case <-ctx.Done():
		t.Fatal("no wake")
	}
	if after := validAfter(); after == before {
		t.Errorf("woken, and the consensus is still that of %s", before)
	}
}
