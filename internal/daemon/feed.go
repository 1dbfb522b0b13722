package daemon

import (
	"sync"
	"time"

	"onionbalancer/internal/hosting/api"
)

// feedKept is how many events can be followed.
const feedKept = 10_000

// feed has the last events about customers and shards. Their ids are microseconds of the
// clock, so that they increase over restarts, which forget the events themselves.
type feed struct {
	mu     sync.Mutex
	events []api.Event   // the oldest first
	gone   uint64        // the id of the last one that is not there any more
	more   chan struct{} // closed with the next one
}

func newFeed(now time.Time) *feed {
	return &feed{gone: uint64(now.UnixMicro()), more: make(chan struct{})}
}

// last returns the id of the newest event.
func (f *feed) last() uint64 {
	if len(f.events) == 0 {
		return f.gone
	}
	return f.events[len(f.events)-1].ID
}

// add gives an event its id and adds it.
func (f *feed) add(e api.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e.ID = max(f.last()+1, uint64(e.At.UnixMicro()))
	f.events = append(f.events, e)
	if len(f.events) > feedKept {
		f.gone = f.events[0].ID
		f.events[0] = api.Event{} // what it has is not kept by the array
		f.events = f.events[1:]
	}
	close(f.more)
	f.more = make(chan struct{})
}

// after returns the events after an id, as api.Host's Events does. An id that is not
// reached yet is of a clock that was set back since.
func (f *feed) after(id uint64) (events []api.Event, lost bool, more <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if id > f.last() {
		id, lost = 0, true
	}
	for n := len(f.events); n > 0 && f.events[n-1].ID > id; n-- {
		events = f.events[n-1:]
	}
	return append([]api.Event(nil), events...), lost || id < f.gone, f.more
}
