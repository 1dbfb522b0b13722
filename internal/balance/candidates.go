package balance

import (
	"time"

	"onionbalancer/internal/status"
	"onionbalancer/selection"
)

// candidates lists the introduction points that may be published at now: those
// of the instances that are ok. While none is, the points last known of the
// others are better than nothing; fallback then is true, and whoever is asked
// must say loudly that the service lives on its last good descriptors.
func candidates(now time.Time, instances []*instance) (list []selection.Candidate, fallback bool) {
	for _, i := range instances {
		if i.state(now) == status.StateOK {
			list = append(list, i.candidates(now)...)
		}
	}
	if len(list) > 0 {
		return list, false
	}
	for _, i := range instances {
		list = append(list, i.candidates(now)...)
	}
	return list, true
}

// candidates lists the points of one instance that are worth publishing: not
// expired, and not of a kind that only the oldest clients could use.
func (i *instance) candidates(now time.Time) []selection.Candidate {
	if i.held == nil {
		return nil
	}
	var list []selection.Candidate
	for n := range i.held.IntroductionPoints {
		point := &i.held.IntroductionPoints[n]
		if point.Legacy || !now.Before(point.Expires) {
			continue
		}
		list = append(list, selection.Candidate{
			Instance:  i.Name,
			Weight:    i.Weight,
			Point:     point,
			FirstSeen: i.seen[point.AuthKey],
			Published: i.renewed,
		})
	}
	return list
}

// firstExpiry returns when the next of the points stops being usable, the zero
// time if there are none.
func firstExpiry(points []selection.Candidate) time.Time {
	var first time.Time
	for _, c := range points {
		if first.IsZero() || c.Point.Expires.Before(first) {
			first = c.Point.Expires
		}
	}
	return first
}
