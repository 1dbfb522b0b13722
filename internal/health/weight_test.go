package health

import "testing"

func TestWeight(t *testing.T) {
	for _, test := range []struct {
		text       string
		configured float64
		want       float64
		zero       bool
	}{
		{"default", 3, 3, false},
		{"50%", 3, 1.5, false},
		{"100%", 1, 1, false},
		{"200%", 1, 2, false},
		{"50", 3, 50, false},
		{"0.5", 3, 0.5, false},
		{"256", 1, 256, false},
		{"0", 3, 0, true},
		{"0%", 3, 0, true},
		{"50%", 0, 0, false}, // the configuration's zero
	} {
		w, err := ParseWeight(test.text)
		if err != nil {
			t.Errorf("%s: %v", test.text, err)
			continue
		}
		if got := w.Of(test.configured); got != test.want || w.Zero() != test.zero || w.String() != test.text {
			t.Errorf("%s of %v is %v (zero: %v, text %q), want %v (%v)", test.text, test.configured, got, w.Zero(), w, test.want, test.zero)
		}
		var again Weight
		if text, _ := w.MarshalText(); again.UnmarshalText(text) != nil || again != w {
			t.Errorf("%s is read back as %v", test.text, again)
		}
	}
	if zero := (Weight{}); zero.Of(2) != 2 || zero.Zero() || zero.String() != DefaultWeight {
		t.Errorf("the zero Weight is %v", zero)
	}
	for _, text := range []string{"", "%", "x", "-1", "-0", "257", "10001%", "NaN", "inf", "50 %", "5%%"} {
		if w, err := ParseWeight(text); err == nil {
			t.Errorf("%q is read as %v", text, w)
		}
	}
}
