package main

import (
	"fmt"
	"math"
)

// atLeast is the chance that of n points, each avoided with chance p, at least k are
// left.
func atLeast(k, n int, p float64) (chance float64) {
	for i := k; i <= n; i++ {
		chance += choose(n, i) * math.Pow(1-p, float64(i)) * math.Pow(p, float64(n-i))
	}
	return chance
}

func choose(n, k int) float64 {
	c := 1.0
	for i := range k {
		c = c * float64(n-i) / float64(i+1)
	}
	return c
}

func measureChosen(say progress) (figures, error) {
	say("the chance that enough points are left")
	left := chart{Name: "chosen-left", Title: "Instances that keep enough introduction points",
		X: axis{Label: "relays avoided (% of the chance to be chosen by a tor)", From: 0, To: 100}, Y: axis{Label: "instances (%)", From: 0, To: 100}}
	cases := []struct {
		k, n int
		name string
	}{{1, 3, "1 of 3 offered"}, {3, 3, "all 3 of 3"}, {3, 8, "3 of 8"}, {3, 20, "3 of 20"}}
	head := []string{"relays avoided", "left of 20 offered, mean"}
	for _, c := range cases {
		line := series{Name: c.name}
		for p := 0; p <= 100; p += 2 {
			line.Add(float64(p), 100*atLeast(c.k, c.n, float64(p)/100))
		}
		left.Series = append(left.Series, line)
		head = append(head, c.name)
	}
	t := table{Name: "left", Head: head}
	for _, p := range []float64{0.05, 0.1, 0.25, 0.5, 0.75, 0.9} {
		cells := []any{fmt.Sprintf("%.0f %%", 100*p), f1(20 * (1 - p))}
		for _, c := range cases {
			cells = append(cells, f1(100*atLeast(c.k, c.n, p))+" %")
		}
		t.Add(cells...)
	}
	return figures{[]table{t}, []chart{left}}, nil
}
