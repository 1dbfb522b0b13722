package advice

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/selection"
)

// fakeProgram answers what a test says.
type fakeProgram struct {
	mu        sync.Mutex
	questions []Question
	answer    Answer
	err       error
	takes     time.Duration
	wakes     int
}

func (f *fakeProgram) ask(ctx context.Context, _ string, q Question) (Answer, error) {
	select {
	case <-time.After(f.takes):
	case <-ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.questions = append(f.questions, q)
	return f.answer, f.err
}

// say changes the answer.
func (f *fakeProgram) say(a Answer, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer, f.err = a, err
}

// counts returns how many questions and wakes there were since the last call.
func (f *fakeProgram) counts() (questions, wakes int) {
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	questions, wakes = len(f.questions), f.wakes
	f.questions, f.wakes = nil, 0
	return questions, wakes
}

// advised runs an Advisor of f in virtual time.
func advised(t *testing.T, f *fakeProgram, do func(t *testing.T, a *Advisor)) {
	synctest.Test(t, func(t *testing.T) {
		a := NewAdvisor("/p", f.ask, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.wakes++
		})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go a.Run(ctx)
		do(t, a)
	})
}

func request(now time.Time, names ...string) selection.Request {
	r := selection.Request{Now: now, Room: selection.Room{Points: 20, PerInstance: 3}, Slots: []selection.Slot{{Replica: 1, Asked: true}}}
	for n, name := range names {
		p := &descriptor.IntroductionPoint{AuthKey: [32]byte{byte(n + 1)}}
		r.Candidates = append(r.Candidates, selection.Candidate{Instance: name, Weight: 1, Point: p, FirstSeen: now.Add(-time.Minute)})
	}
	return r
}

// wishes returns the weights that a strategy gives instances.
func wishes(s selection.Strategy, names ...string) string {
	var standings []selection.Standing
	for _, name := range names {
		standings = append(standings, selection.Standing{Instance: name, Weight: 1})
	}
	var list []string
	for _, w := range s.Wish(standings, time.Now()).Instances {
		list = append(list, fmt.Sprint(w.Weight))
	}
	return strings.Join(list, " ")
}

// TestAdvisorAsks: at once when the candidates change, though not too often, and every
// minute besides.
func TestAdvisorAsks(t *testing.T) {
	f := &fakeProgram{answer: Answer{Weights: map[string]float64{"a": 3}}}
	advised(t, f, func(t *testing.T, a *Advisor) {
		time.Sleep(time.Hour)
		if n, _ := f.counts(); n != 0 || !a.Open() {
			t.Errorf("%d questions about nothing", n)
		}
		r := request(time.Now(), "a", "b")
		a.Tell(r)
		if n, wakes := f.counts(); n != 1 || wakes != 1 || a.Open() {
			t.Errorf("first: %d questions, %d wakes, open %t", n, wakes, a.Open())
		}
		if got := wishes(a.Strategy(), "a", "b"); got != "3 1" || a.Strategy().Name() != "exec:/p" {
			t.Errorf("wishes %s", got)
		}
		for range 100 { // as a service does that plans often
			a.Tell(r)
			time.Sleep(100 * time.Millisecond)
		}
		if n, wakes := f.counts(); n != 0 || wakes != 0 {
			t.Errorf("the same again: %d questions, %d wakes", n, wakes)
		}
		time.Sleep(51 * time.Second)
		if n, wakes := f.counts(); n != 1 || wakes != 0 {
			t.Errorf("after a minute: %d questions, %d wakes", n, wakes)
		}
		for n := range 100 {
			r = request(time.Now(), "a", "b")
			load := float64(n)
			r.Candidates[0].Load = &load
			a.Tell(r)
			time.Sleep(100 * time.Millisecond)
		}
		if n, _ := f.counts(); n < 2 || n > 4 {
			t.Errorf("%d questions in ten seconds of changes", n)
		}
		f.say(Answer{Weights: map[string]float64{"a": 4}}, nil)
		time.Sleep(time.Minute)
		if n, wakes := f.counts(); n < 1 || wakes != 1 || wishes(a.Strategy(), "a") != "4" {
			t.Errorf("another answer: %d questions, %d wakes", n, wakes)
		}
	})
}

// TestAdvisorFails: the last good answer counts for an hour, then there is none; what is
// wrong is said once.
func TestAdvisorFails(t *testing.T) {
	f := &fakeProgram{err: errors.New("bad"), takes: time.Second}
	advised(t, f, func(t *testing.T, a *Advisor) {
		a.Tell(request(time.Now(), "a", "b"))
		synctest.Wait()
		if !a.Open() {
			t.Error("answered before it can be")
		}
		time.Sleep(2 * time.Second)
		if _, wakes := f.counts(); wakes != 1 || a.Open() || a.Trouble() == nil || wishes(a.Strategy(), "a", "b") != "1 1" {
			t.Errorf("a first answer that is bad: %d wakes, %v", wakes, a.Trouble())
		}
		f.say(Answer{Weights: map[string]float64{"a": 2}}, nil)
		time.Sleep(time.Minute)
		if _, wakes := f.counts(); wakes != 1 || a.Trouble() != nil || wishes(a.Strategy(), "a", "b") != "2 1" {
			t.Errorf("a good one: %d wakes, %v", wakes, a.Trouble())
		}
		f.say(Answer{}, errors.New("bad"))
		time.Sleep(59 * time.Minute)
		if n, wakes := f.counts(); n < 57 || wakes != 1 || a.Trouble() == nil || wishes(a.Strategy(), "a", "b") != "2 1" {
			t.Errorf("bad for an hour: %d questions, %d wakes, %v, %s", n, wakes, a.Trouble(), wishes(a.Strategy(), "a", "b"))
		}
		time.Sleep(5 * time.Minute)
		if _, wakes := f.counts(); wakes != 1 || wishes(a.Strategy(), "a", "b") != "1 1" {
			t.Errorf("for longer: %d wakes, %s", wakes, wishes(a.Strategy(), "a", "b"))
		}
		f.say(Answer{Weights: map[string]float64{"a": 2, "x": 1}, unknown: []string{"x"}}, nil)
		time.Sleep(time.Minute)
		if _, wakes := f.counts(); wakes != 1 || a.Trouble() == nil || wishes(a.Strategy(), "a", "b") != "2 1" {
			t.Errorf("with a name that is none: %d wakes, %v", wakes, a.Trouble())
		}
	})
}

// TestAdvisorFailsInOtherWords: who fails in other words each time is told of every ten
// minutes.
func TestAdvisorFailsInOtherWords(t *testing.T) {
	f := new(fakeProgram)
	advised(t, f, func(t *testing.T, a *Advisor) {
		a.Tell(request(time.Now(), "a"))
		for n := range 60 {
			f.say(Answer{}, fmt.Errorf("bad %d", n))
			time.Sleep(time.Minute)
		}
		if n, wakes := f.counts(); n < 58 || wakes < 5 || wakes > 8 || a.Trouble().Error() == "bad 0" {
			t.Errorf("%d questions, %d wakes, %v", n, wakes, a.Trouble())
		}
	})
}

// TestToldPrefers: by ID, each point by its own.
func TestToldPrefers(t *testing.T) {
	f := new(fakeProgram)
	advised(t, f, func(t *testing.T, a *Advisor) {
		r := request(time.Now(), "a", "a", "a")
		a.Tell(r)
		synctest.Wait()
		q := f.questions[0]
		if len(q.Instances) != 1 || len(q.Instances[0].Points) != 3 || q.Example {
			t.Fatalf("asked %+v", q)
		}
		if w := a.Strategy().Wish([]selection.Standing{{Instance: "a"}}, time.Now()); w.Instances[0].Prefer != nil {
			t.Error("it prefers without having been told")
		}
		ids := make([]string, 3)
		for id, key := range q.points {
			ids[key[0]-1] = id
		}
		f.say(Answer{Prefer: map[string]float64{ids[1]: 2, ids[2]: -1}}, nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		prefer := a.Strategy().Wish([]selection.Standing{{Instance: "a"}}, time.Now()).Instances[0].Prefer
		c := r.Candidates
		if prefer(c[1], c[0]) >= 0 || prefer(c[0], c[2]) >= 0 || prefer(c[2], c[1]) <= 0 || prefer(c[0], c[0]) != 0 {
			t.Error("in another order")
		}
	})
}

// TestToldAtRefresh: weights that change between refreshes lay nothing out anew, and do
// at the next one.
func TestToldAtRefresh(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	r := request(now, "a", "a", "a", "b", "b", "b", "c", "c", "c", "d", "d", "d")
	for n, c := range r.Candidates {
		c.Point.LinkSpecifiers = []descriptor.LinkSpecifier{{Type: descriptor.LinkRSA, Data: append(make([]byte, 19), byte(n))}}
	}
	r.Slots = []selection.Slot{{Replica: 1, Asked: true}, {Replica: 2, Asked: true}}
	told := toldOf("/p", Answer{}, Question{})
	for n, points := range selection.Assign(told, r).Points {
		for _, c := range points {
			r.Slots[n].Holds = append(r.Slots[n].Holds, c.Point.AuthKey)
		}
	}
	told.weights = map[string]float64{"a": 3}
	if shares := selection.Assign(told, r).Shares(); shares["a"] > 0.26 {
		t.Errorf("at once: %v", shares)
	}
	r.Refresh = true
	if shares := selection.Assign(told, r).Shares(); shares["a"] < 0.4 {
		t.Errorf("at the next refresh: %v", shares)
	}
}

// TestQuestion: what a program is told, and what not.
func TestQuestion(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	load := 0.5
	r := request(now, "b", "a", "b")
	r.Candidates[1].Load, r.Candidates[2].Preferred = &load, 2
	r.Candidates[0].Point.LinkSpecifiers = []descriptor.LinkSpecifier{{Type: descriptor.LinkRSA, Data: make([]byte, 20)}}
	r.Slots[0].Holds = [][32]byte{{3}, {9}}
	q := questionOf(r, []byte("secret"))
	if len(q.Instances) != 2 || q.Instances[0].Name != "a" || *q.Instances[0].Load != 0.5 || q.Instances[1].Load != nil || len(q.Instances[1].Points) != 2 {
		t.Errorf("%+v", q.Instances)
	}
	first, second := q.Instances[1].Points[0], q.Instances[1].Points[1]
	if first.Relay != strings.Repeat("0", 40) || first.Age != 60 || first.Published || !second.Published || second.Preferred != 2 {
		t.Errorf("%+v, %+v", first, second)
	}
	if holds := q.Slots[0].Holds; len(holds) != 2 || holds[0] != second.ID || holds[1] == "" {
		t.Errorf("%+v", q.Slots)
	}
	if same, other := questionOf(r, []byte("secret")), questionOf(r, []byte("other")); same.Slots[0].Holds[0] != second.ID || other.Slots[0].Holds[0] == second.ID {
		t.Error("IDs follow from the point alone, or change")
	}
}
