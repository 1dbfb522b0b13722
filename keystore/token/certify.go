package token

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/locked"
)

// Certify has the helper unseal the identity key, certify signing for period p
// by it, and wipe it. The caller verifies the certificates, by the blinded key of the
// address that it means.
//
// Calls that wait for the token go to it together, up to MaxBatch and as many as it does in
// a second or so. Those whose files have the data key in common cost it one operation. A
// call that does not have to wait goes at once, alone. What one fails with is its own, unless
// the token is gone; that one's context ends does nothing to the others.
func (t *Token) Certify(ctx context.Context, o Object, sealedFile []byte, p descriptor.Period, signing ed25519.PublicKey, expiries descriptor.Expiries) (descriptor.HourlyCertificates, descriptor.RevisionKey, error) {
	c := &certification{
		order: Order{Size: len(sealedFile), Period: p, Signing: signing, Expiries: expiries},
		file:  sealedFile, object: o, done: make(chan struct{}),
	}
	t.mu.Lock()
	closed := t.closed
	t.mu.Unlock()
	err := error(Errorf(CodeMisuse, "the token is closed"))
	if !closed {
		err = t.helper.certify(ctx, c)
	}
	if err != nil {
		return descriptor.HourlyCertificates{}, descriptor.RevisionKey{}, fmt.Errorf("certifying with %s: %w", t.name, err)
	}
	return c.certs, c.revision, nil
}

// certification is one call of Certify.
type certification struct {
	order  Order
	file   []byte
	object Object
	ctx    context.Context // the caller's
	began  time.Time

	batch *batch // that it is in, once it does not wait any more

	done     chan struct{} // closed when the following are set
	certs    descriptor.HourlyCertificates
	revision descriptor.RevisionKey
	err      error
}

// batch are certifications that go to the helper together.
type batch struct {
	list []*certification
	left atomic.Int32    // whose callers wait for them
	ctx  context.Context // ends when none is
	end  context.CancelCauseFunc
}

// orders are certifications that wait, the oldest first.
type orders struct {
	mu   sync.Mutex
	list []*certification
}

func (o *orders) add(c *certification) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list = append(o.list, c)
}

// remove reports whether c was still waiting.
func (o *orders) remove(c *certification) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := slices.Index(o.list, c)
	if i < 0 {
		return false
	}
	o.list = slices.Delete(o.list, i, i+1)
	return true
}

// maxBatchBytes bounds the files in a request, and what is certified by them.
const maxBatchBytes = 256 << 10

// take removes the oldest and others by the same key on the token, up to most, and returns
// them; nil if there are none.
func (o *orders) take(most int) *batch {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.list) == 0 {
		return nil
	}
	b := new(batch)
	files, certs := 0, 0
	o.list = slices.DeleteFunc(o.list, func(c *certification) bool {
		f, n := files+c.order.Size, certs+c.order.Expiries.Count*ed25519.SignatureSize
		if len(b.list) > 0 && (len(b.list) == most || max(f, n) > maxBatchBytes || !c.object.equal(b.list[0].object)) {
			return false
		}
		files, certs, b.list, c.batch = f, n, append(b.list, c), b
		return true
	})
	b.left.Store(int32(len(b.list)))
	b.ctx, b.end = context.WithCancelCause(context.Background())
	return b
}

func (o Object) equal(other Object) bool {
	return o.Label == other.Label && slices.Equal(o.ID, other.ID)
}

// certify puts c in the queue. Whoever gets the turn has the oldest in it carried out, not
// only their own.
func (h *helper) certify(ctx context.Context, c *certification) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(h.closing, cancel)()
	if ctx.Err() != nil {
		return gaveUp(context.Cause(ctx))
	}
	c.ctx, c.began = ctx, time.Now()
	h.certifying.add(c)
	tooLong := time.NewTimer(limits.call)
	defer tooLong.Stop()
	for {
		select {
		case <-c.done:
			return c.err
		case h.turn <- struct{}{}:
			if b := h.certifying.take(h.most); b != nil {
				go h.certifyAll(b)
			} else {
				<-h.turn
			}
		case <-tooLong.C: // what is carried out has its own time
			if h.certifying.remove(c) {
				return gaveUp(errTime)
			}
		case <-ctx.Done():
			if h.certifying.remove(c) || c.batch.left.Add(-1) > 0 {
				return gaveUp(context.Cause(ctx))
			}
			c.batch.end(context.Cause(ctx))
			<-c.done // soon
			return c.err
		}
	}
}

func gaveUp(cause error) error { return fmt.Errorf("waiting for other requests: %w", cause) }

// certifyAll carries b out in h's turn, which it ends. The request is given up when no one
// waits for it any more.
func (h *helper) certifyAll(b *batch) {
	defer func() { <-h.turn }()
	defer b.end(nil)
	request := &Request{Op: OpCertify, Object: b.list[0].object}
	came := time.Time{} // the last
	for _, c := range b.list {
		request.Certify = append(request.Certify, c.order)
		request.Data = append(request.Data, c.file...)
		if c.began.After(came) {
			came = c.began
		}
	}
	ctx, cancel := context.WithDeadlineCause(b.ctx, came.Add(limits.call), errTime)
	defer cancel()
	began := time.Now()
	response, secret, err := h.carryOut(b.ctx, ctx, came, request, nil)
	switch took := time.Since(began); {
	case err != nil || took > limits.batch:
		h.most = max(h.most/2, 1) // also to find the file on which a module crashes
	case took < limits.batch/2:
		h.most = min(h.most*2, MaxBatch)
	}
	if err == nil {
		b.deliver(response, secret)
	}
	for _, c := range b.list {
		if err != nil {
			c.err = err
		}
		close(c.done)
	}
}

// deliver hands out what the helper answered, and wipes the secret.
func (b *batch) deliver(response *Response, secret *locked.Buffer) {
	defer wipe(secret)
	certs, n := response.Data, 0
	for i, answer := range response.Certified {
		c := b.list[i]
		if answer.Error != nil {
			c.err = answer.Error
			continue
		}
		c.certs, c.err = descriptor.ParseHourly(certs[:answer.Size])
		certs = certs[answer.Size:]
		secret.Do(func(secret []byte) {
			var err error
			c.revision, err = descriptor.NewRevisionKey(secret[n : n+RevisionSize])
			c.err = cmp.Or(c.err, err)
		})
		n += RevisionSize
	}
}
