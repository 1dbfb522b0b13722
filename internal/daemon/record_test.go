package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/event"
	"onionbalancer/internal/state"
	"onionbalancer/internal/state/statetest"
	"onionbalancer/testnet/sim"
)

// kinds are all kinds of events, as package event has them.
func kinds(t *testing.T) (list []event.Kind) {
	t.Helper()
	source, err := os.ReadFile("../event/event.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`\bKind += "(\w+)"`).FindAllSubmatch(source, -1) {
		list = append(list, event.Kind(m[1]))
	}
	if len(list) < 13 {
		t.Fatalf("%d kinds found: the test shows nothing", len(list))
	}
	return list
}

// entry is an event in the history.
type entry struct {
	Kind    event.Kind
	Text    string
	Service string
	Attrs   map[string]any
}

func history(t *testing.T, store *state.DB) (list []entry) {
	t.Helper()
	raw, err := store.Events(10_000, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range raw {
		var e entry
		if err := json.Unmarshal(r, &e); err != nil {
			t.Errorf("%s: %v", r, err)
		}
		list = append(list, e)
	}
	return list
}

// One event of each kind is one line of the log, one entry of the history and one
// count of the metrics; what is only of use to those who debug is no history.
func TestEachEventOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		store := statetest.Open(t, "")
		r := NewRecorder(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})), new(Daemon).name)
		ended := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		go func() { defer close(ended); r.Run(ctx, store) }()
		all := kinds(t)
		address := descriptor.Address{1}
		for _, kind := range all {
			level := slog.LevelInfo
			if kind == event.UploadFailed {
				level = slog.LevelDebug
			}
			attrs := []slog.Attr{slog.Any("error", errors.New("it failed")), slog.Int("n", 7)}
			r.Record(event.Event{At: time.Now(), Kind: kind, Level: level, Service: address, Text: "about " + string(kind), Attrs: attrs})
			time.Sleep(time.Second)
		}
		cancel()
		<-ended
		seen := history(t, store)
		for _, kind := range all {
			lines := regexp.MustCompile(`(?m)msg="about `+string(kind)+`" service=\S+… error="it failed" n=7$`).FindAllString(log.String(), -1)
			entries, want := 0, 1
			for _, e := range seen {
				if e.Kind == kind && e.Text == "about "+string(kind) && e.Service == address.String() && e.Attrs["error"] == "it failed" {
					entries++
				}
			}
			if kind == event.UploadFailed {
				want = 0
			}
			if n := r.Counts()[string(kind)]; n != 1 || len(lines) != 1 || entries != want {
				t.Errorf("%s: %d lines, %d entries, counted %d times", kind, len(lines), entries, n)
			}
		}
		if n := strings.Count(log.String(), "\n"); n != len(all) || len(seen) != len(all)-1 {
			t.Errorf("%d lines and %d entries in all", n, len(seen))
		}
	})
}

// What happens while the store cannot be written waits for it, in order.
func TestHistoryWaitsForStore(t *testing.T) {
	dir := t.TempDir()
	store := statetest.Open(t, dir)
	broken, err := state.OpenReadOnly(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	r := NewRecorder(slog.New(slog.DiscardHandler), nil)
	for _, text := range []string{"one", "two", "three"} {
		r.Record(event.Event{Kind: event.Tor, Text: text})
		r.flush(t.Context(), broken)
	}
	r.flush(t.Context(), store)
	if all := history(t, store); len(all) != 3 || all[0].Text != "one" || all[2].Text != "three" {
		t.Errorf("%+v", all)
	}
}

// Refreshes are logged and counted, and leave the history to what is rarer.
func TestRefreshesAreNoHistory(t *testing.T) {
	var log bytes.Buffer
	store := statetest.Open(t, "")
	r := NewRecorder(slog.New(slog.NewTextHandler(&log, nil)), nil)
	for _, reason := range []balance.Reason{balance.ReasonRefresh, "first descriptor"} {
		r.Record(event.Event{Kind: event.Publishing, Text: "publishing", Attrs: []slog.Attr{slog.Any("reason", reason)}})
	}
	r.flush(t.Context(), store)
	if all := history(t, store); len(all) != 1 || all[0].Attrs["reason"] != "first descriptor" {
		t.Errorf("%+v", all)
	}
	if n := r.Counts()[string(event.Publishing)]; n != 2 || strings.Count(log.String(), "\n") != 2 {
		t.Errorf("counted %d times, logged %s", n, log.String())
	}
}

// What happened before a restart is still in the history after it.
func TestHistorySurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	writeKey(t, filepath.Join(dir, "a"), 1)
	synctest.Test(t, func(t *testing.T) {
		net := sim.New(sim.Config{Seed: 1})
		defer net.Close()
		cfg := parse(t, dir, "state_dir = \"state\"\n"+torTable+service("a", net.AddInstance(sim.InstanceConfig{})))
		time.Sleep(2 * time.Minute)
		var before []entry
		for life := range 3 {
			counted := uint64(0)
			onSim(t, net, cfg, func(d *Daemon) {
				time.Sleep(time.Minute)
				synctest.Wait()
				for kind, n := range d.Snapshot().Events {
					if kind != string(event.UploadFailed) {
						counted += n
					}
				}
			})
			store, err := state.OpenReadOnly(cfg.StateDir, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			all := history(t, store)
			if err := store.Close(); err != nil {
				t.Error(err)
			}
			if len(all) < len(before)+3 || uint64(len(all)-len(before)) < counted {
				t.Fatalf("life %d: %d entries, %d before it; counted %d", life, len(all), len(before), counted)
			}
			for n, e := range before {
				if e.Kind != all[n].Kind || e.Text != all[n].Text {
					t.Errorf("life %d: entry %d was %+v and is %+v", life, n, e, all[n])
				}
			}
			before = all
		}
	})
}

// What happens to all customers of a shard is one line of the log and one entry of the
// history, after a while; an error at once.
func TestShardEventsBundled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		store := statetest.Open(t, "")
		r := NewRecorder(slog.New(slog.NewTextHandler(&log, nil)), new(Daemon).name)
		ended := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		go func() { defer close(ended); r.Run(ctx, store) }()
		record := func(kind event.Kind, level slog.Level, text string, attrs ...slog.Attr) {
			for n := range 250 {
				attrs := append([]slog.Attr{slog.Int("period", n)}, attrs...)
				r.Record(event.Event{At: time.Now(), Kind: kind, Level: level, Service: descriptor.Address{byte(n), 1}, Text: text, Attrs: attrs})
			}
		}
		for n := range 250 {
			r.Assign(descriptor.Address{byte(n), 1}, "s1")
		}
		record(event.Publishing, slog.LevelInfo, "publishing", slog.String("reason", "introduction points changed"))
		record(event.Publishing, slog.LevelInfo, "publishing", slog.Any("reason", balance.ReasonRefresh))
		record(event.Lack, slog.LevelError, "no instance is reachable")
		r.Record(event.Event{At: time.Now(), Kind: event.Warning, Level: slog.LevelWarn, Service: descriptor.Address{7, 1}, Text: "somebody else publishes"})
		time.Sleep(historyEvery + time.Second)
		if all := history(t, store); len(all) != 1 || all[0].Text != "no instance is reachable" || all[0].Service != "" || all[0].Attrs["customers"] != 250.0 || all[0].Attrs["shard"] != "s1" {
			t.Errorf("at once: %+v", all)
		}
		time.Sleep(bundleFor)
		all := history(t, store)
		if len(all) != 3 || all[1].Attrs["reason"] != "introduction points changed" || all[1].Attrs["period"] != nil || all[1].Attrs["customers"] != 250.0 {
			t.Errorf("after a while: %+v", all)
		}
		if len(all) == 3 && (all[2].Service != (descriptor.Address{7, 1}).String() || all[2].Attrs["shard"] != "s1" || all[2].Attrs["customers"] != nil) {
			t.Errorf("of one customer: %+v", all[2])
		}
		r.Assign(descriptor.Address{7, 1}, "")
		r.Record(event.Event{At: time.Now(), Kind: event.Published, Service: descriptor.Address{7, 1}, Text: "published"})
		r.Record(event.Event{At: time.Now(), Kind: event.Published, Service: descriptor.Address{8, 1}, Text: "published"})
		cancel()
		<-ended
		if all := history(t, store); len(all) != 5 || r.Counts()[string(event.Publishing)] != 500 || strings.Count(log.String(), "\n") != 5 {
			t.Errorf("at the end: %+v, counted %v, logged\n%s", all, r.Counts(), log.String())
		}
	})
}
