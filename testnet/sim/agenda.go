package sim

import (
	"container/heap"
	"time"
)

// agenda is what will happen in the network, in order of time and, within the
// same moment, in the order in which it was planned: one timer for everything,
// so that a run can be repeated. Network.mu protects it.
type agenda struct {
	entries entries
	planned uint64
	timer   *time.Timer
	wake    func()
	closed  bool
}

type entry struct {
	at    time.Time
	order uint64
	run   func(now time.Time)
}

type entries []entry

func (e entries) Len() int { return len(e) }
func (e entries) Less(i, j int) bool {
	if e[i].at.Equal(e[j].at) {
		return e[i].order < e[j].order
	}
	return e[i].at.Before(e[j].at)
}
func (e entries) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *entries) Push(x any)   { *e = append(*e, x.(entry)) }
func (e *entries) Pop() any {
	last := len(*e) - 1
	popped := (*e)[last]
	(*e)[last] = entry{} // let go of the closure
	*e = (*e)[:last]
	return popped
}

// plan has run called at t, with Network.mu held.
func (a *agenda) plan(t time.Time, run func(now time.Time)) {
	if a.closed {
		return
	}
	a.planned++
	heap.Push(&a.entries, entry{at: t, order: a.planned, run: run})
	if a.entries[0].order == a.planned {
		a.arm()
	}
}

// due runs everything planned for now or before.
func (a *agenda) due() {
	ran := false
	for now := time.Now(); !a.closed && len(a.entries) > 0 && !a.entries[0].at.After(now); ran = true {
		heap.Pop(&a.entries).(entry).run(now)
	}
	if ran {
		a.arm()
	}
}

func (a *agenda) arm() {
	if a.closed || len(a.entries) == 0 {
		return
	}
	wait := time.Until(a.entries[0].at)
	if a.timer == nil {
		a.timer = time.AfterFunc(wait, a.wake)
		return
	}
	a.timer.Reset(wait)
}

func (a *agenda) close() {
	a.closed = true
	a.entries = nil
	if a.timer != nil {
		a.timer.Stop()
	}
}
