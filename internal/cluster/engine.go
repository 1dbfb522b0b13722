// Package cluster lets several managers share one set of services, so that none of them is
// a single point of failure.
//
// What they share is kept in an engine that the operator runs: etcd. A service has one
// record there, with its owner, the manager that publishes it, and the revision counters
// that the owner reserved. Taking a service over, giving it to another manager and reserving
// counters are the same operation: replacing the record if its version is still the same.
// Leases tell which managers are alive, and never who may publish.
package cluster

import (
	"context"
	"errors"
	"time"
)

var (
	// ErrUnavailable says that no endpoint of the engine answers, or that it has no quorum.
	// Nothing was changed.
	ErrUnavailable = errors.New("the store of the cluster does not answer")
	// ErrUnknown says that it is not known whether a transaction was made: its answer was
	// lost. Read again before deciding anything.
	ErrUnknown = errors.New("it is not known whether the store of the cluster made the change")
	// ErrNoSpace says that the engine takes nothing new: its quota or its disk is full. It
	// still reads, deletes and keeps leases alive.
	ErrNoSpace = errors.New("the store of the cluster has no space left")
	// ErrDenied says that the engine refuses the user, or the certificate.
	ErrDenied = errors.New("the store of the cluster denies access")
	// ErrCompacted says that a watch asks for revisions that the engine has no more.
	ErrCompacted = errors.New("the store of the cluster has compacted these revisions")
	// ErrLeaseLost says that a lease has ended.
	ErrLeaseLost = errors.New("the lease has ended")
)

// Item is a key as the engine has it.
type Item struct {
	Key     string
	Value   []byte // nil: it is not there
	Version int64  // the engine's revision that wrote it; 0: it is not there
	Lease   Lease  // it is deleted when this ends; 0: it stays
}

// Op is a part of a transaction: it makes a change if the key has the version expected.
type Op struct {
	Key     string
	Version int64  // expected; 0: the key must not be there
	Check   bool   // the version is looked at, and nothing is changed
	Value   []byte // nil deletes
	Lease   Lease  // the key is deleted when this ends; 0: it stays
}

// MaxOps is how many changes a Swap has at most. The store adds one operation, and etcd
// refuses more than 128 unless it is told otherwise.
const MaxOps = 120

// Engine is a store of keys that several managers share, linearizable in all that it says.
// Its versions grow with every change of any key.
type Engine interface {
	// Range returns the keys that begin with prefix, by key, as they were at one revision.
	Range(ctx context.Context, prefix string) (items []Item, revision int64, err error)
	// Txn makes all changes or none, and returns the revision that it was made at. If a key
	// has another version than expected, made is false, and items are all of ops' keys as
	// they are at that revision, in the order of ops; those that are not there have the
	// version 0. Nothing is sent twice: an answer that is lost is ErrUnknown.
	Txn(ctx context.Context, ops []Op) (revision int64, made bool, items []Item, err error)
	// Watch calls f with the changes of the keys that begin with prefix, those of one
	// revision together and in their order, from a revision on, until ctx ends or the watch
	// breaks; err is never nil. A key that was deleted has no value. f with no items says
	// that nothing was missed up to revision. f is never called once Watch has returned.
	Watch(ctx context.Context, prefix string, from int64, f func(revision int64, items []Item)) error
}

// Lease identifies a lease of the engine's.
type Lease int64

// Leases are what tells that a manager is alive.
type Leases interface {
	Grant(ctx context.Context, lasts time.Duration) (Lease, error)
	// KeepAlive renews a lease. ErrLeaseLost says that it has ended.
	KeepAlive(context.Context, Lease) error
	Revoke(context.Context, Lease) error
}
