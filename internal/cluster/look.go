package cluster

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/state"
)

// Look is what the records of a cluster show to somebody who is none of its managers.
type Look struct {
	Members  []Member // by name
	Services int      // that have a record
	// Unowned are those whose owner is not a member. One that was not published for a day may
	// have been removed from all configurations, and does not count.
	Unowned []descriptor.Address
}

// unownedFor is how long a service without an owner is missed.
const unownedFor = 24 * time.Hour

// LookAt reads the records of a cluster. What cannot be read is left out.
func LookAt(now time.Time, entries []state.Entry) Look {
	var l Look
	alive := map[string]bool{}
	for _, e := range entries {
		var m Member
		if strings.HasPrefix(string(e.Key), memberPrefix) && json.Unmarshal(e.Value, &m) == nil {
			l.Members = append(l.Members, m)
			alive[m.Manager] = true
		}
	}
	for _, e := range entries {
		a, err := state.ServiceOf(e.Key)
		var record struct {
			Owner string       `json:"owner"`
			Made  []state.Made `json:"made"`
		}
		if err != nil || json.Unmarshal(e.Value, &record) != nil {
			continue
		}
		l.Services++
		missed := slices.ContainsFunc(record.Made, func(m state.Made) bool { return now.Sub(m.Built) < unownedFor })
		if missed && !alive[record.Owner] {
			l.Unowned = append(l.Unowned, a)
		}
	}
	return l
}
