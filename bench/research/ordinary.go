package main

import (
	"math"
	"math/rand/v2"
	"slices"

	"onionbalancer/selection"
)

const dayLong = 24 * hour

// offers are the introduction points of instances: for each day those of the
// descriptors that their tors make at 00:00 and drop 48 hours later. A manager finds
// them from 12:00 on for a day.
type offers [][]*life

func newOffers(r *rand.Rand, instances, days int) offers {
	all, made := make(offers, days), 0
	for day := range all {
		from := float64(day * dayLong)
		for i := range instances {
			for range selection.OrdinaryPoints {
				for t := from; t < from+2*dayLong; {
					l := &life{instance: i, born: t, dies: t + 18*hour + r.Float64()*6*hour, point: somePoint(uint64(made))}
					l.dies = min(l.dies, t+next(r, calm.loss), from+2*dayLong)
					made, t = made+1, l.dies+0.3
					all[day] = append(all[day], l)
				}
			}
		}
	}
	return all
}

// at are the points that a manager may publish at t: what it finds, and what it
// published and still lives.
func (o offers) at(t float64, published ...[]*life) (points []*life) {
	day := max(0, int(t-dayLong/2)/dayLong)
	for _, l := range o[min(day, len(o)-1)] {
		if l.lives(t - lag) {
			points = append(points, l)
		}
	}
	for _, list := range published {
		for _, l := range list {
			if l.lives(t-lag) && !slices.Contains(points, l) {
				points = append(points, l)
			}
		}
	}
	return points
}

// serving returns each instance's part of the points that clients could ask, by day,
// with the ordinary profile.
func serving(seed uint64, instances, points, days int) [][]float64 {
	r := rand.New(rand.NewPCG(seed, 6))
	all := newOffers(r, instances, days+2)
	shares := make([][]float64, days)
	var first, second []*life // descriptors that this day and the next made
	for minute := range (days + 1) * dayLong {
		t, day := float64(minute), minute/dayLong
		if minute%dayLong == 0 {
			first, second = second, nil
		}
		offered := all.at(t, first, second)
		second = replace(r, t, offered, second, first, points)
		if day > 0 || minute >= dayLong/2 {
			first = replace(r, t, offered, first, second, points)
		}
		current := second // from 12:00 on
		at := day
		if minute%dayLong < dayLong/2 {
			current, at = first, day-1
		}
		if at < 0 || at >= days {
			continue
		}
		if shares[at] == nil {
			shares[at] = make([]float64, instances)
		}
		for _, l := range current {
			shares[at][l.instance] += 1 / float64(dayLong*len(current))
		}
	}
	return shares
}

// replace has the ordinary profile choose the points of a descriptor, if any is missing.
func replace(r *rand.Rand, t float64, offered, now, other []*life, points int) []*life {
	if len(now) == points && !slices.ContainsFunc(now, func(l *life) bool { return !slices.Contains(offered, l) }) {
		return now
	}
	request := selection.Request{Now: clock(t), Room: selection.Room{Points: points}, Slots: []selection.Slot{{Replica: 1, Asked: true}}}
	for _, l := range now {
		request.Slots[0].Holds = append(request.Slots[0].Holds, l.point.AuthKey)
	}
	for i := range request.Seed {
		request.Seed[i] = byte(r.Uint32())
	}
	byKey := make(map[[32]byte]*life)
	for _, l := range offered {
		request.Candidates = append(request.Candidates, l.candidate())
		byKey[l.point.AuthKey] = l
	}
	var keys [][32]byte
	for _, l := range other {
		keys = append(keys, l.point.AuthKey)
	}
	now = nil
	for _, c := range selection.Ordinary(selection.Spread{}, request, keys).Points[0] {
		now = append(now, byKey[c.Point.AuthKey])
	}
	return now
}

// measureServing says how uneven the shares of equal instances are over some days.
func measureServing(say progress) table {
	t := table{Name: "ordinary", Head: []string{"instances", "points", "instances that serve, in a day", "worst share, in a day", "in a week", "in four weeks"}}
	for _, c := range [][2]int{{3, 3}, {6, 3}, {12, 3}, {6, 6}, {12, 8}, {30, 8}} {
		say("%d instances with %d ordinary points", c[0], c[1])
		var served, day, week, month float64
		const seeds = 4
		for seed := range uint64(seeds) {
			shares := serving(seed, c[0], c[1], 28)
			for i, s := range shares {
				n := 0
				for _, part := range s {
					if part > 0 {
						n++
					}
				}
				served += float64(n) / float64(seeds*len(shares))
				day += off(shares[i:i+1]) / float64(seeds*len(shares))
				if i%7 == 0 {
					week += off(shares[i:i+7]) / (4 * seeds)
				}
			}
			month += off(shares) / seeds
		}
		t.Add(c[0], c[1], f1(served), f0(day)+" %", f0(week)+" %", f0(month)+" %")
	}
	return t
}

// off is how far the worst share of equal instances is off over some days, in
// percent.
func off(days [][]float64) (worst float64) {
	sum := make([]float64, len(days[0]))
	for _, day := range days {
		for i, s := range day {
			sum[i] += s / float64(len(days))
		}
	}
	for _, s := range sum {
		worst = max(worst, 100*math.Abs(s*float64(len(sum))-1))
	}
	return worst
}
