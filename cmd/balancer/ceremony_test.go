package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"onionbalancer/internal/hosting"
	"onionbalancer/internal/status"
	"onionbalancer/keystore"
	"onionbalancer/keystore/offline"
)

// TestCeremonyAsksTheBalancer: with a configuration, periods are those of the
// network that the running balancer sees, and the time is that of its consensus.
func TestCeremonyAsksTheBalancer(t *testing.T) {
	// A socket's path must be short, and the test's own directory is not.
	dir, err := os.MkdirTemp("", "ceremony")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	front, err := keystore.New(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	defer front.Wipe()
	web, err := keystore.New(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	defer web.Wipe()
	path := filepath.Join(dir, "balancer.toml")
	text := fmt.Sprintf("[[service]]\nkey = \"off\"\n[[service.instance]]\naddress = %q\n", web.Address())
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(dir, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	lab := offline.NewSchedule(8*time.Minute, 4*time.Minute)
	made := func(o requestOptions, args ...string) *requestMade {
		t.Helper()
		o.out = filepath.Join(t.TempDir(), "request.json")
		got, err := o.make(t.Context(), args)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	first := made(requestOptions{dir: filepath.Join(dir, "off"), periods: 2, length: 8 * time.Minute}, front.Address().String())
	if first.Schedule != lab || first.First != lab.InUse(time.Now()).Number && first.First != lab.InUse(time.Now().Add(-time.Minute)).Number {
		t.Errorf("made for %s, from %d", first.Schedule, first.First)
	}
	// Without a balancer that answers, the keys that are there say how long
	// periods are, and the clock which one it is.
	again := made(requestOptions{config: path, periods: 2})
	if again.Schedule != lab || again.First < first.First || again.First > first.First+1 {
		t.Errorf("without a balancer: %s, from %d", again.Schedule, again.First)
	}
	validAfter := time.Now().Add(-100 * time.Hour).Truncate(time.Second)
	serveStatus(t, filepath.Join(state, status.SocketName), status.Snapshot{Consensus: status.Consensus{
		Known: true, ValidAfter: validAfter, PeriodMinutes: lab.Minutes, OffsetSeconds: lab.OffsetSeconds,
	}})
	asked := made(requestOptions{config: path, periods: 2})
	if want := lab.InUse(validAfter).Number; asked.Schedule != lab || asked.First != want {
		t.Errorf("with a balancer: %s, from %d, want %d", asked.Schedule, asked.First, want)
	}
}

// serveStatus answers as a daemon would, until t ends.
func serveStatus(t *testing.T, path string, s status.Snapshot) {
	t.Helper()
	serveOperator(t, path, s, nil)
}

func serveOperator(t *testing.T, path string, s status.Snapshot, operator status.Operator) {
	t.Helper()
	serveAll(t, path, s, operator, nil)
}

func serveAll(t *testing.T, path string, s status.Snapshot, operator status.Operator, customers http.Handler) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		if err := status.Serve(ctx, path, slog.New(slog.DiscardHandler), func() status.Snapshot { return s }, operator, customers); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); group.Wait() })
	for range 200 {
		if _, err := status.Query(ctx, path); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the status socket does not answer")
}

// TestAllOrNothing: what cannot be written as a whole leaves nothing behind that
// would be in the way of the next attempt.
func TestAllOrNothing(t *testing.T) {
	dir := t.TempDir()
	split := func() ([][]byte, error) { return [][]byte{{'1'}, {'2'}, {'3'}}, nil }
	numbered := func(i int) string { return strconv.Itoa(i) }
	repeated := func(i int) string { return strconv.Itoa(i % 2) }
	out, parts := filepath.Join(dir, "whole"), filepath.Join(dir, "parts")
	for what, test := range map[string]struct {
		outputs
		name func(int) string
	}{
		"no place for the whole": {outputs{filepath.Join(dir, "no", "whole"), parts}, numbered},
		"no place for a part":    {outputs{out, parts}, repeated},
	} {
		if _, err := test.write([]byte("123"), split, test.name); err == nil {
			t.Errorf("%s: written", what)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("%s: left are %v, %v", what, left, err)
		}
	}
	good := outputs{out, parts}
	if err := good.check(); err != nil {
		t.Error(err)
	}
	if paths, err := good.write([]byte("123"), split, numbered); err != nil || len(paths) != 3 || paths[2] != filepath.Join(parts, "2") {
		t.Errorf("wrote %v, %v", paths, err)
	}
	if err := good.check(); !errors.Is(err, os.ErrExist) {
		t.Errorf("once more: %v", err)
	}
}

// TestCeremonyOfAShard: customers whose keys are offline, three hundred in a soak. Their first
// ceremony makes them pending keys; later ones find them wherever the shard has them.
func TestCeremonyOfAShard(t *testing.T) {
	count := 30
	if os.Getenv("BALANCER_SOAK") != "" {
		count = 300
	}
	dir := t.TempDir()
	keys, shard := filepath.Join(dir, "keys"), filepath.Join(dir, "s1")
	var addresses []string
	for n := range count + 1 { // of which one is not the shard's
		key, err := keystore.New(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := key.WriteTor(filepath.Join(keys, strconv.Itoa(n))); err != nil {
			t.Fatal(err)
		}
		addresses = append(addresses, key.Address().String())
		key.Wipe()
	}
	addresses = addresses[:count]
	ceremony := func(name, in string, args ...string) {
		t.Helper()
		request, bundle := filepath.Join(dir, name+".request"), filepath.Join(dir, name+".bundle")
		made, err := (&requestOptions{outputs: outputs{out: request}, dir: in, periods: 1}).make(t.Context(), args)
		if err != nil {
			t.Fatal(err)
		}
		var shown bytes.Buffer
		signing := signOptions{outputs: outputs{out: bundle}, keys: []string{keys}, yes: []string{string(made.Fingerprint)}}
		if _, err := signing.sign(t.Context(), []string{request}, &shown); err != nil {
			t.Fatal(err)
		}
		if lines := bytes.Count(shown.Bytes(), []byte("\n")); len(made.Services) != count || lines > 4*count+20 {
			t.Errorf("%s: %d addresses, shown in %d lines", name, len(made.Services), lines)
		}
		installed, err := installBundles([]string{bundle}, "", in)
		if err != nil || len(installed) != count {
			t.Fatalf("%s: %d installed, %v", name, len(installed), err)
		}
	}
	ceremony("first", filepath.Join(shard, ".pending"), addresses...)

	d, err := hosting.OpenDir(shard)
	if err != nil {
		t.Fatal(err)
	}
	if pending, err := d.Pending(); err != nil || len(pending) != count {
		t.Errorf("%d pending, %v", len(pending), err)
	}
	// One has a customer by now, and one is a spare.
	if err := os.Mkdir(filepath.Join(shard, ".spares"), 0o700); err != nil {
		t.Fatal(err)
	}
	label := func(n int) string { return strings.TrimSuffix(addresses[n], ".onion") }
	for n, to := range []string{"shop", filepath.Join(".spares", label(1))} {
		if err := os.Rename(filepath.Join(shard, ".pending", label(n)), filepath.Join(shard, to)); err != nil {
			t.Fatal(err)
		}
	}
	ceremony("second", shard)

	ref, err := d.Reference("shop", "")
	if err != nil {
		t.Fatal(err)
	}
	opened, err := keystore.Open(ref)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	if opened.Form() != keystore.FormOffline || opened.Address().String() != addresses[0] {
		t.Errorf("opened as %s of %s", opened.Form(), opened.Address())
	}
	if _, err := opened.RevisionKey(t.Context(), offline.Public.InUse(time.Now())); err != nil {
		t.Error(err)
	}
}
