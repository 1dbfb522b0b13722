package tell

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
)

// Finding is how well a rule that was learned from one half of two lots tells the
// other halves apart.
type Finding struct {
	Feature  string  // "all together" for the rule that weighs all features
	Rule     string  // as learned
	Accuracy float64 // part of the test half that it judged rightly; 0.5 is guessing, 0 is of no rule
	P        float64 // the chance of so good a judgement, or a better one, by guessing
}

func (f Finding) String() string {
	if f.Accuracy == 0 {
		return fmt.Sprintf("%s: by chance %.2g (%s)", f.Feature, f.P, f.Rule)
	}
	return fmt.Sprintf("%s: %.0f %% right, by chance %.2g (%s)", f.Feature, 100*f.Accuracy, f.P, f.Rule)
}

// Report has the findings about two lots, the most telling first.
type Report []Finding

// Tells returns the findings that are beyond chance at the level alpha: had the lots no
// difference, there were any with a probability of at most alpha, however many
// features were tried (Bonferroni's bound).
func (r Report) Tells(alpha float64) Report {
	return slices.DeleteFunc(slices.Clone(r), func(f Finding) bool { return f.P*float64(len(r)) > alpha })
}

// Compare looks for what tells the lots a and b apart. For each feature, and for all
// together, a rule is learned from one half of each lot and tried on the other.
// Neighbours in a lot, which may be of one service, stay in one half.
func Compare(a, b []Features) Report {
	train, test := halves(a, b)
	var report Report
	judges := []judge{newBayes(train)}
	for _, name := range names(a, b) {
		judges = append(judges, newStump(name, train))
	}
	for _, j := range judges {
		report = append(report, try(j, test))
	}
	slices.SortStableFunc(report, compareFindings)
	return report
}

// compareFindings sorts the most telling first.
func compareFindings(a, b Finding) int {
	return cmp.Or(cmp.Compare(a.P, b.P), cmp.Compare(a.Feature, b.Feature))
}

// lots are the features of two lots of descriptors.
type lots [2][]Features

func halves(a, b []Features) (train, test lots) {
	for l, lot := range [][]Features{a, b} {
		for n, f := range lot {
			half := &train
			if n/2%2 == 1 {
				half = &test
			}
			half[l] = append(half[l], f)
		}
	}
	return train, test
}

func names(all ...[]Features) []string {
	seen := make(map[string]bool)
	for _, lot := range all {
		for _, f := range lot {
			for name := range f {
				seen[name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// A judge says of a descriptor which lot it is of.
type judge interface {
	second(Features) bool
	name() string
	String() string // the rule
}

// try has a judge judge what it has not seen.
func try(j judge, test lots) Finding {
	var called [2]int // by lot: how many the judge says are of the second
	for l := range test {
		for _, f := range test[l] {
			if j.second(f) {
				called[l]++
			}
		}
	}
	first, second := len(test[0]), len(test[1])
	return Finding{Feature: j.name(), Rule: j.String(),
		Accuracy: float64(first-called[0]+called[1]) / float64(first+second),
		P:        fisher(called[1], second, called[0]+called[1], first+second)}
}

// fisher is the probability that of so many drawn out of all, hits or more are among
// the marked ones, when each is as likely to be drawn (Fisher's exact test).
func fisher(hits, marked, drawn, all int) float64 {
	choose := func(n, k int) float64 {
		a, _ := math.Lgamma(float64(n + 1))
		b, _ := math.Lgamma(float64(k + 1))
		c, _ := math.Lgamma(float64(n - k + 1))
		return a - b - c
	}
	p := 0.0
	for k := hits; k <= min(marked, drawn); k++ {
		if drawn-k <= all-marked {
			p += math.Exp(choose(marked, k) + choose(all-marked, drawn-k) - choose(all, drawn))
		}
	}
	return min(p, 1)
}

// stump judges by one feature: by a threshold if it is a number, or else by which words
// are the second lot's more often.
type stump struct {
	feature string
	words   map[string]bool // those that speak for the second lot
	above   float64         // what is above speaks for the second lot, unless it is turned
	turned  bool
}

func (s *stump) name() string { return s.feature }

func (s *stump) String() string {
	if len(s.words) > 0 {
		return fmt.Sprintf("%d words", len(s.words))
	}
	return fmt.Sprintf("above %v, turned %v", s.above, s.turned)
}

func (s *stump) second(f Features) bool {
	v, known := f[s.feature]
	if v.Word != "" || !known {
		return s.words[v.Word]
	}
	return (v.Number > s.above) != s.turned
}

func newStump(feature string, train lots) *stump {
	s := &stump{feature: feature, words: make(map[string]bool), above: math.Inf(1)}
	balance := make(map[string]int)
	var numbers []float64
	for l, sign := range []int{-1, 1} {
		for _, f := range train[l] {
			v := f[feature]
			balance[v.Word] += sign * len(train[1-l]) // so that the lots' sizes do not matter
			numbers = append(numbers, v.Number)
		}
	}
	for word, n := range balance {
		if n > 0 {
			s.words[word] = true
		}
	}
	slices.Sort(numbers)
	best := 0.0
	for _, at := range slices.Compact(numbers) {
		trial := stump{feature: feature, above: at}
		f := try(&trial, train).Accuracy - 0.5
		if math.Abs(f) > best {
			best, s.above, s.turned = math.Abs(f), at, f < 0
		}
	}
	return s
}

// bayes weighs all features as if they were independent of each other.
type bayes struct {
	cuts  map[string][]float64          // between classes of numbers
	words map[string]map[string]float64 // by feature and word or class: the logarithm of the odds for the second lot
}

func (b *bayes) name() string   { return "all together" }
func (b *bayes) String() string { return fmt.Sprintf("%d features", len(b.words)) }

// class is the word that stands for a value.
func (b *bayes) class(feature string, v Value) string {
	if v.Word != "" {
		return v.Word
	}
	n, _ := slices.BinarySearch(b.cuts[feature], v.Number)
	return fmt.Sprint(n)
}

func (b *bayes) second(f Features) bool {
	sum := 0.0
	for _, name := range slices.Sorted(maps.Keys(f)) {
		sum += b.words[name][b.class(name, f[name])]
	}
	return sum > 0
}

func newBayes(train lots) *bayes {
	b := &bayes{cuts: make(map[string][]float64), words: make(map[string]map[string]float64)}
	for _, name := range names(train[0], train[1]) {
		var numbers []float64
		for _, f := range slices.Concat(train[0], train[1]) {
			numbers = append(numbers, f[name].Number)
		}
		slices.Sort(numbers)
		const classes = 8
		for n := 1; n < classes; n++ {
			b.cuts[name] = append(b.cuts[name], numbers[len(numbers)*n/classes])
		}
		b.cuts[name] = slices.Compact(b.cuts[name])
		counts := [2]map[string]float64{{}, {}}
		b.words[name] = make(map[string]float64)
		for l := range train {
			for _, f := range train[l] {
				class := b.class(name, f[name])
				counts[l][class]++
				b.words[name][class] = 0
			}
		}
		for class := range b.words[name] {
			of := func(l int) float64 { return (counts[l][class] + 1) / float64(len(train[l])+len(b.words[name])) }
			b.words[name][class] = math.Log(of(1) / of(0))
		}
	}
	return b
}
