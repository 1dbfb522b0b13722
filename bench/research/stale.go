package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

// What tor and the consensus set: rend-spec-v3, section 2.2.
const (
	replicas    = 2
	spreadStore = 4
	spreadFetch = 3
	keptFor     = 3 * hour // by an HSDir: descriptor-lifetime
)

// staleCase is who holds which consensus, and what the publisher does about it.
type staleCase struct {
	churn               float64 // of the HSDirs, in an hour
	early               bool    // the publisher has each consensus within minutes
	readerEarly         bool
	previous            int // rings before its own that the publisher serves too
	services, days      int
	relays, changesADay int
}

// reads counts what readers met, by how many HSDirs they asked: one, one of each
// replica, all six.
type reads struct {
	all    int
	none   [3]int
	older  [3]int // a counter that is not the latest
	points [3]int // and introduction points that are not, for two minutes or more

	editions, uploads int
}

// copyOf is what one HSDir has.
type copyOf struct {
	relay            int32
	counter, version int // from 1
	at               int
}

// hsService is a service and what HSDirs have of it.
type hsService struct {
	near             [][replicas][]int32 // by hour, the HSDirs of its consensus, nearest first
	stores           [replicas][]copyOf
	counter, version int
	changed          int // when version was made
}

func newService(all rings, places [replicas]uint64) *hsService {
	s := &hsService{near: make([][replicas][]int32, len(all))}
	for h := range all {
		for replica, place := range places {
			s.near[h][replica] = all.nearest(h, place, spreadStore)
		}
	}
	return s
}

// publish puts a new edition to the HSDirs of the consensuses of those hours, and
// returns to how many.
func (s *hsService) publish(t int, hours []int) (uploads int) {
	s.counter++
	for replica := range s.stores {
		var to []int32
		for _, h := range hours {
			to = append(to, s.near[h][replica]...)
		}
		slices.Sort(to)
		to = slices.Compact(to)
		uploads += len(to)
		for _, id := range to {
			c := copyOf{id, s.counter, s.version, t}
			if i := slices.IndexFunc(s.stores[replica], func(c copyOf) bool { return c.relay == id }); i >= 0 {
				s.stores[replica][i] = c
			} else {
				s.stores[replica] = append(s.stores[replica], c)
			}
		}
	}
	return uploads
}

// ask returns what an HSDir answers; the zero value is nothing.
func (s *hsService) ask(replica int, id int32, t int) copyOf {
	for _, c := range s.stores[replica] {
		if c.relay == id && t-c.at <= keptFor {
			return c
		}
	}
	return copyOf{}
}

// read has a reader with the consensus of that hour ask.
func (s *hsService) read(r *rand.Rand, t, hour int, n *reads) {
	var got [replicas][]copyOf
	best := copyOf{}
	newer := func(c, than copyOf) copyOf {
		if c.counter > than.counter {
			return c
		}
		return than
	}
	for replica := range got {
		for _, id := range s.near[hour][replica][:spreadFetch] {
			c := s.ask(replica, id, t)
			got[replica] = append(got[replica], c)
			best = newer(c, best)
		}
	}
	a, b := got[0][r.IntN(spreadFetch)], got[1][r.IntN(spreadFetch)]
	one := a
	if r.IntN(2) == 0 {
		one = b
	}
	n.all++
	for i, c := range []copyOf{one, newer(a, b), best} {
		switch {
		case c.counter == 0:
			n.none[i]++
		case c.counter < s.counter:
			n.older[i]++
			if c.version < s.version && t-s.changed >= 2 {
				n.points[i]++
			}
		}
	}
}

// simulate counts the reads of some days, all services together. HSDirs that leave
// the consensus go on answering, which is the worst case for old answers.
func (c staleCase) simulate(seed uint64) reads {
	r := rand.New(rand.NewPCG(seed, 4))
	hours := c.days * 24
	all := newRings(r, c.relays, hours, c.churn)
	var n reads
	for range c.services {
		s := newService(all, [replicas]uint64{r.Uint64(), r.Uint64()})
		held := holding(r, hours, c.early)
		var readers [6][]int
		for i := range readers {
			readers[i] = holding(r, hours, c.readerEarly)
		}
		change := func(t int) int { return t + 1 + int(r.ExpFloat64()*24*hour/float64(c.changesADay)) }
		nextChange, refresh := change(0), 0
		var mine []int // the hours of the consensuses that the publisher serves, its own last
		for t := range hours * hour {
			due := t >= refresh
			if len(mine) == 0 || mine[len(mine)-1] != held[t] {
				due = due || s.moved(mine, held[t])
				mine = append(mine, held[t])
				mine = mine[max(0, len(mine)-1-c.previous):]
			}
			if t >= nextChange {
				s.version, s.changed, nextChange, due = s.version+1, t, change(t), true
			}
			if due {
				n.editions++
				n.uploads += s.publish(t, mine)
				refresh = t + 60 + r.IntN(61)
			}
			if t >= 6*hour && t%7 == 0 {
				for _, reader := range readers {
					s.read(r, t, reader[t], &n)
				}
			}
		}
	}
	return n
}

// moved reports whether the consensus of that hour names an HSDir that the last of
// mine did not.
func (s *hsService) moved(mine []int, hour int) bool {
	if len(mine) == 0 {
		return true
	}
	for replica, before := range s.near[mine[len(mine)-1]] {
		for _, id := range s.near[hour][replica] {
			if !slices.Contains(before, id) {
				return true
			}
		}
	}
	return false
}

// public is a network about as large as the public one.
var public = staleCase{services: 600, days: 3, relays: 3000, changesADay: 6}

var churns = []float64{0.0025, 0.005, 0.01, 0.02, 0.05}

func measureStale(say progress) (figures, error) {
	at := func(churn float64, early, readerEarly bool, previous int) reads {
		c := public
		c.churn, c.early, c.readerEarly, c.previous = churn, early, readerEarly, previous
		return c.simulate(1)
	}
	asked := []string{"one HSDir", "one of each replica", "all six"}
	instances := chart{Name: "stale-instances", Title: "A manager with the newest consensus reads an instance",
		X: axis{Label: "HSDirs that change from one hour to the next (%)", From: 0, To: 5},
		Y: axis{Label: "reads that find nothing, or not the latest (%)", From: 0.0001, To: 10, Log: true}}
	tableOf := table{Name: "instances", Head: []string{"change in an hour", "asked", "nothing", "an older descriptor", "older points"}}
	for _, name := range asked {
		instances.Series = append(instances.Series, series{Name: name})
	}
	for _, churn := range churns {
		say("instances, %.2g %% change in an hour", churn*100)
		n := at(churn, false, true, 0)
		for i, name := range asked {
			instances.Series[i].Add(churn*100, percent(n.none[i]+n.older[i], n.all))
			if churn == 0.005 || churn == 0.02 {
				tableOf.Add(append([]any{fmt.Sprintf("%.2g %%", churn*100), name}, n.cells(i)...)...)
			}
		}
	}

	visitors := chart{Name: "stale-visitors", Title: "A visitor reads what a manager with the newest consensus published",
		X: axis{Label: "HSDirs that change from one hour to the next (%)", From: 0, To: 5},
		Y: axis{Label: "reads that find an older descriptor (%)"}}
	tableTo := table{Name: "visitors", Head: []string{"change in an hour", "published to the HSDirs of", "nothing", "an older descriptor", "older points", "uploads an edition"}}
	for _, served := range []struct {
		name     string
		early    bool
		previous int
	}{{"tor's own consensus, as a service does", false, 0}, {"the newest ring", true, 0}, {"the newest and the one before", true, 1}, {"the newest and two before", true, 2}} {
		line := series{Name: served.name, Dashed: !served.early}
		for _, churn := range churns {
			say("visitors, %s, %.2g %% change in an hour", served.name, churn*100)
			n := at(churn, served.early, false, served.previous)
			line.Add(churn*100, percent(n.older[0], n.all))
			if churn == 0.005 || churn == 0.02 {
				cells := append([]any{fmt.Sprintf("%.2g %%", churn*100), served.name}, n.cells(0)...)
				tableTo.Add(append(cells, f2(float64(n.uploads)/float64(n.editions)))...)
			}
		}
		visitors.Series = append(visitors.Series, line)
	}
	for i := range instances.Series { // a line of zeros has no place on this axis
		if s := &instances.Series[i]; slices.Max(s.Y) == 0 {
			s.Name += ": none of them"
		}
	}
	return figures{[]table{tableOf, tableTo}, []chart{instances, visitors}}, nil
}

// cells are the parts of the reads, by how many were asked, that found nothing, an
// older descriptor, and older points.
func (n reads) cells(asked int) (cells []any) {
	for _, count := range []int{n.none[asked], n.older[asked], n.points[asked]} {
		cells = append(cells, f3(percent(count, n.all))+" %")
	}
	return cells
}

func percent(n, of int) float64 { return 100 * float64(n) / float64(max(1, of)) }
