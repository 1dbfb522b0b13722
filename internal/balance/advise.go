package balance

import (
	"context"
	"fmt"
	"time"

	"onionbalancer/internal/advice"
	"onionbalancer/selection"
)

// advised has the program that a service's strategy is, if it is one, asked.
type advised struct {
	program string
	advisor *advice.Advisor // nil without a program
	stop    context.CancelFunc
}

// followProgram has the configured program asked from now on. What another one said
// before counts no longer.
func (s *Service) followProgram(ctx context.Context) {
	if s.advised.program == s.cfg.Program {
		return
	}
	if s.advised.stop != nil {
		s.advised.stop()
	}
	s.advised = advised{program: s.cfg.Program}
	if s.cfg.Program == "" {
		return
	}
	ctx, s.advised.stop = context.WithCancel(ctx)
	advisor := advice.NewAdvisor(s.cfg.Program, s.env.Advise, s.wakePlan)
	s.advised.advisor = advisor
	s.calls.Go(func() { advisor.Run(ctx) })
}

// heed has a view go by what the program said last.
func (v *View) heed(advisor *advice.Advisor) {
	if advisor != nil {
		v.Config.Strategy, v.Unadvised = advisor.Strategy(), advisor.Open()
	}
}

// drops reports whether the program gives an instance no clients.
func (a *advised) drops(instance string) bool {
	return a.advisor != nil && a.advisor.Strategy().Drops(instance)
}

// adviceWait is how long a plan waits for a program at a time.
const adviceWait = 10 * time.Second

// awaitsAdvice has a plan wait for a program that is asked for the first time: what
// is published without its advice would stay until the next refresh.
func (p *Plan) awaitsAdvice(v View, r selection.Request) bool {
	if v.Config.Program != "" {
		p.question = r
	}
	if !v.Unadvised || len(r.Candidates) == 0 {
		return false
	}
	p.Waiting, p.Next, p.Targets = "the strategy's program is asked for the first time", v.Now.Add(adviceWait), nil
	return true
}

// tellProgram tells the program what a plan is about.
func (s *Service) tellProgram(p *Plan) {
	advisor := s.advised.advisor
	if advisor == nil {
		s.troubles.set(troubleAdvice, nil)
		return
	}
	if len(p.question.Candidates) > 0 {
		advisor.Tell(p.question)
	}
	err := advisor.Trouble()
	if err != nil {
		err = fmt.Errorf("the strategy's program: %w (its last good answer counts for an hour, then all instances are alike)", err)
	}
	s.troubles.set(troubleAdvice, err)
}
