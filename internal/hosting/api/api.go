// Package api is the HTTP interface to the customers of shards, on the daemon's socket:
// the handlers, the description of them (OpenAPI), and a client.
//
// Every request may carry an id (the header Request-Id, or "request_id" in the body of
// an add), which the answer repeats. All requests are idempotent: one that was made
// before has the answer that it had, and changes nothing.
package api

import (
	"context"
	"time"

	"onionbalancer/internal/hosting"
)

// Host is what the handlers serve. Its errors are those of package hosting, wrapped, or
// failures of the daemon's own.
type Host interface {
	// Add gives a customer an address: one of the shard's spares. An empty shard stands for
	// the one with the most spares left, an empty name for the address's label. Where the same
	// name or request was answered before, it returns that customer and false.
	Add(ctx context.Context, name, shard, request string) (Detail, bool, error)
	// Change suspends, resumes or removes a customer, or moves it to another shard. It returns
	// when that is stored; HSDirs are told afterwards.
	Change(ctx context.Context, customer string, c Change) (Detail, error)
	// Customer describes a customer, by name or address.
	Customer(customer string) (Detail, error)
	// List lists customers in the order of their addresses.
	List(Query) (Page, error)
	// Shards describes the shards in the order of their names.
	Shards() []hosting.Shard
	// Installed tells that the replicas of a shard know its pending keys, which are spares
	// from now on, and returns the shard.
	Installed(ctx context.Context, shard string) (hosting.Shard, error)
	// Events returns those after the one with the given id, the oldest first, and a
	// channel that is closed when there are more. lost says that older ones than these are
	// no longer there, so that the caller has to list what it follows.
	Events(after uint64) (events []Event, lost bool, more <-chan struct{})
}

// Change is a change of one customer.
type Change struct {
	To    hosting.State // or empty for a move
	Shard string        // to move to
	// Request is the id of the request; empty if it has none.
	Request string
}

// Detail is a customer and how its address is published.
type Detail struct {
	hosting.Customer
	Points int    `json:"introduction_points"` // published now
	Slots  int    `json:"slots"`               // HSDirs that clients ask now
	Stored int    `json:"slots_confirmed"`     // of them, those that have the last version
	Error  string `json:"error,omitempty"`     // why it is not published as it should be
	// Forgotten is when nobody can know an address any more that was suspended or removed:
	// until then clients that visited before may have its introduction points.
	Forgotten time.Time `json:"forgotten,omitzero"`
	// Answered says that the replicas answer for the address until they were restarted
	// without it.
	Answered bool     `json:"replicas_answer"`
	Notes    []string `json:"notes,omitempty"`
}

// Query says which customers to list.
type Query struct {
	Shard string
	State hosting.State // empty: all but the removed
	Name  string        // beginning of the name
	After string        // a Page's Next
	Limit int           // 1 to 1000
}

// Page is a part of a list.
type Page struct {
	Customers []hosting.Customer `json:"customers"`
	Next      string             `json:"next,omitempty"` // for Query.After; empty at the end
}

// Event is something that happened to a customer or a shard.
type Event struct {
	ID       uint64    `json:"id"` // increases, also over restarts
	At       time.Time `json:"at"`
	Kind     string    `json:"kind"` // "added", "confirmed", "suspended", "resumed", "removed", "withdrawn", "moved", "spares"
	Shard    string    `json:"shard"`
	Customer string    `json:"customer,omitempty"` // name
	Address  string    `json:"address,omitempty"`
	Request  string    `json:"request,omitempty"`
	Text     string    `json:"text"`
}
