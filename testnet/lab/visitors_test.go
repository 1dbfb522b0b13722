package lab

import (
	"math"
	"testing"
)

// TestChance holds samples to the chi-square distribution: with two degrees of freedom
// x is exceeded with a probability of exp(-x/2).
func TestChance(t *testing.T) {
	even := map[string]float64{"a": 1, "b": 1, "c": 1}
	counted := map[string]int{"a": 120, "b": 100, "c": 80}
	want := math.Exp(-(20.*20 + 20*20) / 100 / 2)
	if got := Chance(counted, even); math.Abs(got-want) > want/3 {
		t.Errorf("got %v, want about %v", got, want)
	}
	if got := Chance(map[string]int{"a": 10, "b": 0, "c": 0}, even); got > 1e-3 { // 3 of 3^10
		t.Errorf("all in one place: %v", got)
	}
	if got := Chance(map[string]int{"a": 1, "d": 1}, even); got != 0 {
		t.Errorf("where nobody comes: %v", got)
	}
	if got := Chance(nil, even); got != 1 {
		t.Errorf("without visitors: %v", got)
	}
}
