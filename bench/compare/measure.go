package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"onionbalancer/bench/harness"
	"onionbalancer/descriptor"
	"onionbalancer/internal/backoff"
	"onionbalancer/testnet/lab"
)

// pause is the time between two visits of the same.
const pause = 2 * time.Second

// patience is after how long a visitor without an answer is lost.
const patience = 30 * time.Second

// published is what the HSDirs that clients ask hold for an address.
type published struct {
	HSDirs  int    `json:"hsdirs"`  // that hold a descriptor which clients accept
	Least   int    `json:"least"`   // introduction points in a descriptor
	Most    int    `json:"most"`    // likewise
	Points  int    `json:"points"`  // different ones, in all descriptors
	Asked   int    `json:"asked"`   // instances with any of them
	Refused string `json:"refused"` // why there is none
}

// readAll reads what all HSDirs hold.
func (f *field) readAll(ctx context.Context) error {
	if err := f.calm(ctx, 30*time.Second); err != nil {
		return err
	}
	if err := f.reader.Refresh(ctx); err != nil {
		return err
	}
	owners := map[[32]byte]string{} // of points, by their authentication key
	for _, i := range f.Instances {
		own, err := descriptor.ParseAddress(i.Address())
		if err != nil {
			return err
		}
		d, err := f.reader.Fetch(ctx, own)
		if err != nil {
			return fmt.Errorf("reading the descriptor of %s: %w", i.Name(), err)
		}
		for key := range lab.PointsOf(d) {
			owners[key] = i.Name()
		}
	}
	for _, s := range f.sides {
		harness.Progress("reading what %s publishes", s.Name)
		if err := f.read(ctx, s, owners); err != nil {
			return err
		}
	}
	return nil
}

// read reads what the HSDirs that clients ask hold for one address.
func (f *field) read(ctx context.Context, s *side, owners map[[32]byte]string) error {
	list, err := f.reader.HSDirs(s.address())
	if err != nil {
		return err
	}
	points, asked := lab.Points{}, map[string]bool{}
	var refused error
	for _, h := range list {
		d, err := f.reader.Ask(ctx, s.address(), h)
		if err != nil {
			refused = err
			continue
		}
		count := len(d.IntroductionPoints)
		if s.Published.HSDirs == 0 {
			s.Published.Least = count
		}
		s.Published.HSDirs++
		s.Published.Least, s.Published.Most = min(s.Published.Least, count), max(s.Published.Most, count)
		for key := range lab.PointsOf(d) {
			points[key] = true
			if owner := owners[key]; owner != "" {
				asked[owner] = true
			}
		}
	}
	s.Published.Points, s.Published.Asked = len(points), len(asked)
	if s.Published.HSDirs == 0 && refused != nil {
		s.Published.Refused = refused.Error()
	}
	return ctx.Err()
}

// count is how visitors fared.
type count struct {
	Visits  int            `json:"visits"`
	Lost    int            `json:"lost"`
	Answers map[string]int `json:"answers"` // by instance

	mu    sync.Mutex
	first time.Time // answer
}

func (c *count) add(name string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Visits++
	if err != nil {
		c.Lost++
		return
	}
	if c.Answers == nil {
		c.Answers, c.first = map[string]int{}, time.Now()
	}
	c.Answers[name]++
}

func (c *count) answered() int { return len(c.Answers) }

func (c *count) served() string { return fmt.Sprintf("%d of %d", c.Visits-c.Lost, c.Visits) }

// visitAll sends new visitors to all addresses, a few at a time.
func (f *field) visitAll(ctx context.Context, visits int) error {
	for _, s := range f.sides {
		var done atomic.Int64
		visits := visits
		if s.Published.HSDirs == 0 {
			visits = 2 * crowd // enough to see that nobody answers
		}
		if err := lab.Send(ctx, visits, crowd, func() {
			f.visit(ctx, s, &s.Before, f.NewVisit)
			harness.Progress("%d of %d new visitors of %s with %d backends", done.Add(1), visits, s.Name, s.Backends)
		}); err != nil {
			return err
		}
	}
	return nil
}

func (f *field) visit(ctx context.Context, s *side, c *count, how func(context.Context, string) (string, time.Duration, error)) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	name, _, err := how(ctx, s.address().String())
	c.add(name, err)
}

// killed is what became of an address after its instances were killed.
type killed struct {
	Held  count    `json:"held"`          // visitors who held a descriptor
	Fresh count    `json:"fresh"`         // new visitors
	First *float64 `json:"first_seconds"` // from the kill to the first answer to any of them; nil: none
	Back  *float64 `json:"back_seconds"`  // of one without answers, from the instances' start to the first; nil: not in time
}

// killAll kills the instances that OnionBalance's descriptor leads to, watches for a while
// what visitors of both get, and starts them again.
func (f *field) killAll(ctx context.Context, watch time.Duration) (number int, err error) {
	if err := f.calm(ctx, watch+30*time.Second); err != nil {
		return 0, err
	}
	var sides []*side
	for _, s := range f.sides {
		if s.Before.answered() == 0 {
			continue
		}
		s.Killed = new(killed)
		sides = append(sides, s)
		for i := range keepers {
			if err := f.keeperVisit(ctx, s, i, new(count)); err != nil {
				return 0, fmt.Errorf("having a visitor hold a descriptor of %s: %w", s.Name, err)
			}
		}
	}
	var group errgroup.Group
	for i := 0; i < fitting; i += perTor {
		group.Go(func() error { f.Instances[i].Kill(); return nil })
	}
	_ = group.Wait()
	began := time.Now()
	f.visitFor(ctx, sides, watch)
	for _, s := range sides {
		s.Killed.First = since(began, &s.Killed.Held, &s.Killed.Fresh)
	}
	return fitting, f.back(ctx, sides)
}

// keeperVisit visits as somebody whose tor keeps its descriptors.
func (f *field) keeperVisit(ctx context.Context, s *side, keeper int, c *count) (err error) {
	f.visit(ctx, s, c, func(ctx context.Context, address string) (string, time.Duration, error) {
		began := time.Now()
		var name string
		name, err = f.Net.Client(keeperTor(keeper)).Get(ctx, fmt.Sprint("visitor", f.number.Add(1)), "http://"+address+"/")
		return strings.TrimSpace(name), time.Since(began), err
	})
	return err
}

// since is the time from began to the first answer of any.
func since(began time.Time, counts ...*count) (took *float64) {
	for _, c := range counts {
		if s := c.first.Sub(began).Seconds(); !c.first.IsZero() && (took == nil || s < *took) {
			took = &s
		}
	}
	return took
}

// visitFor has each keeper visit each address again and again for a while, and at the same
// time one new visitor after the other.
func (f *field) visitFor(ctx context.Context, sides []*side, long time.Duration) {
	more, cancel := context.WithTimeout(ctx, long)
	defer cancel()
	var wg sync.WaitGroup
	again := func(visit func()) {
		wg.Go(func() {
			for more.Err() == nil {
				visit()
				backoff.Sleep(more, pause)
			}
		})
	}
	for _, s := range sides {
		for i := range keepers {
			again(func() { _ = f.keeperVisit(ctx, s, i, &s.Killed.Held) }) // which counts it
		}
		for range crowd / len(sides) {
			again(func() { f.visit(ctx, s, &s.Killed.Fresh, f.NewVisit) })
		}
	}
	harness.Progress("%.0f s without %d instances", long.Seconds(), fitting)
	wg.Wait()
}

// back starts the killed instances again, and waits until every address answers that did
// not.
func (f *field) back(ctx context.Context, sides []*side) error {
	harness.Progress("the instances are coming back")
	limited, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	began := time.Now()
	var group errgroup.Group
	for i := 0; i < fitting; i += perTor {
		group.Go(func() error { return f.Instances[i].Restart(limited) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, s := range sides {
		for s.Killed.First == nil && s.Killed.Back == nil && limited.Err() == nil {
			var c count
			short, cancel := context.WithTimeout(limited, 5*time.Second)
			f.visit(short, s, &c, f.NewVisit)
			cancel()
			s.Killed.Back = since(began, &c)
		}
	}
	return ctx.Err()
}
