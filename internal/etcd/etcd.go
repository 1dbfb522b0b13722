// Package etcd is a client of etcd 3.4 or newer, over the JSON gateway that each etcd serves
// beside gRPC: keys with the revisions that wrote them, transactions, watches and leases.
//
// A Client asks its endpoints in turn. One that fails is asked last from then on. A request
// that certainly did not arrive is made at the next endpoint; a transaction of which that is
// not certain is not made again, and its error is ErrUnknown.
//
// What a server says is bounded and checked: one that lies is an error.
package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// An error of a Client's is one of these, or one of etcd's about the request itself. Only
// ErrNoSpace may be ErrUnknown, too.
var (
	// ErrUnavailable says that no endpoint answers, or that etcd has no quorum. Nothing was
	// changed. A watch that ends with it has to begin anew.
	ErrUnavailable = errors.New("etcd is not available")
	// ErrOtherCluster is an ErrUnavailable: what answers is another cluster than before.
	ErrOtherCluster = fmt.Errorf("%w: this is another cluster", ErrUnavailable)
	// ErrUnknown says that the answer to a transaction was lost: it may have been made, or
	// may be made yet, as by an etcd that was paused. To read the old state settles nothing;
	// another transaction that replaces it does.
	ErrUnknown = errors.New("it is not known whether etcd made the transaction")
	// ErrNoSpace says that etcd's quota is reached. It still reads, deletes and keeps leases
	// alive. The transaction that reaches the quota may have been made all the same: etcd
	// says so after the fact. Such an error is ErrUnknown, too.
	ErrNoSpace = errors.New("etcd has no space left")
	// ErrDenied says that etcd refuses the certificate, the user or what the user asks for.
	ErrDenied = errors.New("etcd denies access")
	// ErrCompacted says that etcd has no more what was at a revision.
	ErrCompacted = errors.New("etcd has compacted this revision")
	// ErrLeaseLost says that a lease has ended.
	ErrLeaseLost = errors.New("the lease has ended")
)

const (
	// MaxOps is how many operations a transaction has at most. etcd refuses more, unless it is
	// told otherwise.
	MaxOps = 128
	// DefaultTimeout is enough on a local network. It leaves time for two more endpoints
	// while a lease of 9 s that is renewed every 3 s lasts.
	DefaultTimeout = 3 * time.Second
)

// Config says where etcd is, and how to get in.
type Config struct {
	// Endpoints are http://host:port, https://host:port, or unix:/path, over which http is
	// spoken. They are of one cluster, and are asked in this order while none fails.
	Endpoints []string
	TLS       *tls.Config // of https endpoints; nil: the system's authorities
	// User is who the Client is to etcd; empty: nobody. The user of a certificate does not
	// count at the gateway.
	User string
	// Password is called whenever the Client has to authenticate itself: at first, when its
	// token has ended, and when the user was changed. No password is kept.
	Password func() (string, error)
	// Dial connects to "tcp" or "unix" addresses. nil dials directly, and then an endpoint
	// cannot be an onion service.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Timeout is how long an endpoint has for its answer before the next is asked, how long
	// a call waits for a leader to be elected, and how long a watch may be silent before it
	// is looked after. 0: DefaultTimeout. A call to n endpoints takes n+1 times that at most.
	Timeout time.Duration
}

// Client is safe for concurrent use.
type Client struct {
	endpoints []*endpoint // as configured
	user      string
	password  func() (string, error)
	timeout   time.Duration
	login     chan struct{} // holds an element while somebody authenticates

	mu      sync.Mutex
	order   []*endpoint // to ask in: those that failed last are last
	cluster uint64      // of the first endpoint that was met; 0: none was
	token   string
}

// New makes a client. It connects when it is asked for something.
func New(config Config) (*Client, error) {
	c := &Client{user: config.User, password: config.Password, timeout: config.Timeout, login: make(chan struct{}, 1)}
	if c.timeout <= 0 {
		c.timeout = DefaultTimeout
	}
	if (c.user == "") != (c.password == nil) {
		return nil, errors.New("making a client of etcd: a user and a password belong together")
	}
	if len(config.Endpoints) == 0 {
		return nil, errors.New("making a client of etcd: there is no endpoint")
	}
	for i, text := range config.Endpoints {
		e, err := newEndpoint(text, config, c.timeout)
		if err != nil {
			return nil, fmt.Errorf("making a client of etcd: endpoint %d: %w", i+1, err)
		}
		if slices.ContainsFunc(c.endpoints, func(o *endpoint) bool { return o.text == e.text }) {
			return nil, fmt.Errorf("making a client of etcd: endpoint %d is there twice", i+1)
		}
		c.endpoints = append(c.endpoints, e)
	}
	c.order = slices.Clone(c.endpoints)
	return c, nil
}

// Close ends connections that are idle. Calls are ended by their contexts.
func (c *Client) Close() {
	for _, e := range c.endpoints {
		e.http.CloseIdleConnections()
	}
}

// KV is a key with its value.
type KV struct {
	Key      string
	Value    []byte // nil: the key was deleted, or is not there
	Revision int64  // that wrote the value, or deleted it; 0: the key is not there
	Lease    int64  // that the key ends with; 0: none
}

// Sizes of Range.
const (
	pageKeys = 1000
	maxRange = 256 << 20 // bytes of keys and values; etcd's default quota is 2 GiB
)

// Range returns the keys that begin with prefix, sorted, as they were at one revision of
// etcd's, the latest.
func (c *Client) Range(ctx context.Context, prefix string) (kvs []KV, revision int64, err error) {
	kvs, _, revision, err = c.Since(ctx, prefix, 0)
	return kvs, revision, err
}

// Since is Range for keys that a revision above since wrote. count is how many keys begin with
// prefix at all.
func (c *Client) Since(ctx context.Context, prefix string, since int64) (kvs []KV, count int, revision int64, err error) {
	for range 3 {
		kvs, count, revision, err = c.pages(ctx, prefix, since)
		if !errors.Is(err, ErrCompacted) { // between two pages
			break
		}
	}
	return kvs, count, revision, err
}

func (c *Client) pages(ctx context.Context, prefix string, since int64) ([]KV, int, int64, error) {
	ask := rangeRequest{Key: start(prefix), End: end(prefix), Limit: pageKeys}
	if since > 0 {
		ask.MinMod = since + 1
	}
	last, count := "", 0
	var kvs []KV
	for size := 0; ; {
		answer, err := call(ctx, c, "kv/range", ask, again, func(a *rangeAnswer) error {
			if ask.Revision != 0 && a.Header.Revision < ask.Revision {
				return errors.New("revisions went back")
			}
			return inOrder(a.KVs, prefix, last, max(ask.Revision, a.Header.Revision))
		})
		if errors.Is(err, errTooLarge) && ask.Limit > 1 {
			ask.Limit /= 16
			continue
		}
		if err != nil {
			return nil, 0, 0, err
		}
		if ask.Revision == 0 { // the first page, whose count is that of all keys
			ask.Revision, count = answer.Header.Revision, int(answer.Count)
		}
		for _, kv := range answer.KVs {
			size += len(kv.Key) + len(kv.Value)
			last = kv.Key
		}
		if size > maxRange {
			return nil, 0, 0, fmt.Errorf("asking etcd for a range: %w", errTooLarge)
		}
		kvs = append(kvs, answer.KVs...)
		if !answer.More || len(answer.KVs) == 0 {
			return kvs, count, ask.Revision, nil
		}
		ask.Key = []byte(last + "\x00")
	}
}

// inOrder says what is wrong with a page of the keys that begin with prefix and follow last.
func inOrder(kvs []KV, prefix, last string, revision int64) error {
	for _, kv := range kvs {
		if !strings.HasPrefix(kv.Key, prefix) || kv.Key <= last || kv.Revision > revision {
			return errors.New("it is not what was asked for")
		}
		last = kv.Key
	}
	return nil
}

// Any is an Op's Want if the key may have any revision, or none.
const Any = -1

// Op is a part of a transaction.
type Op struct {
	Key   string
	Want  int64  // revision that must have written the key; 0: it must not be there; Any
	Check bool   // the key is left as it is, and only looked at
	Value []byte // nil deletes the key
	Lease int64  // that the key ends with; 0: none
}

// Result is what became of a transaction.
type Result struct {
	Made     bool
	Revision int64 // that it was made at, or refused at
	KVs      []KV  // if it was not made: the present state of each Op's key, in their order
}

// Txn does all ops or, if a key has not the revision that is wanted, none. There are MaxOps
// at most, each of another key.
func (c *Client) Txn(ctx context.Context, ops []Op) (Result, error) {
	if len(ops) > MaxOps {
		return Result{}, fmt.Errorf("asking etcd for a transaction: %d operations are more than %d", len(ops), MaxOps)
	}
	ask := newTxn(ops)
	answer, err := call(ctx, c, "kv/txn", ask, once, func(a *txnAnswer) error {
		if a.Header.Revision <= 0 || len(a.Responses) != len(ops) {
			return errors.New("it is not what was asked for")
		}
		for i, r := range a.Responses {
			if !a.Succeeded && (r.Range == nil || len(r.Range.KVs) > 1 || len(r.Range.KVs) == 1 && r.Range.KVs[0].Key != ops[i].Key) {
				return errors.New("it is not what was asked for")
			}
		}
		return nil
	})
	if err != nil {
		return Result{}, err
	}
	result := Result{Made: answer.Succeeded, Revision: answer.Header.Revision}
	if result.Made {
		return result, nil
	}
	for i, r := range answer.Responses {
		kv := KV{Key: ops[i].Key}
		if len(r.Range.KVs) == 1 {
			kv = r.Range.KVs[0]
		}
		result.KVs = append(result.KVs, kv)
	}
	return result, nil
}
