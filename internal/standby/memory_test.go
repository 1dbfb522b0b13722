package standby

import (
	"context"
	"errors"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/state"
	"onionbalancer/internal/state/statetest"
)

// A counter tells when it was made; those beside any tell the nearest moment.
func TestMadeAt(t *testing.T) {
	key, err := custodian{testIdentity(t, 3)}.RevisionKey(t.Context(), period)
	if err != nil {
		t.Fatal(err)
	}
	for _, after := range []time.Duration{0, time.Second, 31*time.Hour + 17*time.Second, (descriptor.MaxRevisionSeconds - 1) * time.Second} {
		counter := counterAt(key, noon, noon.Add(after))
		if got := madeAt(key, noon, counter); !got.Equal(noon.Add(after)) {
			t.Errorf("after %s: %s", after, got.Sub(noon))
		}
		if off := guessedAt(noon, counter).Sub(noon.Add(after)).Abs(); off > 20*time.Minute {
			t.Errorf("guessed with an error of %s", off)
		}
	}
	if got := madeAt(key, noon, 1); !got.Equal(noon) {
		t.Errorf("the first: %s", got)
	}
	if got := madeAt(key, noon, 1<<60); !got.Equal(noon.Add((descriptor.MaxRevisionSeconds - 1) * time.Second)) {
		t.Errorf("beyond the last: %s", got)
	}
	if counterAt(key, noon, noon.Add(-time.Hour)) != counterAt(key, noon, noon) {
		t.Error("a moment before the run has another counter")
	}
}

// plainly stands for a clock that has no secret: a counter is in seconds since noon.
func plainly(counter uint64) time.Time { return noon.Add(time.Duration(counter) * time.Second) }

func published(counter uint64) *descriptor.Descriptor {
	return &descriptor.Descriptor{RevisionCounter: counter}
}

// The other clock may be wrong: what was made between two readings was made then.
func TestMemoryOfTime(t *testing.T) {
	for _, skew := range []time.Duration{0, time.Hour, -time.Hour} {
		var m memory
		at := func(after time.Duration) time.Time { return noon.Add(after) }
		count := func(after time.Duration) uint64 { return uint64((3*time.Hour + after + skew) / time.Second) }
		decode := func(counter uint64) time.Time { return plainly(counter).Add(-3 * time.Hour) }
		note := func(after, made time.Duration) time.Duration {
			return m.note(at(after), period, published(count(made)), nil, false, decode, 10*time.Minute).made.Sub(noon)
		}
		first := note(0, -30*time.Minute)
		if want := min(-30*time.Minute+skew, 0); first != want {
			t.Errorf("skew %s: at first sight %s, want %s", skew, first, want)
		}
		note(5*time.Minute, -30*time.Minute)
		if got := note(10*time.Minute, 7*time.Minute); got < 5*time.Minute || got > 10*time.Minute {
			t.Errorf("skew %s: made between two readings, after %s", skew, got)
		}
		if m.ahead < skew-5*time.Minute || m.ahead > skew+5*time.Minute {
			t.Errorf("skew %s: taken for %s", skew, m.ahead)
		}
		// Hours later, nobody having looked, the skew is known.
		m.woke(at(4 * time.Hour))
		if got := note(4*time.Hour, 3*time.Hour); got < 3*time.Hour-5*time.Minute || got > 3*time.Hour+5*time.Minute {
			t.Errorf("skew %s: made after 3h, taken for %s", skew, got)
		}
		// What is repeated changes nothing.
		before := *m.seen[period]
		m.note(at(4*time.Hour+5*time.Minute), period, published(count(time.Hour)), nil, false, decode, 10*time.Minute)
		if is := *m.seen[period]; is.counter != before.counter || is.made != before.made {
			t.Errorf("skew %s: an older descriptor counts: %+v", skew, is)
		}
	}
}

func offering(a byte, p descriptor.Period, now time.Time, keys ...byte) *backend.Backend {
	b := &backend.Backend{
		Address: descriptor.Address{a}, Finding: backend.Found, Descriptor: &descriptor.Descriptor{}, Period: p,
		Renewed: now.Add(-time.Hour), Seen: now, Heard: now, Interval: 2 * time.Minute,
	}
	for _, k := range keys {
		b.Offer.Points = append(b.Offer.Points, backend.Point{IntroductionPoint: descriptor.IntroductionPoint{AuthKey: [32]byte{k}, Expires: now.Add(20 * time.Hour)}})
	}
	return b
}

func TestPoints(t *testing.T) {
	later := period.Next()
	const late = 6 * time.Hour // after the period began
	type sight struct {
		after time.Duration
		view  backend.View
	}
	see := func(after time.Duration, list ...*backend.Backend) sight {
		for _, b := range list {
			b.Seen, b.Heard, b.Renewed = noon.Add(after), noon.Add(after), noon.Add(after-time.Hour)
		}
		return sight{after, backend.View{Backends: list}}
	}
	of := func(a byte, p descriptor.Period, keys ...byte) *backend.Backend {
		return offering(a, p, noon, keys...)
	}
	dead := func(b *backend.Backend) *backend.Backend {
		b.Finding, b.Failures = backend.NotFound, 5
		return b
	}
	for name, test := range map[string]struct {
		sights    []sight
		service   Service
		turned    time.Duration // when the period of what is published began
		published []byte
		want      Points
		unmet     bool
	}{
		"live": {
			sights: []sight{see(0, of(1, period, 1, 2), of(2, period, 3))}, turned: -late, published: []byte{2, 9},
			want: Points{Known: true, Published: 2, Live: 1, Healthy: 2},
		},
		"replaced": {
			sights: []sight{see(0, of(1, period, 1, 2)), see(time.Hour, of(1, period, 2, 3))}, turned: -late, published: []byte{1},
			want: Points{Known: true, Published: 1, Healthy: 1}, unmet: true,
		},
		"of an instance that died": {
			sights: []sight{see(0, of(1, period, 1), of(2, period, 3)), see(time.Hour, dead(of(1, period, 1)), of(2, period, 3))}, turned: -late, published: []byte{1},
			want: Points{Known: true, Published: 1, Healthy: 1}, unmet: true,
		},
		"of the period before": {
			sights: []sight{see(0, of(1, period, 1, 2)), see(time.Hour, of(1, later, 3, 4)), see(2*time.Hour, of(1, later, 3, 5))}, turned: 30 * time.Minute, published: []byte{1},
			want: Points{Known: true, Published: 1, Live: 1, Healthy: 1},
		},
		"of the period before, and its tor was started again": {
			sights: []sight{see(0, of(1, period, 1, 2)), see(time.Hour, of(1, later, 3, 4)), see(2*time.Hour, of(1, later, 5, 6))}, turned: 30 * time.Minute, published: []byte{1},
			want: Points{Known: true, Published: 1, Healthy: 1}, unmet: true,
		},
		"never seen, soon after the period began": {
			sights: []sight{see(0, of(1, period, 1))}, turned: -time.Hour, published: []byte{7},
			want: Points{Known: true, Published: 1, Unknown: 1, Healthy: 1},
		},
		"never seen, long after": {
			sights: []sight{see(0, of(1, period, 1))}, turned: -late, published: []byte{7},
			want: Points{Known: true, Published: 1, Healthy: 1}, unmet: true,
		},
		"never seen, of a service that keeps what is not shown": {
			sights: []sight{see(0, of(1, period, 1))}, turned: -late, published: []byte{7}, service: Service{Ordinary: true},
			want: Points{Known: true, Published: 1, Unknown: 1, Healthy: 1},
		},
		"never seen, by who has watched for longer": {
			sights: []sight{see(0, of(1, period, 1)), see(time.Hour, of(1, later, 2)), see(3*time.Hour, of(1, later, 2))}, turned: time.Hour, published: []byte{7}, service: Service{Ordinary: true},
			want: Points{Known: true, Published: 1, Healthy: 1}, unmet: true,
		},
		"no instance lives": {
			sights: []sight{see(0, dead(of(1, period, 1)))}, turned: -late, published: []byte{1},
			want: Points{Known: true, Published: 1},
		},
		"no instances": {
			sights: []sight{see(0)}, turned: -late, published: []byte{1}, want: Points{Published: 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var m pointMemory
			for _, s := range test.sights {
				m.note(s.view, noon.Add(s.after))
			}
			last := test.sights[len(test.sights)-1]
			var keys [][32]byte
			for _, k := range test.published {
				keys = append(keys, [32]byte{k})
			}
			got := m.judge(test.service, last.view, keys, noon.Add(last.after), noon.Add(test.turned))
			got.Lag = 0
			if got != test.want || got.unmet() != test.unmet {
				t.Errorf("%+v, unmet %t, want %+v", got, got.unmet(), test.want)
			}
			// Nobody has looked for half an hour: what is published may be newer.
			if got := m.judge(test.service, last.view, keys, noon.Add(last.after+30*time.Minute), noon.Add(test.turned)); got.unmet() {
				t.Error("unmet by a stale view")
			}
		})
	}
}

// One HSDir, or all of one replica, does not make a descriptor missing.
func TestReading(t *testing.T) {
	for name, test := range map[string]struct {
		votes map[int]*votes
		found bool
		want  Read
	}{
		"none has it":             {map[int]*votes{1: {3, 0, 3}, 2: {3, 0, 3}}, false, Read{Missing: true, Most: true}},
		"most say so":             {map[int]*votes{1: {3, 0, 2}, 2: {3, 0, 2}}, false, Read{Missing: true, Most: true}},
		"those of one replica":    {map[int]*votes{1: {3, 0, 3}, 2: {3, 0, 1}}, false, Read{}},
		"one has it":              {map[int]*votes{1: {3, 1, 2}, 2: {3, 0, 3}}, true, Read{Found: true, Most: true}},
		"one has it, few answer":  {map[int]*votes{1: {3, 1, 0}, 2: {3, 0, 0}}, true, Read{Found: true}},
		"nobody answers":          {map[int]*votes{1: {3, 0, 0}, 2: {3, 0, 0}}, false, Read{}},
		"nobody was there to ask": {nil, false, Read{}},
	} {
		r := reading{votes: test.votes}
		if test.found {
			r.best = published(1)
		}
		if got := r.result(time.Time{}); got != test.want {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
	var r reading
	of := new(votes)
	r.count(of, hsdir.FetchResult{}, hsdir.ErrInvalid)
	r.count(of, hsdir.FetchResult{}, hsdir.ErrNotFound)
	r.count(of, hsdir.FetchResult{}, hsdir.ErrNoAnswer)
	r.count(of, hsdir.FetchResult{}, errors.New("another"))
	r.count(of, hsdir.FetchResult{Descriptor: published(7)}, nil)
	r.count(of, hsdir.FetchResult{Descriptor: published(5)}, nil)
	if of.has != 2 || of.lacks != 2 || r.best.RevisionCounter != 7 {
		t.Errorf("%+v, counter %d", of, r.best.RevisionCounter)
	}
}

// A record is raised above the floors, and what it says was published counts no more.
func TestRaise(t *testing.T) {
	store := statetest.Open(t, "")
	a := testIdentity(t, 4).Address()
	signer := [32]byte{5}
	record := state.Service{
		Ceilings: []state.Ceiling{{Period: 1, Minutes: 1440, Counter: 100}, {Period: 2, Minutes: 1440, Counter: 50}},
		Made:     []state.Made{{Period: 2, Minutes: 1440, Revision: 50, Signer: state.Bytes32(signer)}},
	}
	two := descriptor.Period{Number: 2, Length: 24 * time.Hour}
	for _, test := range []struct {
		d    Made
		want bool
	}{
		{Made{two, 50, signer}, true}, {Made{two, 49, signer}, true}, {Made{two, 51, signer}, false},
		{Made{two, 50, [32]byte{6}}, false}, {Made{two.Next(), 50, signer}, false},
	} {
		if got := MadeBefore(record, test.d); got != test.want {
			t.Errorf("%+v: %t", test.d, got)
		}
	}
	if _, err := store.SwapService(t.Context(), a, 0, record); err != nil {
		t.Fatal(err)
	}
	floors := []state.Ceiling{{Period: 1, Minutes: 1440, Counter: 90}, {Period: 2, Minutes: 1440, Counter: 70}, {Period: 3, Minutes: 1440, Counter: 30}}
	if err := Raise(t.Context(), store, a, floors); err != nil {
		t.Fatal(err)
	}
	got, _, err := store.Service(a)
	if err != nil || len(got.Made) > 0 || len(got.Ceilings) != 3 || got.Ceilings[0].Counter != 100 || got.Ceilings[1].Counter != 70 || got.Ceilings[2].Counter != 30 {
		t.Errorf("%+v, %v", got, err)
	}
	if err := Raise(t.Context(), brokenRecords{}, a, floors); !errors.Is(err, errBroken) {
		t.Errorf("a broken store: %v", err)
	}
}

var errBroken = errors.New("broken")

type brokenRecords struct{}

func (brokenRecords) Service(descriptor.Address) (state.Service, uint64, error) {
	return state.Service{}, 0, nil
}

func (brokenRecords) SwapService(context.Context, descriptor.Address, uint64, state.Service) (uint64, error) {
	return 0, errBroken
}
