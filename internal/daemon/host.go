package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/event"
	"onionbalancer/internal/hosting"
	"onionbalancer/internal/hosting/api"
	"onionbalancer/internal/printable"
)

// This file implements api.Host.

// Add implements api.Host.
func (h *customers) Add(ctx context.Context, name, shard, request string) (d api.Detail, added bool, err error) {
	return finish(ctx, func() (d api.Detail, added bool, err error) {
		c, added, err := h.registry.Add(ctx, name, shard, request)
		if err != nil {
			return d, false, err
		}
		if added {
			h.tell(c, "added", request, "a customer was added")
			h.tellSpares(c.Shard)
			h.await(c.Address, request)
		}
		h.update(h.d.ctx, []hosting.Customer{c})
		return h.detail(c), added, nil
	})
}

// finish calls do and waits until it is done or ctx ends: what is stored is published and
// told though the client who asked for it has gone.
func finish[T any](ctx context.Context, do func() (T, bool, error)) (result T, changed bool, err error) {
	finished := make(chan func() (T, bool, error), 1)
	go func() {
		result, changed, err := do()
		finished <- func() (T, bool, error) { return result, changed, err }
	}()
	select {
	case answer := <-finished:
		return answer()
	case <-ctx.Done():
		return result, false, ctx.Err()
	}
}

// await is awaitLocked for a customer whose service is to start or change yet.
func (h *customers) await(a descriptor.Address, request string) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	h.awaited[a] = request
}

// done are the kinds of events about changes, and what they say.
var done = map[hosting.State][2]string{
	hosting.Active:    {"resumed", "a customer was resumed"},
	hosting.Suspended: {"suspended", "a customer was suspended"},
	hosting.Removed:   {"removed", "a customer was removed"},
	"":                {"moved", "a customer was moved"},
}

// Change implements api.Host.
func (h *customers) Change(ctx context.Context, customer string, change api.Change) (api.Detail, error) {
	d, _, err := finish(ctx, func() (api.Detail, bool, error) {
		c, changed, err := h.change(ctx, customer, change)
		if err != nil {
			return api.Detail{}, false, err
		}
		if changed {
			told := done[change.To]
			h.tell(c, told[0], change.Request, told[1])
			h.await(c.Address, change.Request)
		}
		h.update(h.d.ctx, []hosting.Customer{c})
		return h.detail(c), changed, nil
	})
	return d, err
}

func (h *customers) change(ctx context.Context, customer string, change api.Change) (hosting.Customer, bool, error) {
	if change.To == "" {
		return h.move(ctx, customer, change)
	}
	return h.registry.Set(ctx, customer, change.To, change.Request)
}

// move moves a customer, unless another key unseals the keys of the other shard.
func (h *customers) move(ctx context.Context, customer string, change api.Change) (hosting.Customer, bool, error) {
	to := change.Shard
	c, err := h.registry.Customer(customer)
	if err != nil {
		return c, false, err
	}
	h.d.mu.Lock()
	from, into := h.shards[c.Shard], h.shards[to]
	h.d.mu.Unlock()
	if from != nil && into != nil && from.cfg.Token != into.cfg.Token {
		return c, false, fmt.Errorf("%w: the keys of the shards %q and %q are not sealed by the same key", hosting.ErrApart, c.Shard, to)
	}
	return h.registry.Move(ctx, customer, to, change.Request)
}

// Customer implements api.Host.
func (h *customers) Customer(customer string) (api.Detail, error) {
	c, err := h.registry.Customer(customer)
	if err != nil {
		return api.Detail{}, err
	}
	return h.detail(c), nil
}

// List implements api.Host.
func (h *customers) List(q api.Query) (page api.Page, err error) {
	if q.Shard != "" {
		h.d.mu.Lock()
		s := h.shards[q.Shard]
		h.d.mu.Unlock()
		if s == nil {
			return page, fmt.Errorf("%q: %w", q.Shard, hosting.ErrNoShard)
		}
	}
	var more bool
	if page.Customers, more = h.registry.List(hosting.Query(q)); more {
		page.Next = page.Customers[len(page.Customers)-1].Address.Label()
	}
	return page, nil
}

// Shards implements api.Host.
func (h *customers) Shards() []hosting.Shard { return h.registry.Shards() }

// Installed implements api.Host.
func (h *customers) Installed(_ context.Context, name string) (hosting.Shard, error) {
	before := h.count(name)
	s, err := h.registry.Installed(h.d.ctx, name) // to its end, though the client may go
	// Some may have been brought along with the new keys.
	list, _ := h.registry.List(hosting.Query{Shard: name})
	h.update(h.d.ctx, list)
	if err != nil {
		return hosting.Shard{}, err
	}
	if s != before {
		h.say(api.Event{Kind: "spares", Shard: name, Text: fmt.Sprintf("the shard has %s", printable.Count(s.Spares, "spare"))})
	}
	return s, nil
}

// Events implements api.Host.
func (h *customers) Events(after uint64) ([]api.Event, bool, <-chan struct{}) {
	return h.feed.after(after)
}

// count returns the counts of a shard.
func (h *customers) count(name string) hosting.Shard {
	for _, s := range h.registry.Shards() {
		if s.Name == name {
			return s
		}
	}
	return hosting.Shard{}
}

// tellSpares tells when a shard runs out of spares.
func (h *customers) tellSpares(name string) {
	switch s := h.count(name); s.Spares {
	case hosting.FewSpares - 1:
		h.say(api.Event{Kind: "spares", Shard: name, Text: fmt.Sprintf("the shard has only %s left", printable.Count(s.Spares, "spare"))})
	case 0:
		h.say(api.Event{Kind: "spares", Shard: name, Text: "the shard has no spare left"})
	}
}

// say logs an event and hands it to those who follow.
func (h *customers) say(e api.Event) {
	e.At = time.Now().UTC()
	attrs := []slog.Attr{slog.String("shard", e.Shard)}
	var a descriptor.Address
	if e.Address != "" {
		a, _ = descriptor.ParseAddress(e.Address)
		attrs = append(attrs, slog.String("customer", hosting.Customer{Name: e.Customer, Address: a}.Called()))
	}
	if e.Request != "" {
		attrs = append(attrs, slog.String("request", e.Request))
	}
	level := slog.LevelInfo
	if e.Kind == "confirmed" && e.Request == "" {
		level = slog.LevelDebug // nobody waits for it, and there are thousands at the first start
	}
	h.d.events.Record(event.Event{At: e.At, Kind: event.Customer, Level: level, Service: a, Text: e.Text, Attrs: attrs})
	h.feed.add(e)
}

// tell tells what happened to a customer.
func (h *customers) tell(c hosting.Customer, kind, request, text string) {
	h.say(api.Event{Kind: kind, Shard: c.Shard, Customer: c.Name, Address: c.Address.String(), Request: request, Text: text})
}

// detail describes a customer.
func (h *customers) detail(c hosting.Customer) api.Detail {
	out := api.Detail{Customer: c, Answered: true, Notes: h.notes(c)}
	h.d.mu.Lock()
	r, left := h.d.services[c.Address], h.leftOut[c.Address]
	if r != nil && r.shard == "" {
		r = nil // errServed
	}
	h.d.mu.Unlock()
	if left != nil {
		out.Error = left.Error()
	}
	if r != nil {
		stored := r.Stored()
		out.Points, out.Slots, out.Stored = stored.Points, stored.Slots, stored.Confirmed
		if warnings := r.Summary().Warnings; out.Error == "" && len(warnings) > 0 {
			out.Error = warnings[0]
		}
	}
	if c.State != hosting.Active && !c.Confirmed.IsZero() {
		out.Forgotten = h.forgotten(c.Confirmed)
	}
	return out
}

// forgotten returns when no client has a descriptor any more that it fetched before a
// moment: balance says why.
func (h *customers) forgotten(at time.Time) time.Time {
	length, offset, outdated := descriptor.DefaultPeriodLength, descriptor.DefaultRotationOffset, 2*time.Hour
	if c, _ := h.d.rooms.consensus.Consensus(); c != nil {
		length, offset, outdated = c.CurrentPeriod().Length, c.RotationOffset(), c.ValidUntil.Sub(c.FreshUntil)
	}
	return balance.SafeAt(at, length, offset, outdated).UTC()
}

// notes says what a customer's state does not.
func (h *customers) notes(c hosting.Customer) (list []string) {
	const until = "clients that visited before still know its introduction points, and the replicas answer them: let the web server behind refuse its host name"
	switch {
	case c.MovingTo != "":
		list = append(list, fmt.Sprintf("the replicas of %q have to know the address first: balancer shard refill %[1]s, restart them one after the other with the new ob_config, balancer shard installed %[1]s, and move it again", c.MovingTo))
	case c.State == hosting.Suspended:
		list = append(list, until)
	case c.State == hosting.Removed:
		list = append(list, until+"; they do so until they are restarted with the ob_config that the next \"balancer shard refill "+c.Shard+"\" writes")
	}
	return list
}
