package advice

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"sync"
	"time"

	"onionbalancer/selection"
)

// How often a program is asked, how long an answer counts while it gives no other, and
// how often Trouble has other words for a program that goes on failing.
const (
	sayEvery   = 10 * time.Minute
	askEvery   = time.Minute
	askSpacing = 5 * time.Second // at least, however often the candidates change
	kept       = time.Hour
)

// Asker asks a program, as Run does.
type Asker func(ctx context.Context, program string, q Question) (Answer, error)

// Advisor asks a program about one service, outside of the loop of the service. Its
// methods may be called concurrently, and none of them waits for the program, but Run.
type Advisor struct {
	program string
	ask     Asker
	wake    func()
	secret  [32]byte      // of the IDs of points
	woken   chan struct{} // holds a token when the candidates changed

	mu       sync.Mutex
	request  selection.Request // the last
	digest   [32]byte          // of what request has that changes
	since    time.Time         // of the first request
	answered bool              // there was an answer, good or bad
	told     *Told             // by the last good one
	at       time.Time         // when it was given
	shown    Told              // the strategy at the last answer
	failing  time.Time         // since when err is what it is; zero if the last answer was good
	err      error             // of the last question
}

// NewAdvisor returns an Advisor that has no answer, until Run. wake is called when
// Strategy, Trouble or Open may say something else than before.
func NewAdvisor(program string, ask Asker, wake func()) *Advisor {
	a := &Advisor{program: program, ask: ask, wake: wake, woken: make(chan struct{}, 1)}
	_, _ = rand.Read(a.secret[:]) // never fails
	return a
}

// Tell takes what the service's next assignment is about. It keeps the request, which
// is not to be changed any more.
func (a *Advisor) Tell(r selection.Request) {
	digest := digestOf(r)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.request = r
	if a.since.IsZero() {
		a.since = time.Now()
	}
	if digest == a.digest {
		return
	}
	a.digest = digest
	select {
	case a.woken <- struct{}{}:
	default:
	}
}

// digestOf identifies what a program should be told of soon: not the ages of points,
// nor which of them are published.
func digestOf(r selection.Request) [32]byte {
	type line struct {
		Instance  string
		Weight    float64
		Load      *float64
		Key       key
		Preferred int
	}
	var list []line
	for _, c := range r.Candidates {
		list = append(list, line{c.Instance, c.Weight, c.Load, c.Point.AuthKey, c.Preferred})
	}
	text, _ := json.Marshal(list) // weights and loads are finite
	return sha256.Sum256(text)
}

// Open reports whether the program has been asked nothing yet, or not answered the first
// question, for which it has some seconds.
func (a *Advisor) Open() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.answered && (a.since.IsZero() || time.Since(a.since) < 2*deadline)
}

// Strategy returns what the program said last, or how to do without it.
func (a *Advisor) Strategy() Told {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.strategy(time.Now())
}

func (a *Advisor) strategy(now time.Time) Told {
	if a.told == nil || now.Sub(a.at) > kept {
		return Untold(a.program)
	}
	return *a.told
}

// Trouble says what is wrong with the program's last answer; nil if nothing is.
func (a *Advisor) Trouble() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

// Run asks the program until ctx ends. It is called once.
func (a *Advisor) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C // until the first Tell there is nothing to ask
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.woken:
			if wait := time.Until(last.Add(askSpacing)); wait > 0 && !last.IsZero() {
				timer.Reset(wait)
				continue
			}
		case <-timer.C:
		}
		last = time.Now()
		if a.question(ctx); ctx.Err() == nil {
			timer.Reset(askEvery)
		}
	}
}

// question asks once and takes the answer down.
func (a *Advisor) question(ctx context.Context) {
	a.mu.Lock()
	request := a.request
	a.mu.Unlock()
	request.Now = time.Now()
	q := questionOf(request, a.secret[:])
	answer, err := a.ask(ctx, a.program, q)
	if ctx.Err() != nil {
		return
	}
	a.mu.Lock()
	now := time.Now()
	troubled, open := a.err, !a.answered
	a.answered = true
	switch {
	case err == nil:
		told := toldOf(a.program, answer, q)
		a.told, a.at, a.err, a.failing = &told, now, answer.Unknown(), time.Time{}
	case now.Sub(a.failing) >= sayEvery:
		a.err, a.failing = err, now
	}
	is := a.strategy(now)
	news := open || text(troubled) != text(a.err) || !is.equal(a.shown)
	a.shown = is
	a.mu.Unlock()
	if news {
		a.wake()
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
