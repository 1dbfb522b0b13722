package cluster

import (
	"bytes"
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/state"
)

// memberPrefix is that of the keys of members.
const memberPrefix = "member/"

// Member is a live manager, as it says of itself. Its key is on its lease.
type Member struct {
	Manager  string    `json:"manager"`
	Process  string    `json:"process"` // identifies it: no two have the same
	Version  string    `json:"version"`
	Since    time.Time `json:"since"`
	Draining bool      `json:"draining,omitempty"` // the operator wants it to own nothing
	Unfit    string    `json:"unfit,omitempty"`    // why it should own nothing while another can
	// Groups are the groups of services that it can certify, in order, and Lacks those
	// services of them that it cannot.
	Groups []string        `json:"groups"`
	Lacks  []state.Address `json:"lacks,omitempty"`
	Owned  int             `json:"owned"`          // services, when it wrote this
	Beat   uint64          `json:"beat"`           // grows with every write
	Clock  time.Time       `json:"clock,omitzero"` // of its machine, when it wrote this
}

func memberKey(manager string) state.Key { return state.Key(memberPrefix + manager) }

// can reports whether m can certify a service.
func (m *Member) can(s *Service) bool {
	_, has := slices.BinarySearch(m.Groups, s.Group)
	_, lacks := slices.BinarySearchFunc(m.Lacks, s.Address, func(a state.Address, b descriptor.Address) int { return bytes.Compare(a[:], b[:]) })
	return has && !lacks
}

// maxLacks is how many services of its groups a member may lack. One that lacks more takes
// none of the group.
const maxLacks = 500

// A member whose key has not been rewritten for this long is dead, whatever its lease says:
// who can reach the engine may be able to renew leases of others.
const (
	beatEvery = time.Minute
	beatLost  = 3 * beatEvery
)

// beat is a sign of life: the Beat of a process.
type beat struct {
	process string
	number  uint64
}

// maxBeats is of how many processes of a manager the last beat is kept.
const maxBeats = 100

// sight is a member as this manager sees it.
type sight struct {
	Member
	version uint64
	beaten  time.Time     // when Beat was seen to grow, by this manager's clock; zero: never
	skew    time.Duration // its Clock less that of this manager, then
}

func (s *sight) alive(now time.Time) bool { return now.Sub(s.beaten) < beatLost }
