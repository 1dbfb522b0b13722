package history

import (
	"errors"
	"maps"
	"testing"
	"time"

	"onionbalancer/descriptor"
)

var (
	noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	a, b = descriptor.Address{1}, descriptor.Address{2}
)

func after(seconds float64) time.Time {
	return noon.Add(time.Duration(seconds * float64(time.Second)))
}

// Each rule is broken by what breaks it, and by nothing else.
func TestRules(t *testing.T) {
	turns := []Turn{{after(0), a, "one", 1}, {after(0), b, "one", 1}, {after(60), a, "two", 2}, {after(300), a, "one", 3}}
	first := Upload{At: after(1), Service: a, HSDir: "x", Counter: 10, Manager: "one", Stored: true}
	second := Upload{At: after(61), Service: a, HSDir: "x", Counter: 20, Manager: "two", Stored: true}
	upload := func(of Upload, change func(*Upload)) Upload {
		change(&of)
		return of
	}
	for what, test := range map[string]struct {
		uploads []Upload
		learnt  []learnt
		want    map[string]int
	}{
		"all is well": {uploads: []Upload{first, second, upload(second, func(u *Upload) { u.HSDir = "y" }), upload(first, func(u *Upload) { u.Service = b; u.Counter = 30 })}},
		"a late upload that is refused": {uploads: []Upload{first, second,
			upload(first, func(u *Upload) { u.At, u.Counter, u.Stored = after(62), 11, false })}},
		"the same counter": {uploads: []Upload{first, upload(second, func(u *Upload) { u.Counter, u.Stored = 10, false })}, want: map[string]int{"V1": 1, "V2": 1}},
		"the same counter in another period": {uploads: []Upload{first,
			upload(second, func(u *Upload) { u.Counter, u.Period = 10, descriptor.BlindedPublicKey{1} })}},
		"counters that overlap": {uploads: []Upload{first, second,
			upload(first, func(u *Upload) { u.At, u.Counter, u.HSDir, u.Stored = after(62), 21, "y", false })}, want: map[string]int{"V2": 1}},
		"stored over its successor": {uploads: []Upload{first, second,
			upload(first, func(u *Upload) { u.At, u.Counter = after(62), 21 })}, want: map[string]int{"V2": 1, "V3": 1}},
		"stored after the successor's was lost": {uploads: []Upload{first, second,
			upload(first, func(u *Upload) { u.At, u.Counter = after(62), 11 })}, want: map[string]int{"V3": 1}},
		"of another term than the last": {uploads: []Upload{first, second,
			upload(first, func(u *Upload) { u.At, u.Counter = after(304), 11 })}, want: map[string]int{"V2": 1}},
		"left over from the term before the last": {uploads: []Upload{first, second,
			upload(first, func(u *Upload) { u.At, u.Counter, u.Stored = after(299.5), 11, false }),
			upload(first, func(u *Upload) { u.At, u.Counter, u.Stored = after(301), 11, false })}},
		"left over, and stored": {uploads: []Upload{first, second,
			upload(first, func(u *Upload) { u.At, u.Counter = after(301), 11 })}, want: map[string]int{"V2": 1}},
		"made again with counters of before, right after the turn": {uploads: []Upload{first, second,
			upload(first, func(u *Upload) { u.At, u.Counter, u.Stored = after(301), 20, false }),
			upload(first, func(u *Upload) { u.At, u.Counter, u.Stored = after(304), 20, false })}, want: map[string]int{"V1": 2, "V2": 2}},
		"never owned": {uploads: []Upload{first, upload(first, func(u *Upload) { u.Manager = "three" })}, want: map[string]int{"V0": 1}},
		"before its turn is seen": {uploads: []Upload{first,
			upload(second, func(u *Upload) { u.At = after(59.5) })}},
		"told": {uploads: []Upload{first, second, upload(first, func(u *Upload) { u.At, u.Counter, u.Stored = after(62), 11, false })},
			learnt: []learnt{{after(61), "one"}}, want: map[string]int{"V5": 1}},
		"told later":       {uploads: []Upload{first, second, upload(first, func(u *Upload) { u.At, u.Counter, u.Stored = after(62), 11, false })}, learnt: []learnt{{after(63), "one"}}},
		"another was told": {uploads: []Upload{first, second, upload(first, func(u *Upload) { u.At, u.Counter, u.Stored = after(62), 11, false })}, learnt: []learnt{{after(61), "two"}}},
		"told of another service": {uploads: []Upload{first, upload(first, func(u *Upload) { u.At, u.Service = after(62), b })},
			learnt: []learnt{{after(61), "one"}}},
	} {
		var l Log
		for _, turn := range turns {
			l.Turn(turn)
		}
		for _, u := range test.uploads {
			l.Upload(u)
		}
		for _, k := range test.learnt {
			l.Learnt(k.at, k.manager)
		}
		if got := Count(l.Breaches()); !maps.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v: %v", what, got, test.want, l.Breaches())
		}
	}
}

func TestGap(t *testing.T) {
	var l Log
	for _, u := range []Upload{
		{At: after(0), Service: a, Stored: true}, {At: after(0), Service: b, Stored: true},
		{At: after(10), Service: a, Stored: true}, {At: after(20), Service: a}, {At: after(25), Service: b, Stored: true},
		{At: after(40), Service: a, Stored: true},
	} {
		l.Upload(u)
	}
	both := []descriptor.Address{a, b}
	for _, test := range []struct {
		from, to float64
		want     time.Duration
		of       descriptor.Address
	}{{0, 40, 30, a}, {0, 26, 25, b}, {26, 30, 20, a}, {41, 80, 55, b}} {
		if d, of := l.Gap(both, after(test.from), after(test.to)); d != test.want*time.Second || of != test.of {
			t.Errorf("from %v to %v: %s of %x", test.from, test.to, d, of[:1])
		}
	}
	if d, of := l.Gap([]descriptor.Address{{3}}, noon, after(1)); d < time.Hour || of != (descriptor.Address{3}) {
		t.Errorf("a service without any: %s", d)
	}
}

func TestVisitsAndShares(t *testing.T) {
	var l Log
	l.Visit(Visit{after(1), a, nil})
	l.Visit(Visit{after(2), a, errors.New("lost")})
	l.Visit(Visit{after(3), a, nil})
	if n, lost := l.Visits(after(2)); n != 2 || len(lost) != 1 {
		t.Errorf("%d visits, %d lost", n, len(lost))
	}
	if n, lost := l.Visits(after(2.5)); n != 1 || len(lost) != 0 {
		t.Errorf("%d visits, %d lost", n, len(lost))
	}
	l.Turn(Turn{after(1), a, "one", 1})
	l.Turn(Turn{after(1), descriptor.Address{3}, "one", 1})
	if got := l.Shares(); len(got) != 1 || got["one"] != 2 {
		t.Errorf("shares %v", got)
	}
	l.Turn(Turn{after(5), a, "two", 2})
	if got := l.Shares(); len(got) != 2 || got["one"] != 1 || got["two"] != 1 {
		t.Errorf("shares %v", got)
	}
	l.Turn(Turn{after(10), a, "", 3})
	l.Turn(Turn{after(13), a, "two", 4})
	l.Turn(Turn{after(20), a, "", 5})
	if d := l.Vacant(noon); d != 3*time.Second {
		t.Errorf("vacant for %s", d)
	}
	if d := l.Vacant(after(11)); d != 0 {
		t.Errorf("vacant for %s later", d)
	}
	l.Upload(Upload{At: after(1)})
	if n := len(l.Uploads(after(1))); n != 1 {
		t.Errorf("%d uploads", n)
	}
	if n := len(l.Uploads(after(2))); n != 0 {
		t.Errorf("%d uploads", n)
	}
}
