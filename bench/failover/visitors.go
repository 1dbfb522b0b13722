package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"onionbalancer/internal/backoff"
	"onionbalancer/testnet"
	"onionbalancer/testnet/lab"
)

const (
	// visitPatience is after how long a visitor without an answer is lost.
	visitPatience = 30 * time.Second
	// slowVisit is after how long an answer is late.
	slowVisit = 5 * time.Second
	// keepEvery is the time between visits to an address by the client that keeps
	// descriptors.
	keepEvery = 1500 * time.Millisecond
	// newnymEvery is a little more than tor wants between two NEWNYMs.
	newnymEvery = 10500 * time.Millisecond
)

// kind is a kind of client.
type kind int

const (
	keeps kind = iota // its descriptors
	drops             // them before each visit
)

// visit is one visit that is over.
type visit struct {
	program program
	set     *set
	kind    kind
	began   time.Time
	took    time.Duration
	name    string // of the instance that answered
	err     error
}

// visitors are the clients of all public addresses.
type visitors struct {
	keeper   *testnet.Client
	dropping []*testnet.Client
	sets     []*set
	number   atomic.Int64
}

func newVisitors(f *field) *visitors {
	v := &visitors{keeper: f.Net.Client(lab.Client), sets: f.sets}
	for i := range freshTors {
		v.dropping = append(v.dropping, f.Net.Client(freshTor(i)))
	}
	return v
}

// visit visits an address of a set.
func (v *visitors) visit(ctx context.Context, c *testnet.Client, p program, s *set, k kind) visit {
	ctx, cancel := context.WithTimeout(ctx, visitPatience)
	defer cancel()
	began := time.Now()
	name, err := c.Get(ctx, fmt.Sprintf("visitor%d", v.number.Add(1)), "http://"+s.addresses[p].String()+"/")
	return visit{p, s, k, began, time.Since(began), strings.TrimSpace(name), err}
}

// outing is visits that go on.
type outing struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu   sync.Mutex
	list []visit
}

// start sends visitors to all addresses until end.
func (v *visitors) start(ctx context.Context) *outing {
	more, cancel := context.WithCancel(ctx)
	o := &outing{cancel: cancel}
	for n, s := range v.sets {
		for _, p := range programs {
			o.wg.Go(func() {
				backoff.Sleep(more, time.Duration(2*n+int(p))*keepEvery/(2*setCount))
				for more.Err() == nil {
					o.wg.Go(func() { o.add(v.visit(ctx, v.keeper, p, s, keeps)) })
					backoff.Sleep(more, keepEvery)
				}
			})
		}
	}
	for i, c := range v.dropping {
		o.wg.Go(func() {
			backoff.Sleep(more, time.Duration(i)*newnymEvery/freshTors)
			for more.Err() == nil {
				v.wave(ctx, more, o, c)
			}
		})
	}
	return o
}

// wave has a client drop its descriptors, and then visit every address once. It
// returns when another wave can begin: NEWNYM would disturb visits that go on.
func (v *visitors) wave(ctx, more context.Context, o *outing, c *testnet.Client) {
	began := time.Now()
	if c.Forget() != nil {
		backoff.Sleep(more, time.Second)
		return
	}
	var wg sync.WaitGroup
	for _, s := range v.sets {
		for _, p := range programs {
			if !backoff.Sleep(more, newnymEvery/freshTors/(2*setCount)) {
				break
			}
			wg.Go(func() { o.add(v.visit(ctx, c, p, s, drops)) })
		}
	}
	wg.Wait()
	backoff.Sleep(more, newnymEvery-time.Since(began))
}

func (o *outing) add(v visit) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list = append(o.list, v)
}

// end sends no more visitors, and waits for those on their way.
func (o *outing) end() []visit {
	o.cancel()
	o.wg.Wait()
	return o.visits()
}

func (o *outing) visits() []visit {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.list)
}

// count is how visitors fared.
type count struct {
	Visits int `json:"visits"`
	Lost   int `json:"lost"`
	Slow   int `json:"slow"` // answered, after more than 5 s
}

func (c *count) add(v visit) {
	c.Visits++
	switch {
	case v.err != nil:
		c.Lost++
	case v.took > slowVisit:
		c.Slow++
	}
}

func (c count) String() string {
	if c.Visits == 0 {
		return "–"
	}
	text := fmt.Sprintf("%d of %d", c.Lost, c.Visits)
	if c.Slow > 0 {
		text += fmt.Sprintf(", %d slow", c.Slow)
	}
	return text
}

// forgets makes sure that NEWNYM has a client drop its descriptors, on which the
// figures rest.
func (f *field) forgets(ctx context.Context) error {
	a := f.sets[0].addresses[ours]
	if _, err := f.FirstVisit(ctx, a.String()); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	tor := f.Control(lab.Client)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { _ = tor.Run(ctx) })
	if err := tor.Ready(ctx); err != nil {
		return err
	}
	key := "hs/client/desc/id/" + a.Label()
	if _, err := tor.GetInfo(ctx, key); err != nil {
		return fmt.Errorf("the client that keeps descriptors has none: %w", err)
	}
	if err := f.visitors.keeper.Forget(); err != nil {
		return err
	}
	if _, err := tor.GetInfo(ctx, key); err == nil {
		return errors.New("tor keeps descriptors over NEWNYM")
	}
	return nil
}
