package state_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/health"
	"onionbalancer/internal/state"
	"onionbalancer/internal/state/statetest"
)

func TestSwap(t *testing.T) {
	d := statetest.Open(t, "")
	if value, version, err := d.Get("service/a"); value != nil || version != 0 || err != nil {
		t.Fatalf("what was never stored: %q, %d, %v", value, version, err)
	}
	versions, err := d.Swap(t.Context(), state.Change{Key: "service/a", Value: []byte("1")}, state.Change{Key: "service/b", Value: []byte("2")})
	if err != nil || len(versions) != 2 || versions[0] == 0 || versions[1] <= versions[0] {
		t.Fatalf("first: %v, %v", versions, err)
	}
	// One of two has another version: neither is written.
	_, err = d.Swap(t.Context(), state.Change{Key: "service/a", Version: versions[0], Value: []byte("3")}, state.Change{Key: "service/b", Version: versions[0], Value: []byte("4")})
	var conflict *state.ConflictError
	if !errors.Is(err, state.ErrConflict) || !errors.As(err, &conflict) || *conflict != (state.ConflictError{Key: "service/b", Want: versions[0], Have: versions[1]}) {
		t.Fatalf("conflict: %v", err)
	}
	if value, version, err := d.Get("service/a"); string(value) != "1" || version != versions[0] || err != nil {
		t.Fatalf("after a conflict: %q, %d, %v", value, version, err)
	}
	// A version never comes again, not even if the record was deleted between.
	if gone, err := d.Swap(t.Context(), state.Change{Key: "service/a", Version: versions[0]}); err != nil || gone[0] != 0 {
		t.Fatalf("deleting: %v, %v", gone, err)
	}
	again, err := d.Swap(t.Context(), state.Change{Key: "service/a", Value: []byte("1")})
	if err != nil || again[0] <= versions[1] {
		t.Fatalf("after a deletion: %v, %v", again, err)
	}
	list, err := d.List("service/")
	if err != nil || len(list) != 2 || string(list[0].Key) != "service/a" || string(list[1].Value) != "2" || list[1].Version != versions[1] {
		t.Fatalf("list: %v, %v", list, err)
	}
	if list, err := d.List("instance/"); len(list) != 0 || err != nil {
		t.Fatalf("list of nothing: %v, %v", list, err)
	}
}

func TestSwapRefuses(t *testing.T) {
	d := statetest.Open(t, "")
	for what, changes := range map[string][]state.Change{
		"a key of 0 bytes":   {{Value: []byte{}}},
		"a key of 513 bytes": {{Key: state.Key(strings.Repeat("k", 513)), Value: []byte{}}},
		"changed twice":      {{Key: "k", Value: []byte{}}, {Key: "k", Value: []byte{}}},
	} {
		if _, err := d.Swap(t.Context(), changes...); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Swap(ctx, state.Change{Key: "k", Value: []byte{}}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Swap(t.Context(), state.Change{Key: "k", Value: []byte{}}); !errors.Is(err, state.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if _, _, err := d.Get("k"); !errors.Is(err, state.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// Many at once count one record up: of those that saw one version, one succeeds,
// and the conflicts of some fail nobody else's swap.
func TestSwapsAtOnce(t *testing.T) {
	d := statetest.Open(t, "")
	var wait sync.WaitGroup
	for n := range 50 {
		wait.Go(func() {
			own := state.Key(fmt.Sprint("own/", n))
			if _, err := d.Swap(t.Context(), state.Change{Key: own, Value: []byte("x")}); err != nil {
				t.Error(err)
			}
			for done := false; !done; {
				value, version, err := d.Get("shared")
				if err != nil {
					t.Error(err)
					return
				}
				_, err = d.Swap(t.Context(), state.Change{Key: "shared", Version: version, Value: append(value, 'x')})
				if done = err == nil; !done && !errors.Is(err, state.ErrConflict) {
					t.Error(err)
					return
				}
			}
		})
	}
	wait.Wait()
	if value, _, err := d.Get("shared"); len(value) != 50 || err != nil {
		t.Errorf("counted to %d, %v", len(value), err)
	}
	if list, err := d.List("own/"); len(list) != 50 || err != nil {
		t.Errorf("%d records of their own, %v", len(list), err)
	}
}

func address(t testing.TB, n byte) descriptor.Address {
	t.Helper()
	seed := make([]byte, 32)
	seed[0] = n
	key, err := descriptor.IdentityKeyFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	return key.Address()
}

func TestRecords(t *testing.T) {
	dir := t.TempDir()
	d := statetest.Open(t, dir)
	a, i := address(t, 1), address(t, 2)
	period := descriptor.Period{Number: 7, Length: 24 * time.Hour}
	at := time.Unix(1_800_000_000, 5).UTC()
	service := state.Service{
		Owner: "m1", Term: 3,
		Ceilings: []state.Ceiling{{Period: 7, Minutes: 1440, Counter: 1 << 63}},
		Made: []state.Made{{
			Period: 7, Minutes: 1440, Revision: 9, Contents: state.Bytes32{1}, Signer: state.Bytes32{2}, Built: at, Refresh: at.Add(time.Hour), Pending: true,
		}},
		Points: []state.Published{{Instance: state.Address(i), AuthKey: state.Bytes32{3}, EncKey: state.Bytes32{4}, Relay: "AB"}},
	}
	instance := state.Instance{Period: 7, Minutes: 1440, Revision: 5, Renewed: at, Raw: []byte("hs-descriptor 3\n"),
		Points: []state.Point{{AuthKey: state.Bytes32{3}, EncKey: state.Bytes32{4}, Relay: "AB", FirstSeen: at}}}
	claims := state.Claims{Keys: map[state.Bytes32][]state.Address{{3}: {state.Address(i), state.Address(a)}}}
	if _, version, err := d.Service(a); version != 0 || err != nil {
		t.Fatalf("a service never stored: %d, %v", version, err)
	}
	version, err := d.SwapService(t.Context(), a, 0, service)
	if err != nil {
		t.Fatal(err)
	}
	_, errInstance := d.SwapInstance(t.Context(), i, 0, instance)
	weight, errWeight := health.ParseWeight("50%")
	word := state.Word{Admin: health.Drain, Weight: weight, Since: at}
	_, errWord := d.SwapWord(t.Context(), i, 0, word)
	_, errClaims := d.SwapClaims(t.Context(), period, 0, claims)
	if err := errors.Join(errInstance, errClaims, errWeight, errWord, d.Close()); err != nil {
		t.Fatal(err)
	}
	check := func(what string, d *state.DB) {
		t.Helper()
		if got, v, err := d.Service(a); v != version || err != nil || !reflect.DeepEqual(got, service) {
			t.Errorf("%s: service: %+v, %d, %v", what, got, v, err)
		}
		if got, _, err := d.Instance(i); err != nil || !reflect.DeepEqual(got, instance) {
			t.Errorf("%s: instance: %+v, %v", what, got, err)
		}
		if got, _, err := d.Claims(period); err != nil || !reflect.DeepEqual(got, claims) {
			t.Errorf("%s: claims: %+v, %v", what, got, err)
		}
		services, err := d.Services()
		if err != nil || len(services) != 1 || services[0].Address != a || services[0].Version != version || !reflect.DeepEqual(services[0].Record, service) {
			t.Errorf("%s: services: %+v, %v", what, services, err)
		}
		instances, err := d.Instances()
		if err != nil || len(instances) != 1 || instances[0].Address != i {
			t.Errorf("%s: instances: %+v, %v", what, instances, err)
		}
		words, err := d.Words()
		if got, v, _ := d.Word(i); err != nil || got != word || len(words) != 1 || words[0] != (state.Listed[state.Word]{Address: i, Version: v, Record: word}) {
			t.Errorf("%s: words: %+v, %v", what, words, err)
		}
		all, err := d.AllClaims()
		if err != nil || len(all) != 1 || all[0].Period != period {
			t.Errorf("%s: all claims: %+v, %v", what, all, err)
		}
	}
	check("opened again", statetest.Open(t, dir))
	ro, err := state.OpenReadOnly(dir, slog.New(slog.DiscardHandler)) // while it is open
	if err != nil {
		t.Fatal(err)
	}
	check("for reading", ro)
	if _, err := ro.SwapService(t.Context(), a, version, service); !errors.Is(err, state.ErrReadOnly) {
		t.Errorf("writing: %v", err)
	}
	if info, err := os.Stat(filepath.Join(dir, state.File)); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestEvents(t *testing.T) {
	dir := t.TempDir()
	d, err := state.Open(dir, state.Options{NoSync: true, Events: 10})
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < 25; n += 5 {
		var events [][]byte
		for i := range 5 {
			events = append(events, fmt.Append(nil, n+i))
		}
		if err := d.AppendEvents(t.Context(), events...); err != nil {
			t.Fatal(err)
		}
	}
	texts := func(d *state.DB, n int, keep func([]byte) bool) []string {
		t.Helper()
		events, err := d.Events(n, keep)
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		for _, e := range events {
			list = append(list, string(e))
		}
		return list
	}
	odd := func(e []byte) bool { return (e[len(e)-1]-'0')%2 == 1 }
	check := func(d *state.DB) {
		t.Helper()
		if got, want := texts(d, 100, nil), []string{"15", "16", "17", "18", "19", "20", "21", "22", "23", "24"}; !slices.Equal(got, want) {
			t.Errorf("events %v, want %v", got, want)
		}
		if got, want := texts(d, 2, odd), []string{"21", "23"}; !slices.Equal(got, want) {
			t.Errorf("events %v, want %v", got, want)
		}
	}
	check(d)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	ro, err := state.OpenReadOnly(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	check(ro)
	// A smaller ring drops the rest at the next event.
	if d, err = state.Open(dir, state.Options{NoSync: true, Events: 3}); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.AppendEvents(t.Context(), []byte("25")); err != nil {
		t.Fatal(err)
	}
	if got, want := texts(d, 100, nil), []string{"23", "24", "25"}; !slices.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
}

// A month of a bubble's time passes around writes, and none is left behind.
func TestInABubble(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		d := statetest.Open(t, dir)
		a := address(t, 1)
		version := uint64(0)
		begin := time.Now()
		for n := range uint64(30 * 24) {
			var err error
			if version, err = d.SwapService(t.Context(), a, version, state.Service{Term: n}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
		}
		synctest.Wait()
		if got := time.Since(begin); got != 30*24*time.Hour {
			t.Errorf("%s passed", got)
		}
	})
}

func TestOpenReadOnlyOfNothing(t *testing.T) {
	if _, err := state.OpenReadOnly(t.TempDir(), slog.New(slog.DiscardHandler)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func TestInUse(t *testing.T) {
	dir := t.TempDir()
	statetest.Open(t, dir)
	synctest.Test(t, func(t *testing.T) { // for the wait
		if _, err := state.Open(dir, state.Options{}); !errors.Is(err, state.ErrInUse) || !strings.Contains(err.Error(), "is another balancer running with this state_dir?") {
			t.Errorf("%v", err)
		}
	})
}
