package main

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math/rand/v2"
	"time"

	"onionbalancer/bench/report"

	"onionbalancer/selection"
)

// kept takes any point of an instance, and keeps it until it dies.
type kept struct{}

func (kept) Name() string { return "kept" }

func (kept) Wish(instances []selection.Standing, _ time.Time) selection.Wishes {
	return alike(instances, func(a, b selection.Candidate) int {
		return cmp.Or(-compareBool(a.Place > 0, b.Place > 0), bytes.Compare(a.Point.AuthKey[:], b.Point.AuthKey[:]))
	})
}

// changing takes others of an instance's points with every refresh, whatever their
// age: those that the salt puts first.
type changing struct{ salt uint64 }

func (*changing) Name() string { return "changing" }

func (c *changing) Wish(instances []selection.Standing, _ time.Time) selection.Wishes {
	at := func(p selection.Candidate) uint64 {
		return rand.NewPCG(binary.BigEndian.Uint64(p.Point.AuthKey[:]), c.salt).Uint64()
	}
	return alike(instances, func(a, b selection.Candidate) int { return cmp.Compare(at(a), at(b)) })
}

// alike gives all instances the same weight, and that preference.
func alike(instances []selection.Standing, prefer func(a, b selection.Candidate) int) (w selection.Wishes) {
	for range instances {
		w.Instances = append(w.Instances, selection.Wish{Weight: 1, Prefer: prefer})
	}
	return w
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// choice is an answer to which of its points an instance should have published.
type choice struct {
	name     string
	strategy func() selection.Strategy
}

var choices = []choice{
	{"longest-lived", func() selection.Strategy { return selection.LongestLived{} }},
	{"kept till it dies", func() selection.Strategy { return kept{} }},
	{"a changing subset", func() selection.Strategy { return new(changing) }},
	{"freshest", func() selection.Strategy { return selection.Freshest{} }},
	{"fresh enough", func() selection.Strategy { return selection.Spread{} }},
}

// setting is a service and its clients.
type setting struct {
	name   string
	fate   fate
	crowd  crowd
	charts bool // one of those that differ by the clients' stay
}

var (
	calm     = fate{loss: 0.01, restart: 1.0 / 168}
	settings = []setting{
		{"1 h, every 5 min", calm, crowd{1500, 1 * hour, 5}, true},
		{"6 h, every 30 min", calm, crowd{1500, 6 * hour, 30}, true},
		{"24 h, every 30 min", calm, crowd{1500, 1e6, 30}, true},
		{"6 h; twice the losses, each instance restarts once a day", fate{loss: 0.02, restart: 1.0 / 24}, crowd{1500, 6 * hour, 30}, false},
		{"6 h; of new points, 30 % die within the hour", fate{loss: 0.01, restart: 1.0 / 168, infant: 0.3}, crowd{1500, 6 * hour, 30}, false},
		{"6 h; busy, one point lasts 2 to 4 h of an instance's load", fate{loss: 0.01, restart: 1.0 / 168, spent: 120}, crowd{1500, 6 * hour, 30}, false},
	}
)

// trial is a service of some instances with three points each, one of them in a
// descriptor.
type trial struct {
	setting
	instances, seeds int
	distinct         bool // contents of the slots
}

// day is what a trial came to, means of its seeds.
type day struct {
	met
	editions, came float64 // that changed anything, and points that were new in a slot
}

func (c trial) run(choice choice) (d day) {
	for seed := range uint64(c.seeds) {
		r := rand.New(rand.NewPCG(seed, 3))
		manager := manager{strategy: choice.strategy(), room: selection.Room{Points: 20, PerInstance: 1}, slots: slots(c.distinct)}
		editions := manager.publish(r, newFleet(seed, c.fate, c.instances, 3))
		c.crowd.visit(r, editions, &d.met)
		for _, e := range editions {
			if e.changed && e.at >= dayBegins {
				d.editions += 1 / float64(c.seeds)
				d.came += float64(e.came) / float64(c.seeds)
			}
		}
	}
	return d
}

func (m met) per1000(n float64) float64 { return 1000 * n / m.visits }

func measureWhich(say progress) (figures, error) {
	byStay := chart{Name: "which-stay", Title: "Dead points that visitors meet, by how long they keep coming",
		X: axis{Label: "how long a client keeps coming back, and how often"}, Y: axis{Label: "dead points met per 1,000 visits"}}
	byHour := chart{Name: "which-hour", Title: "When points die (clients of 6 hours)",
		X: axis{Label: "hours after 00:00 UTC of the day on which the descriptor was first made", From: 12, To: 36, Step: 3}, Y: axis{Label: "dead points met per 1,000 visits"}}
	all := table{Name: "choices", Head: []string{"clients; service", "choice", "dead points met per 1,000 visits", "visits that meet one", "changed editions a day", "points replaced a day"}}
	for _, c := range choices {
		byStay.Series = append(byStay.Series, series{Name: c.name})
	}
	for _, s := range settings {
		if s.charts {
			byStay.Groups = append(byStay.Groups, s.name)
		}
		for i, c := range choices {
			say("%s: %s", s.name, c.name)
			m := trial{s, 20, 12, false}.run(c)
			all.Add(s.name, c.name, f0(m.per1000(m.dead)), f1(m.per1000(m.withDead)/10)+" %", f0(m.editions), f0(m.came))
			if s.charts {
				byStay.Series[i].Y = append(byStay.Series[i].Y, report.Round(float64(int(m.per1000(m.dead)+0.5))))
			}
			if s.name == settings[1].name {
				line := series{Name: c.name, Dashed: c.name == "fresh enough"}
				for h, n := range m.byHour {
					line.Add(float64(h)+12.5, 1000*n.dead/n.visits)
				}
				byHour.Series = append(byHour.Series, line)
			}
		}
	}

	slotsToo := table{Name: "slots", Head: []string{"clients; service", "choice", "one content for all HSDirs", "distinct contents", "changed editions a day, one / distinct", "points replaced a day in a descriptor, one / distinct"}}
	for _, s := range []setting{settings[1], settings[5]} {
		for _, c := range choices {
			say("%s: %s, distinct contents", s.name, c.name)
			one, many := trial{s, 20, 12, false}.run(c), trial{s, 20, 12, true}.run(c)
			slotsToo.Add(s.name, c.name, f0(one.per1000(one.dead)), f0(many.per1000(many.dead)), f0(one.editions)+" / "+f0(many.editions), f0(one.came)+" / "+f0(many.came/spreadFetch/replicas))
		}
	}
	return figures{[]table{all, slotsToo}, []chart{byStay, byHour}}, nil
}
