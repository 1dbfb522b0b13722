package balance

import (
	"encoding/binary"
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/selection"
)

// hidden returns those of the published points that their instances have still, as far
// as anyone can know, though they show them no more: when the period changes, clients
// begin to see an instance's next descriptor, which has points of its own. The points of
// the one before go on until they end by themselves.
func (v View) hidden(candidates, published []selection.Candidate) (list []selection.Candidate) {
	shown, able := make(map[[32]byte]bool), make(map[string]bool)
	for _, c := range candidates {
		shown[c.Point.AuthKey], able[c.Instance] = true, true
	}
	for _, c := range published {
		n := slices.IndexFunc(v.Config.Instances, func(i Instance) bool { return i.Name == c.Instance })
		if n < 0 || !able[c.Instance] || shown[c.Point.AuthKey] || v.Now.Sub(c.FirstSeen) >= pointLife(c.Point.AuthKey) {
			continue
		}
		shows := v.Instances.Backends[n].Period
		if descriptor.PeriodAt(c.FirstSeen, shows.Length, v.offset) != shows {
			list = append(list, c)
		}
	}
	return list
}

// pointLife is for how long a point is taken to live that is not seen any more. tor
// draws 18 to 24 hours for each.
func pointLife(key [32]byte) time.Duration {
	return 18*time.Hour + time.Duration(binary.BigEndian.Uint64(key[:])%uint64(6*time.Hour))
}

// keys are the authentication keys of what the first slot holds, if it is this period's.
func (l lastOf) keys() [][32]byte {
	if !l.own || len(l.places) == 0 {
		return nil
	}
	return l.places[0].holding.keys()
}

func keys(points []selection.Candidate) (list [][32]byte) {
	for _, c := range points {
		list = append(list, c.Point.AuthKey)
	}
	return list
}
