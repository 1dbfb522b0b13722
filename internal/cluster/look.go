package cluster

import (
	"encoding/json"
	"strings"

	"onionbalancer/descriptor"
	"onionbalancer/internal/state"
)

// Look is what the records of a cluster show to somebody who is none of its managers.
type Look struct {
	Members  []Member             // by name
	Services int                  // that have a record
	Unowned  []descriptor.Address // of them, those whose owner is not a member
}

// LookAt reads the records of a cluster. What cannot be read is left out.
func LookAt(entries []state.Entry) Look {
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
			Owner string `json:"owner"`
		}
		if err != nil || json.Unmarshal(e.Value, &record) != nil {
			continue
		}
		l.Services++
		if !alive[record.Owner] {
			l.Unowned = append(l.Unowned, a)
		}
	}
	return l
}
