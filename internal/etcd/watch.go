package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

type watchRequest struct {
	Create watchCreate `json:"create_request"`
}

type watchCreate struct {
	Key      []byte `json:"key"`
	End      []byte `json:"range_end"`
	From     int64  `json:"start_revision,string"`
	Progress bool   `json:"progress_notify"`
	Fragment bool   `json:"fragment"`
}

type watchAnswer struct {
	plain
	Created  bool    `json:"created"`
	Canceled bool    `json:"canceled"`
	Reason   string  `json:"cancel_reason"`
	Compact  int64   `json:"compact_revision,string"`
	Fragment bool    `json:"fragment"` // more of the same follows
	Events   []event `json:"events"`
}

// Watch calls f with all changes of keys that begin with prefix, from a revision on: those of
// one revision together, revisions in their order. f without changes says that nothing was
// missed up to revision. Watch ends with ctx or when the watch breaks; its error is never nil.
//
// etcd may go on with a watch when it cannot know anything new, or not at all any more. So
// whenever a watch is silent for the Client's timeout, Watch asks the same etcd whether the
// keys have changed: if it does not answer, or if they have and the watch does not tell, the
// watch is broken.
func (c *Client) Watch(ctx context.Context, prefix string, from int64, f func(revision int64, changes []KV)) error {
	if from <= 0 {
		return errors.New("watching etcd: revisions begin with 1")
	}
	var faults []*fault
	for _, e := range c.inTurn() {
		w := &watch{c: c, e: e, prefix: prefix, seen: from - 1, stuck: -1, tell: f}
		began, broken := w.run(ctx)
		if broken.answered || ctx.Err() != nil {
			return broken.error(ctx, "watch", nil)
		}
		c.fails(e)
		if began {
			return broken.error(ctx, "watch", nil)
		}
		faults = append(faults, broken)
	}
	return all(ctx, "watch", faults)
}

// watch is a Watch at one endpoint.
type watch struct {
	c      *Client
	e      *endpoint
	prefix string
	tell   func(int64, []KV)

	token   string
	body    io.ReadCloser
	left    int // bytes that the present message may have yet
	decoder *json.Decoder
	heard   atomic.Bool // something of the next message

	seen    int64 // revision up to which all was told
	stuck   int64 // seen when there was more than the watch told of
	pending []KV  // of a revision of which more follows
}

// run begins a watch, and returns when it has broken.
func (w *watch) run(ctx context.Context) (began bool, broken *fault) {
	ctx, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(w.c.timeout, cancel)
	broken = w.begin(ctx)
	if w.body != nil {
		defer w.body.Close()
	}
	if !late.Stop() || broken != nil {
		cancel()
		if broken == nil {
			broken = &fault{at: w.e, kind: ErrUnavailable, why: errors.New("it did not answer in time")}
		}
		return false, broken
	}
	messages := make(chan *watchAnswer)
	ended := make(chan *fault, 1)
	go func() {
		defer close(messages)
		for {
			m, f := w.next()
			if f != nil {
				ended <- f
				return
			}
			select {
			case messages <- m:
			case <-ctx.Done():
				ended <- &fault{at: w.e, kind: ErrUnavailable}
				return
			}
		}
	}()
	broken = w.follow(ctx, messages, ended)
	cancel()
	for range messages { // until the goroutine has ended
	}
	return true, broken
}

// begin opens the stream and reads that the watch was created.
func (w *watch) begin(ctx context.Context) *fault {
	if f := w.c.meet(ctx, w.e); f != nil {
		return f
	}
	body, err := json.Marshal(watchRequest{watchCreate{start(w.prefix), end(w.prefix), w.seen + 1, true, true}})
	if err != nil {
		return &fault{at: w.e, why: err, answered: true}
	}
	w.token = w.c.present()
	for try := 0; ; try++ {
		f := w.create(ctx, body)
		if f == nil || !f.token || w.c.user == "" || try > 0 {
			w.c.doubt(w.token, f)
			return f
		}
		if w.token, f = w.c.authenticate(ctx, w.e, w.token); f != nil {
			return f
		}
	}
}

func (w *watch) create(ctx context.Context, body []byte) *fault {
	if w.body != nil {
		w.body.Close()
	}
	var f *fault
	if w.body, f = w.e.open(ctx, "watch", w.token, body); f != nil {
		return f
	}
	w.decoder = json.NewDecoder(w)
	m, f := w.next()
	if f == nil && !m.Created {
		f = w.nonsense("it does not begin the watch")
	}
	return f
}

// Read reads the stream for w's decoder, which keeps a whole message in memory.
func (w *watch) Read(p []byte) (int, error) {
	if w.left == 0 {
		return 0, errTooLarge
	}
	n, err := w.body.Read(p[:min(len(p), w.left)])
	w.left -= n
	w.heard.Store(true)
	return n, err
}

// next reads a message.
func (w *watch) next() (*watchAnswer, *fault) {
	w.left = maxAnswer
	var m streamed[watchAnswer]
	if err := w.decoder.Decode(&m); err != nil {
		return nil, w.nonsense("the watch ended")
	}
	if said := m.failed(); said != nil {
		return nil, said.fault(w.e, w.token)
	}
	switch r := m.Result; {
	case r.Compact > 0:
		return nil, &fault{at: w.e, kind: ErrCompacted, answered: true}
	case r.Canceled:
		return nil, (&serverSaid{Message: r.Reason}).fault(w.e, w.token)
	case r.Header.Cluster != 0 && !w.c.is(r.Header.Cluster):
		return nil, &fault{at: w.e, kind: ErrOtherCluster}
	}
	return m.Result, nil
}

func (w *watch) nonsense(why string) *fault {
	return &fault{at: w.e, kind: ErrUnavailable, why: errors.New(why)}
}

// follow tells of messages until the watch has broken.
func (w *watch) follow(ctx context.Context, messages <-chan *watchAnswer, ended <-chan *fault) *fault {
	quiet := time.NewTicker(w.c.timeout)
	defer quiet.Stop()
	for {
		var f *fault
		select {
		case m, more := <-messages:
			if !more {
				return <-ended
			}
			f = w.take(m)
			w.heard.Store(false)
			quiet.Reset(w.c.timeout)
		case <-quiet.C:
			if !w.heard.Swap(false) { // a large message takes its time
				f = w.look(ctx)
			}
		case <-ctx.Done():
			f = &fault{at: w.e, kind: ErrUnavailable}
		}
		if f != nil {
			return f
		}
	}
}

// take tells of a message.
func (w *watch) take(m *watchAnswer) *fault {
	if len(m.Events) == 0 {
		if !m.Created && m.Header.Revision >= w.seen && len(w.pending) == 0 { // progress
			w.seen = m.Header.Revision
			w.tell(w.seen, nil)
		}
		return nil
	}
	for _, event := range m.Events {
		w.pending = append(w.pending, event.KV)
	}
	size, last := 0, w.seen+1
	for _, kv := range w.pending {
		if !strings.HasPrefix(kv.Key, w.prefix) || kv.Revision < last {
			return w.nonsense("the watch tells what was not asked for")
		}
		size, last = size+len(kv.Key)+len(kv.Value), kv.Revision
	}
	if size > 2*maxAnswer {
		return &fault{at: w.e, kind: errTooLarge}
	}
	for len(w.pending) > 0 {
		n := slices.IndexFunc(w.pending, func(kv KV) bool { return kv.Revision != w.pending[0].Revision })
		if n < 0 {
			if n = len(w.pending); m.Fragment {
				break
			}
		}
		w.seen = w.pending[0].Revision
		w.tell(w.seen, w.pending[:n:n])
		w.pending = w.pending[n:]
	}
	w.pending = slices.Clone(w.pending) // which does not keep what was told of
	return nil
}

// look asks the same etcd, where the watch is silent, whether the keys have changed.
func (w *watch) look(ctx context.Context) *fault {
	newer, f := w.ask(ctx, rangeRequest{MinMod: w.seen + 1, Limit: 1, KeysOnly: true})
	if f != nil {
		return f
	}
	now := newer.Header.Revision
	if now < w.seen {
		return w.nonsense("revisions went back")
	}
	changed := len(newer.KVs) > 0
	if !changed && now > w.seen { // by other keys, or keys were deleted
		before, f := w.ask(ctx, rangeRequest{Revision: max(w.seen, 1), CountOnly: true})
		if f != nil {
			return f
		}
		after, f := w.ask(ctx, rangeRequest{Revision: now, CountOnly: true})
		if f != nil {
			return f
		}
		changed = before.Count != after.Count
	}
	switch {
	case changed && w.stuck == w.seen:
		return w.nonsense("the watch is silent about changes")
	case changed:
		w.stuck = w.seen
	default:
		w.seen = now
		w.tell(now, nil)
	}
	return nil
}

// ask reads some of the watched keys.
func (w *watch) ask(ctx context.Context, r rangeRequest) (*rangeAnswer, *fault) {
	r.Key, r.End = start(w.prefix), end(w.prefix)
	body, err := json.Marshal(r)
	if err != nil {
		return nil, &fault{at: w.e, why: err, answered: true}
	}
	return ask[rangeAnswer](ctx, w.c, w.e, "kv/range", body, nil)
}
