package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/event"
	"onionbalancer/internal/hosting"
	"onionbalancer/internal/state"
)

// What happened is shown of all services, or of one.
func TestStateShowsEvents(t *testing.T) {
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	db, err := state.Open(dir, state.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	ours, others := descriptor.Address{1}, descriptor.Address{2}
	for n, e := range []event.Event{
		{Kind: event.Published, Level: slog.LevelInfo, Service: ours, Text: "published"},
		{Kind: event.Warning, Level: slog.LevelWarn, Service: others, Text: "a warning", Attrs: []slog.Attr{slog.Any("error", errors.New("no \x1b[31mtor"))}},
		{Kind: event.Tor, Level: slog.LevelInfo, Text: "connected"},
	} {
		e.At = at.Add(time.Duration(n) * time.Minute)
		raw, err := json.Marshal(e)
		if err == nil {
			err = db.AppendEvents(t.Context(), raw)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := db.SwapService(t.Context(), ours, 0, state.Service{}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		service *descriptor.Address
		events  int
		want    string
	}{
		{nil, 20, "published, a warning  error=no \\x1b[31mtor, connected"},
		{nil, 1, "connected"},
		{&ours, 20, "published"},
		{nil, 0, ""},
	} {
		v, err := readState(dir, test.service, test.events, log)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		v.print(&out)
		_, lines, _ := strings.Cut(out.String(), "what happened last\n")
		var texts []string
		for line := range strings.Lines(lines) {
			fields := strings.SplitN(strings.TrimSpace(line), "  ", 4)
			texts = append(texts, fields[len(fields)-1])
		}
		if got := strings.Join(texts, ", "); got != test.want {
			t.Errorf("at most %d events: %q, want %q", test.events, got, test.want)
		}
	}
}

// The customers of shards are counted, and listed as JSON.
func TestStateShowsCustomers(t *testing.T) {
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	db, err := state.Open(dir, state.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	for n, s := range []hosting.State{hosting.Active, hosting.Suspended, hosting.Active, hosting.Removed} {
		c := hosting.Customer{Name: "shop", Address: descriptor.Address{byte(n)}, Shard: "s1", State: s}
		change, err := state.Put(state.CustomerKey(c.Address), 0, c)
		if err == nil {
			_, err = db.Swap(t.Context(), change)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	v, err := readState(dir, nil, 0, log)
	if err != nil || len(v.Customers) != 4 || v.Customers[0].Name != "shop" {
		t.Fatalf("%+v, %v", v, err)
	}
	var out bytes.Buffer
	v.print(&out)
	if want := "\ncustomers of the shard\tactive\tsuspended\tremoved\t\ns1\t2\t1\t1\t\n"; !strings.Contains(out.String(), want) {
		t.Errorf("%q, want %q", out.String(), want)
	}
}
