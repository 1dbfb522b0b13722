package tell

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Upload is one descriptor as one HSDir got it.
type Upload struct {
	At         time.Time
	Descriptor string // of which service and period
	HSDir      string
	Bytes      int
	Points     []string // authentication keys; nil to those who do not know the address
}

// together is how far apart the uploads of one version of a descriptor may be.
const together = time.Minute

// Habits are what uploads tell of their publisher, each as the values of many of them:
//
//   - the hours between two versions, as one who keeps all HSDirs sees them;
//   - the hours between two uploads to one HSDir, the first of each version;
//   - the hour of the day of each version, in UTC, and the minute of the hour;
//   - the hour of the day of a descriptor's first version;
//   - the versions of each descriptor in each day;
//   - the bytes;
//   - the number of points;
//   - the hours for which a point stood in a descriptor that went on without it.
type Habits map[string][]float64

// HabitsOf measures the uploads within a time, in any order. Those of a descriptor that
// was there before have no first version.
func HabitsOf(uploads []Upload, from, to time.Time) Habits {
	h := make(Habits)
	uploads = slices.Clone(uploads)
	slices.SortStableFunc(uploads, func(a, b Upload) int { return a.At.Compare(b.At) })
	version, atHSDir := make(map[string]time.Time), make(map[[2]string]time.Time)
	perDay := make(map[string]int)
	points := make(map[string]map[string]time.Time) // since when a descriptor has them
	for _, u := range uploads {
		key := [2]string{u.Descriptor, u.HSDir}
		before, known := version[u.Descriptor]
		last, again := atHSDir[key]
		atHSDir[key] = u.At
		isVersion := !known || u.At.Sub(before) > together
		if isVersion {
			version[u.Descriptor] = u.At
			if u.Points != nil {
				h.notePoints(u, points, from)
			}
		}
		if u.At.Before(from) || !u.At.Before(to) {
			continue
		}
		h.add("bytes", float64(u.Bytes))
		if !isVersion {
			continue // at the other HSDirs it says the same again
		}
		if again {
			h.add("hours between uploads to an HSDir", u.At.Sub(last).Hours())
		}
		perDay[u.Descriptor+u.At.UTC().Format(" 2006-01-02")]++
		h.add("hour of the day", hourOfDay(u.At))
		h.add("minute of the hour", u.At.Sub(u.At.Truncate(time.Hour)).Minutes())
		if known {
			h.add("hours between versions", u.At.Sub(before).Hours())
		} else {
			h.add("hour of the first version", hourOfDay(u.At))
		}
	}
	for _, n := range perDay {
		h.add("versions a day", float64(n))
	}
	return h
}

// notePoints notes how long the points stood that a version has no more, if they came
// after from.
func (h Habits) notePoints(u Upload, points map[string]map[string]time.Time, from time.Time) {
	h.add("points", float64(len(u.Points)))
	had, has := points[u.Descriptor], make(map[string]time.Time)
	for _, p := range u.Points {
		has[p] = u.At
		if since, known := had[p]; known {
			has[p] = since
		}
	}
	for p, since := range had {
		if _, still := has[p]; !still && !since.Before(from) {
			h.add("hours of a point", u.At.Sub(since).Hours())
		}
	}
	points[u.Descriptor] = has
}

func (h Habits) add(name string, value float64) { h[name] = append(h[name], value) }

func hourOfDay(t time.Time) float64 { return t.Sub(t.UTC().Truncate(24 * time.Hour)).Hours() }

// CompareHabits looks for what tells two publishers apart: the most telling first. The
// findings' rules are not learned: they say what was compared.
func CompareHabits(a, b Habits) (report Report) {
	for name := range a {
		p := kolmogorov(a[name], b[name])
		report = append(report, Finding{Feature: name, P: p,
			Rule: fmt.Sprintf("medians %.3g and %.3g of %d and %d", median(a[name]), median(b[name]), len(a[name]), len(b[name]))})
	}
	for _, name := range []string{"hour of the day", "hour of the first version"} {
		report = append(report, Finding{Feature: name + ", in ten minutes of it", P: peak(a[name], b[name], 1./6), Rule: "the largest peak"})
	}
	slices.SortFunc(report, compareFindings)
	return report
}

func median(list []float64) float64 {
	if len(list) == 0 {
		return math.NaN()
	}
	return slices.Sorted(slices.Values(list))[len(list)/2]
}

// kolmogorov is the chance that two samples of one distribution are as far apart as
// these (the two-sample test of Kolmogorov and Smirnov, in its limit for large samples).
// 0 if one of them is empty.
func kolmogorov(a, b []float64) float64 {
	if len(a) == 0 || len(b) == 0 {
		return 0
	}
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	most := 0.0
	for i, j := 0, 0; i < len(a) && j < len(b); {
		at := min(a[i], b[j])
		for i < len(a) && a[i] == at {
			i++
		}
		for j < len(b) && b[j] == at {
			j++
		}
		most = max(most, math.Abs(float64(i)/float64(len(a))-float64(j)/float64(len(b))))
	}
	n := math.Sqrt(float64(len(a)) * float64(len(b)) / float64(len(a)+len(b)))
	lambda := (n + 0.12 + 0.11/n) * most
	if lambda < 0.2 { // where the series does not converge
		return 1
	}
	p := 0.0
	for k := 1.0; k <= 100; k++ {
		p += 2 * math.Pow(-1, k-1) * math.Exp(-2*k*k*lambda*lambda)
	}
	return min(max(p, 0), 1)
}

// peak is the chance that two samples of one distribution differ as much as these do in
// any class of a width: it finds peaks, where the distribution as a whole is the same.
func peak(a, b []float64, width float64) float64 {
	count := make(map[int][2]int)
	for l, list := range [][]float64{a, b} {
		for _, v := range list {
			c := count[int(v/width)]
			c[l]++
			count[int(v/width)] = c
		}
	}
	all, p := len(a)+len(b), 1.0
	for _, c := range count {
		p = min(p, fisher(c[0], len(a), c[0]+c[1], all), fisher(c[1], len(b), c[0]+c[1], all))
	}
	return min(1, 2*float64(len(count))*p)
}
