package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"onionbalancer/internal/etcd"
)

// Etcd is an Engine, with Leases, in an operator's etcd.
type Etcd struct {
	config etcd.Config

	mu     sync.Mutex
	client *etcd.Client
}

var (
	_ Engine = (*Etcd)(nil)
	_ Leases = (*Etcd)(nil)
)

// NewEtcd returns the engine. It connects when it is asked for something.
func NewEtcd(config etcd.Config) (*Etcd, error) {
	client, err := etcd.New(config)
	if err != nil {
		return nil, err
	}
	return &Etcd{config: config, client: client}, nil
}

// Close ends connections that are idle.
func (e *Etcd) Close() { e.Client().Close() }

// Client returns the client, to ask etcd for what is not an Engine's.
func (e *Etcd) Client() *etcd.Client {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.client
}

// meanings are the package's errors for a client's.
var meanings = []struct{ theirs, ours error }{
	{etcd.ErrUnknown, ErrUnknown}, {etcd.ErrUnavailable, ErrUnavailable}, {etcd.ErrNoSpace, ErrNoSpace}, {etcd.ErrDenied, ErrDenied},
	{etcd.ErrCompacted, ErrCompacted}, {etcd.ErrLeaseLost, ErrLeaseLost},
}

// meaning returns an error of client's as the package's.
func (e *Etcd) meaning(client *etcd.Client, err error) error {
	if errors.Is(err, etcd.ErrOtherCluster) {
		e.begin(client)
	}
	for _, m := range meanings {
		if errors.Is(err, m.theirs) {
			err = fmt.Errorf("%w: %w", m.ours, err)
		}
	}
	return err
}

// begin takes another client for one that meets another etcd than it did before. A client
// refuses that for good; but what the store of a cluster is after a restoration, only its own
// records tell.
func (e *Etcd) begin(client *etcd.Client) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.client != client {
		return
	}
	if next, err := etcd.New(e.config); err == nil { // it was good before
		client.Close()
		e.client = next
	}
}

// Range implements Engine.
func (e *Etcd) Range(ctx context.Context, prefix string, since int64) (items []Item, count int, revision int64, err error) {
	client := e.Client()
	kvs, count, revision, err := client.Since(ctx, prefix, since)
	if err != nil {
		return nil, 0, 0, e.meaning(client, err)
	}
	return itemsOf(kvs), count, revision, nil
}

func itemsOf(kvs []etcd.KV) []Item {
	items := make([]Item, len(kvs))
	for i, kv := range kvs {
		items[i] = Item{Key: kv.Key, Value: kv.Value, Version: kv.Revision, Lease: Lease(kv.Lease)}
	}
	return items
}

// Txn implements Engine.
func (e *Etcd) Txn(ctx context.Context, ops []Op) (revision int64, made bool, items []Item, err error) {
	theirs := make([]etcd.Op, len(ops))
	for i, op := range ops {
		theirs[i] = etcd.Op{Key: op.Key, Want: op.Version, Check: op.Check, Value: op.Value, Lease: int64(op.Lease)}
	}
	client := e.Client()
	result, err := client.Txn(ctx, theirs)
	if err != nil {
		return 0, false, nil, e.meaning(client, err)
	}
	return result.Revision, result.Made, itemsOf(result.KVs), nil
}

// Watch implements Engine.
func (e *Etcd) Watch(ctx context.Context, prefix string, from int64, f func(revision int64, items []Item)) error {
	client := e.Client()
	err := client.Watch(ctx, prefix, from, func(revision int64, changes []etcd.KV) { f(revision, itemsOf(changes)) })
	return e.meaning(client, err)
}

// Grant implements Leases.
func (e *Etcd) Grant(ctx context.Context, lasts time.Duration) (Lease, error) {
	client := e.Client()
	id, err := client.Grant(ctx, lasts)
	return Lease(id), e.meaning(client, err)
}

// KeepAlive implements Leases.
func (e *Etcd) KeepAlive(ctx context.Context, lease Lease) error {
	client := e.Client()
	_, err := client.KeepAlive(ctx, int64(lease))
	return e.meaning(client, err)
}

// Revoke implements Leases. It is no error that the lease has ended before.
func (e *Etcd) Revoke(ctx context.Context, lease Lease) error {
	client := e.Client()
	return e.meaning(client, client.Revoke(ctx, int64(lease)))
}
