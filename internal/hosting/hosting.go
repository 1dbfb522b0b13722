// Package hosting keeps the customers of shards: which public onion address each has,
// on which shard, and whether it is served.
//
// A shard is a set of instances (its replicas) that serve many addresses. An instance
// answers for the addresses in its ob_config alone, and tor reads that when it starts; so
// keys are made beforehand, as spares, and a new customer takes one.
//
// The truth is in two places, each for its own part. The store has a record of every
// customer, which decides. The directory of the shard has the keys:
//
//	DIR/NAME/            the key directory of the customer called NAME
//	DIR/.spares/LABEL/   one of an address that the replicas know and nobody has yet
//	DIR/.pending/LABEL/  one that the replicas will know once they were restarted
//	DIR/.removed/LABEL/  one of a removed customer, whom the replicas still know
//	DIR/.replicas/NAME/  what is to be copied to the replica called NAME
//
// LABEL is an onion address without ".onion". A key directory is what tor keeps in a
// HiddenServiceDir (hs_ed25519_secret_key), a sealed key (key.sealed), or the directory of an
// offline ceremony. A key directory in DIR that the store knows nothing of is a customer
// that the operator brought along, called as the directory is. A pending key that was brought for
// a customer, from elsewhere or from another shard, has the customer's name in the file
// "customer": once the replicas know it, it is called DIR/NAME, and never a spare.
//
// Several managers may share the store; each has directories of its own. Then a registry takes in
// the records that others wrote, moves its keys after them, and with ShareKeys gets those that
// it lacks (Shared, Note, Hear).
package hosting

import (
	"errors"
	"regexp"
	"time"

	"onionbalancer/descriptor"
)

// State says whether a customer is served.
type State string

// The states of a customer.
const (
	Active    State = "active"
	Suspended State = "suspended" // withdrawn, to be resumed
	Removed   State = "removed"   // withdrawn for good
)

// Customer is a customer as the store keeps it.
type Customer struct {
	Name    string             `json:"name"` // unique among those that are not removed
	Address descriptor.Address `json:"address"`
	Shard   string             `json:"shard"`
	State   State              `json:"state"`
	Added   time.Time          `json:"added"`
	Since   time.Time          `json:"since"` // of State and Shard
	// Request is the id of the request that added it; empty if it gave none.
	Request string `json:"request,omitempty"`
	// Changed is the id of the request that changed it last; empty if that gave none.
	Changed string `json:"changed_by,omitempty"`
	// Confirmed is when HSDirs had what should be published since the last change: visitors
	// reach an active customer, and no HSDir has introduction points of another. Zero: not yet.
	Confirmed time.Time `json:"confirmed,omitzero"`
	// MovingTo is the shard that it is to move to, once that one's replicas know it.
	MovingTo string `json:"moving_to,omitempty"`
}

// Called returns what the log calls the customer: the name, or the shortened address of one
// who has no other name.
func (c Customer) Called() string {
	if c.Name == c.Address.Label() {
		return c.Address.Short()
	}
	return c.Name
}

// Shard is what is known of a shard's customers and keys.
type Shard struct {
	Name      string `json:"name"`
	Active    int    `json:"active"`
	Suspended int    `json:"suspended"`
	Removed   int    `json:"removed"` // whom the replicas still know
	Spares    int    `json:"spares"`
	Pending   int    `json:"pending"` // keys that are spares after the next rolling restart
}

// Lines is how many MasterOnionAddress lines the ob_config of its replicas has.
func (s Shard) Lines() int { return s.Active + s.Suspended + s.Removed + s.Spares + s.Pending }

// How large a shard should be, in addresses: each costs a replica's tor 10 microseconds for
// every introduction, whomever it is for.
const (
	ShardSize   = 250
	ShardSpares = 25
	ShardMost   = 500 // more than this is warned of
	FewSpares   = 5   // fewer than this are, too
)

// The errors of a Registry. They are wrapped, with the particulars.
var (
	ErrUnknown  = errors.New("there is no such customer")
	ErrNoShard  = errors.New("there is no such shard")
	ErrNoSpare  = errors.New("the shard has no spare key")
	ErrTaken    = errors.New("the name is taken")
	ErrName     = errors.New("this is no name for a customer")
	ErrConflict = errors.New("the request id was used for something else")
	ErrRemoved  = errors.New("the customer was removed")
	ErrApart    = errors.New("the customer cannot move there")
)

// nameForm is what a customer may be called: it is the name of a directory, and a part of
// URLs.
var nameForm = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._-]{0,127}$`)
