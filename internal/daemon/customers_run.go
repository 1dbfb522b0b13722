package daemon

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"onionbalancer/internal/balance"
	"onionbalancer/internal/hosting"
)

// How often it is looked whether changes are confirmed, while some are not, and what other
// processes did with the directories of keys.
const (
	confirmEvery = time.Second // and a millisecond more for each that is awaited
	refreshEvery = time.Minute
)

// run follows what HSDirs confirm, until ctx ends.
func (h *customers) run(ctx context.Context) {
	refresh := time.NewTicker(refreshEvery)
	defer refresh.Stop()
	confirm, running := time.NewTimer(confirmEvery), true
	defer confirm.Stop()
	for ctx.Err() == nil {
		select {
		case <-h.woken:
			if !running {
				confirm.Reset(confirmEvery)
				running = true
			}
		case <-confirm.C:
			n := h.confirmAll(ctx)
			if running = n > 0; running {
				confirm.Reset(confirmEvery + time.Duration(n)*time.Millisecond)
			}
		case <-refresh.C:
			if err := h.registry.Refresh(ctx); err != nil && ctx.Err() == nil {
				h.d.log.Warn("looking at the customers' keys", "error", err)
			}
			h.openAgain(ctx)
			h.prune()
		case <-h.registry.Noted():
			h.hear(ctx)
		case <-ctx.Done():
		}
	}
}

// hear takes in what other managers changed of customers.
func (h *customers) hear(ctx context.Context) {
	changes, err := h.registry.Hear(ctx)
	if ctx.Err() == nil && h.unheardNow(err) {
		h.d.log.Warn("taking over what other managers did with customers; it is tried again", "error", err)
	}
	list := make([]hosting.Customer, 0, len(changes))
	for _, c := range changes {
		list = append(list, c.Is)
		h.tellHeard(c)
	}
	h.update(ctx, list)
	h.openAgain(ctx)
	h.prune()
}

// unheardNow notes why not everything was taken over, and reports whether that is news.
func (h *customers) unheardNow(err error) (news bool) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	news = text != "" && text != h.unheard
	h.unheard = text
	return news
}

// openAgain starts the services of those customers whose keys another manager has put here
// since they were left out.
func (h *customers) openAgain(ctx context.Context) {
	if !h.registry.Shared() {
		return
	}
	h.d.mu.Lock()
	left := slices.Collect(maps.Keys(h.leftOut))
	h.d.mu.Unlock()
	var list []hosting.Customer
	for _, a := range left {
		if c, known := h.registry.Of(a); known {
			list = append(list, c)
		}
	}
	h.update(ctx, list)
}

// tellHeard tells of a change that another manager made.
func (h *customers) tellHeard(c hosting.Change) {
	was, is := c.Was, c.Is
	switch {
	case was.Address != is.Address:
		h.tell(is, "added", is.Request, "a customer was added")
		h.await(is.Address, is.Request)
	case was.State != is.State:
		told := done[is.State]
		h.tell(is, told[0], is.Changed, told[1])
		h.await(is.Address, is.Changed)
	case was.Shard != is.Shard:
		told := done[""]
		h.tell(is, told[0], is.Changed, told[1])
		h.await(is.Address, is.Changed)
	case was.Confirmed.IsZero() && !is.Confirmed.IsZero():
		h.d.mu.Lock()
		request := h.awaited[is.Address]
		h.d.mu.Unlock()
		h.tellConfirmed(is, request)
	}
}

// tellConfirmed tells that HSDirs have what they should have of a customer.
func (h *customers) tellConfirmed(c hosting.Customer, request string) {
	if c.State == hosting.Active {
		h.tell(c, "confirmed", request, "HSDirs have the descriptor: visitors reach the customer")
	} else {
		h.tell(c, "withdrawn", request, "no HSDir has introduction points of the customer any more")
	}
}

// confirmAtOnce is how many confirmations are stored at a time: they share what the
// disk takes.
const confirmAtOnce = 50

// confirmAll notes which changes of customers HSDirs confirmed, and returns how many are
// left.
func (h *customers) confirmAll(ctx context.Context) (left int) {
	h.d.mu.Lock()
	waiting := maps.Clone(h.awaited)
	services := make(map[*balance.Service]hosting.Customer, len(waiting))
	for a := range waiting {
		r := h.d.services[a]
		c, _ := h.registry.Of(a)
		if r != nil && r.cancel != nil && r.shard == c.Shard && r.cfg.Withdrawn == (c.State != hosting.Active) { // else it is to be changed yet
			services[r.Service] = c
		}
	}
	h.d.mu.Unlock()
	var done []hosting.Customer
	for s, c := range services {
		if confirmed(c, s) {
			done = append(done, c)
		}
	}
	for batch := range slices.Chunk(done, confirmAtOnce) {
		var wait sync.WaitGroup
		for _, c := range batch {
			wait.Go(func() { h.confirm(ctx, c, waiting[c.Address]) })
		}
		wait.Wait()
	}
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	return len(h.awaited)
}

// confirmed reports whether HSDirs have what they should have of a customer: most of
// those that clients ask, since each client asks one of them first and others then.
func confirmed(c hosting.Customer, s *balance.Service) bool {
	if c.State != hosting.Active {
		return s.Withdrawn()
	}
	stored := s.Stored()
	// Who was resumed before the withdrawal was published needs no new version.
	current := !stored.Built.Before(c.Since) || !stored.Right.Before(c.Since)
	return stored.Points > 0 && current && 2*stored.Confirmed > stored.Slots
}

// confirm stores that a change is confirmed, and tells it.
func (h *customers) confirm(ctx context.Context, c hosting.Customer, request string) {
	// At the end of the daemon a disk that hangs is not waited for.
	now, _, err := finish(ctx, func() (hosting.Customer, bool, error) {
		now, err := h.registry.Confirm(ctx, c)
		return now, false, err
	})
	if err != nil {
		if ctx.Err() == nil {
			h.d.log.Warn("storing what HSDirs confirmed", "service", h.d.name(c.Address), "error", err)
		}
		return // it is tried again
	}
	if now.Confirmed.IsZero() {
		return // it was changed meanwhile
	}
	h.tellConfirmed(now, request)
	h.update(ctx, []hosting.Customer{now})
}
