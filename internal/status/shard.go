package status

import "time"

// Shard is one [[shard]]: instances that many customers share, and the customers in
// numbers. Its size does not grow with their number.
type Shard struct {
	Name string `json:"name"`
	// State is StateFailed if no customer is served, StateStarting if none is yet, and
	// StateDegraded if a customer is not, or one of them or of the instances needs attention.
	// It is StateElsewhere if other managers of the cluster publish all of its customers.
	State     State     `json:"state"`
	Strategy  string    `json:"strategy"`
	Profile   string    `json:"profile"` // "balanced" or "ordinary"
	Customers Customers `json:"customers"`

	// Spares are addresses that the instances know and nobody has yet, Pending those that they
	// know after their next restart. Lines is how many MasterOnionAddress lines their
	// ob_config has by then.
	Spares  int `json:"spares"`
	Pending int `json:"pending"`
	Lines   int `json:"lines"`

	// Instances are the shard's, as one of its customers has them. Drain is of all.
	Instances []Instance    `json:"instances"`
	Custody   SharedCustody `json:"custody"`

	Oldest      time.Time   `json:"oldest_descriptor,omitzero"` // when the oldest of the customers' descriptors was made that clients fetch now
	Unconfirmed int         `json:"unconfirmed_uploads"`        // to HSDirs that clients ask
	NextFetch   time.Time   `json:"next_fetch,omitzero"`
	Attention   []Attention `json:"attention,omitempty"` // the first few customers that need it, the worst first
	Needy       int         `json:"customers_in_need"`   // of attention, all of them
	Warnings    []string    `json:"warnings,omitempty"`  // about the shard as a whole

	// Owners is how many active customers each manager of the cluster publishes; those of ""
	// nobody does. nil if there is no cluster.
	Owners map[string]int `json:"owners,omitempty"`
}

// Customers counts the customers of a shard: first by what they are to be, then the active
// ones by how their addresses are published. An instance that is missing changes nothing of
// the latter as long as another serves them.
type Customers struct {
	Active      int `json:"active"`
	Suspended   int `json:"suspended"`
	Removed     int `json:"removed"`     // whom the instances still know
	Withdrawing int `json:"withdrawing"` // of the suspended and removed ones, those that HSDirs may still have points of

	OK       int `json:"ok"`
	Degraded int `json:"degraded"`
	Starting int `json:"starting"`
	Failed   int `json:"failed"`

	Elsewhere int `json:"elsewhere,omitempty"` // published by another manager of the cluster, which knows how
}

// Served is how many of the active customers have a descriptor that clients get.
func (c Customers) Served() int { return c.OK + c.Degraded }

// In is how many of the active customers' services are in a state.
func (c Customers) In(s State) int {
	return map[State]int{StateOK: c.OK, StateDegraded: c.Degraded, StateStarting: c.Starting, StateFailed: c.Failed, StateElsewhere: c.Elsewhere}[s]
}

// Attention is a customer that needs attention, and why.
type Attention struct {
	Customer string `json:"customer"` // name
	Address  string `json:"address"`
	State    State  `json:"state"`
	Text     string `json:"text"`
}

// SharedCustody says who keeps the keys of a shard's active customers, and how long that
// lasts for the first of them that runs out.
type SharedCustody struct {
	Forms          map[string]int `json:"forms"`                    // how many customers have each Custody.Form
	CertifiedUntil time.Time      `json:"certified_until,omitzero"` // when the first certificate ends of a descriptor that clients fetch now
	Customer       string         `json:"customer,omitempty"`       // whose supply is the shortest; empty unless certificates were made at a ceremony
	*Ahead                        // of that customer
}

// Customer is everything about one customer.
type Customer struct {
	Name    string    `json:"name"`
	Shard   string    `json:"shard"`
	Hosted  string    `json:"hosted"`            // what it is to be: "active", "suspended" or "removed"
	Since   time.Time `json:"since,omitzero"`    // of Hosted
	Service *Service  `json:"service,omitempty"` // nil if nothing is published of it any more
	Address string    `json:"address"`
	Error   string    `json:"error,omitempty"` // why there is no service that should be
}

// Published says in short how a customer's address is published.
type Published struct {
	Shard, Name string
	State       State
	Made        time.Time // when the version was made that clients fetch now; zero if there is none
}
