package main

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"onionbalancer/testnet/lab"
)

var start = time.Unix(1_700_000_000, 0)

// at is a sighting some seconds after start, of points by their numbers.
func at(seconds float64, revision uint64, points ...byte) sighting {
	when := start.Add(time.Duration(seconds * float64(time.Second)))
	return sighting{when, when, revision, numbered(points...)}
}

func numbered(numbers ...byte) lab.Points {
	points := lab.Points{}
	for _, n := range numbers {
		points[[32]byte{n}] = true
	}
	return points
}

func TestCleanSince(t *testing.T) {
	dead := numbered(1, 2)
	for name, c := range map[string]struct {
		all  [][]sighting
		want float64 // below 0: it is not
	}{
		"the last HSDir counts":   {[][]sighting{{at(0, 1, 1, 5), at(2, 2, 5)}, {at(1, 1, 2, 5), at(3, 2, 5)}}, 3},
		"one HSDir has it still":  {[][]sighting{{at(0, 1, 1, 5), at(2, 2, 5)}, {at(1, 1, 2, 5)}}, -1},
		"it came back":            {[][]sighting{{at(0, 1, 1), at(2, 2, 5), at(3, 3, 2), at(7, 4, 5), at(8, 4, 5)}}, 7},
		"it was never there":      {[][]sighting{{at(1, 1, 5), at(2, 2, 5)}}, 1},
		"an HSDir has nothing":    {[][]sighting{{at(0, 1, 1), at(4, 2, 5)}, {}}, 4},
		"none has anything":       {[][]sighting{{}, {}}, -1},
		"it is there at the end":  {[][]sighting{{at(0, 1, 5), at(2, 2, 1)}}, -1},
		"there are no HSDirs yet": {nil, -1},
	} {
		moment, ok := cleanSince(c.all, dead)
		if ok != (c.want >= 0) || ok && moment.Sub(start).Seconds() != c.want {
			t.Errorf("%s: %v s, %v; want %v", name, moment.Sub(start).Seconds(), ok, c.want)
		}
	}
}

func TestMostOut(t *testing.T) {
	instances := []lab.Points{numbered(1, 2), numbered(3), numbered(4, 5)}
	all := [][]sighting{{at(0, 1, 1, 3, 4)}, {at(0, 1, 2, 3, 5), at(1, 2, 2, 5), at(2, 3, 1, 3, 4)}}
	if got := mostOut(all, instances); got != 1 {
		t.Errorf("%d instances were out at once, want 1", got)
	}
	all[0] = append(all[0], at(3, 4, 3, 9))
	if got := mostOut(all, instances); got != 2 {
		t.Errorf("%d instances were out at once, want 2", got)
	}
	if got := revisions(all); !slices.Equal(got, []uint64{1, 2, 3, 4}) {
		t.Errorf("revisions %v", got)
	}
}

func TestSpread(t *testing.T) {
	for want, times := range map[string][]*float64{
		"3.0 s [1.0–5.0]":       {secondsOf(5), secondsOf(1), secondsOf(3), secondsOf(2), secondsOf(4)},
		"4.0 s [2.0–…, 3 of 5]": {nil, secondsOf(4), nil, secondsOf(2), secondsOf(3)},
		"– (2 of 5)":            {nil, secondsOf(4), nil, secondsOf(2), nil},
		"–":                     {nil, nil},
	} {
		if got := spread(times); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func secondsOf(s float64) *float64 { return &s }

func TestCount(t *testing.T) {
	var c count
	if got := c.String(); got != "–" {
		t.Errorf("nobody came: %q", got)
	}
	c.add(visit{took: time.Second})
	c.add(visit{took: 2 * slowVisit})
	c.add(visit{took: visitPatience, err: errors.New("lost")})
	if got := c.String(); got != "1 of 3, 1 slow" {
		t.Errorf("%q", got)
	}
}

func TestTable(t *testing.T) {
	r := report{Rows: []*row{{What: "tor killed", Turns: [2][]turn{
		{{Clean: secondsOf(2), Before: [2]count{{Visits: 3, Lost: 1}, {Visits: 2}}, Publications: 1, MostOut: 1}},
		{{Before: [2]count{{Visits: 5, Lost: 4}, {Visits: 2}}}},
	}}}, Flap: &flap{Seconds: 600, Flaps: 120, Publications: []int{2, 3}}}
	var out bytes.Buffer
	r.table(&out)
	for _, want := range []string{
		"| tor killed | balancer | 2.0 s [2.0–2.0] | 1 of 3 | 0 of 2 | – | – | – | 1 | 1 |\n",
		"| tor killed | OnionBalance | – | 4 of 5 | 0 of 2 | – | – | – | 0 | 0 |\n",
		"published [2 3] times",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}
