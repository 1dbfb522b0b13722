package daemon

import (
	"testing"
	"time"

	"onionbalancer/internal/hosting/api"
)

// Ids of events increase over restarts, and who missed some is told so.
func TestFeed(t *testing.T) {
	start := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	f := newFeed(start)
	if events, lost, _ := f.after(uint64(start.Add(-time.Hour).UnixMicro())); len(events) != 0 || !lost {
		t.Errorf("of an earlier process: %d events, %t", len(events), lost)
	}
	_, _, more := f.after(0)
	for n := range 3 {
		f.add(api.Event{At: start, Kind: "added", Text: string(rune('a' + n))})
	}
	select {
	case <-more:
	default:
		t.Error("nobody was woken")
	}
	all, _, more := f.after(0)
	if len(all) != 3 || all[0].ID <= uint64(start.UnixMicro()) || all[1].ID <= all[0].ID || all[2].ID <= all[1].ID {
		t.Fatalf("%+v", all)
	}
	if events, lost, _ := f.after(all[0].ID); len(events) != 2 || events[0] != all[1] || lost {
		t.Errorf("after the first: %+v, %t", events, lost)
	}
	if events, lost, _ := f.after(all[2].ID); len(events) != 0 || lost {
		t.Errorf("after the last: %+v, %t", events, lost)
	}
	select {
	case <-more:
		t.Error("woken for nothing")
	default:
	}
	for range feedKept {
		f.add(api.Event{At: start.Add(time.Hour)})
	}
	if events, lost, _ := f.after(all[1].ID); len(events) != feedKept || !lost {
		t.Errorf("after one that is gone: %d events, %t", len(events), lost)
	}
	if events, lost, _ := f.after(all[2].ID); len(events) != feedKept || lost {
		t.Errorf("after the last that is gone: %d events, %t", len(events), lost)
	}
	// The clock was set back while the daemon was down.
	f = newFeed(start.Add(-24 * time.Hour))
	f.add(api.Event{At: start.Add(-24 * time.Hour)})
	if events, lost, _ := f.after(all[2].ID); len(events) != 1 || !lost {
		t.Errorf("after one of the future: %d events, %t", len(events), lost)
	}
}
