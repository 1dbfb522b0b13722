package health

import (
	"testing"
	"time"
)

func TestParseLoad(t *testing.T) {
	for text, want := range map[string]float64{"0": 0, "0.75": 0.75, "12": 12, "1e3": 1000, "-": -1} {
		value, given, err := ParseLoad(text)
		if err != nil || given != (want >= 0) || given && value != want {
			t.Errorf("%q: %v, %t, %v", text, value, given, err)
		}
	}
	for _, text := range []string{"", "-1", "-0", "x", "1 ", "NaN", "Inf", "-Inf", "1e300", "50%", "--"} {
		if _, _, err := ParseLoad(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestLoad(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	l := Load{2, now.Add(LoadKept)}
	if got := l.At(now); got == nil || *got != 2 {
		t.Errorf("it is %v", got)
	}
	if l.At(now.Add(LoadKept)) != nil || (Load{}).At(now) != nil {
		t.Error("it counts for ever, or without having been told")
	}
	for other, want := range map[Load]bool{
		{2, now.Add(time.Hour)}: false, {1.9, now}: false, {2.1, now}: false, {1, now}: true, {3, now}: true, {0, now}: true, {}: true,
	} {
		if l.Differs(other) != want || other.Differs(l) != want {
			t.Errorf("%v: %t", other, !want)
		}
	}
	if (Load{}).Differs(Load{}) || (Load{0, now}).Differs(Load{0, now.Add(1)}) || !(Load{}).Differs(Load{0, now}) {
		t.Error("of nothing")
	}
}
