package daemon

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"onionbalancer/internal/advice"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/printable"
	"onionbalancer/selection"
)

// strategy returns the strategy of that name, and the path of its program if it is one.
func strategy(name string) (s selection.Strategy, program string, err error) {
	program, is := advice.Program(name)
	if !is {
		s, err = selection.Lookup(name)
		return s, "", err
	}
	return advice.Untold(program), program, advice.CheckFile(program)
}

// checkProgram asks the program that is a service's strategy about a made-up example.
func (c *checker) checkProgram(ctx context.Context, s balance.Config) {
	if s.Program == "" {
		return
	}
	what := "strategy of " + shortName(s)
	weights := make(map[string]float64)
	for _, i := range s.Instances {
		weights[i.Name] = i.Weight
	}
	began := time.Now()
	q := advice.Example(weights, began)
	answer, err := advice.Run(ctx, s.Program, q)
	if err == nil {
		err = answer.Unknown()
	}
	if err != nil {
		c.warn(what, "run it by hand, with a question as the README has one (\"Strategies from outside\"); until it answers well, all instances are alike", "%w", err)
		return
	}
	c.ok(what, "%s answered a made-up example in %d ms: %s", s.Program, time.Since(began).Milliseconds(), answered(answer, q))
}

// answered says what an answer comes to.
func answered(a advice.Answer, q advice.Question) string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(a.Weights)) {
		list = append(list, fmt.Sprintf("%s %v", name, a.Weights[name]))
	}
	text := "no weights, so instances keep their own"
	if len(list) > 0 {
		text = "weights " + printable.Text(listed(list))
	}
	if kept := len(q.Instances) - len(list); kept > 0 && len(list) > 0 {
		text += fmt.Sprintf(" (%s keep their own)", printable.Count(kept, "other"))
	}
	if n := len(a.Prefer); n > 0 {
		text += ", preferences for " + printable.Count(n, "introduction point")
	}
	return text
}
