package tor

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// TestDeadHSDirs: after a publication that some HSDirs did not confirm, there may be
// nothing but retries to them for hours. That is no mute tor.
func TestDeadHSDirs(t *testing.T) {
	a := New("a", nil)
	begun := time.Now()
	now := begun
	a.uploaded(begun, begun.Add(10*time.Second), "alive", nil)
	for range 10 {
		now = now.Add(time.Minute)
		for n := range muteHSDirs {
			a.uploaded(begun, now, fmt.Sprint(n), context.DeadlineExceeded)
		}
		begun = now // what follows are retries
	}
	a.findMute(now, now)
	if !a.uploads.muteUntil.IsZero() {
		t.Error("mute, since dead HSDirs do not answer")
	}
	for n := range muteHSDirs {
		a.uploaded(now, now.Add(time.Minute), fmt.Sprint("other", n), context.DeadlineExceeded)
	}
	now = now.Add(time.Minute + muteAfter)
	a.findMute(now, now)
	if a.uploads.muteUntil.IsZero() {
		t.Error("not mute, and no HSDir answered a first attempt")
	}
}
