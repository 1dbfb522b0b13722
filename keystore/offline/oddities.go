package offline

import (
	"fmt"
	"time"
)

// What is odd about a request, and no error.
const (
	longHorizon  = 180 * 24 * time.Hour
	oldRequest   = 7 * 24 * time.Hour
	clockQuarrel = 10 * time.Minute
)

// Oddities returns what whoever signs r at now should think about first, in
// plain words; nothing if all is as it should be.
func (r *Request) Oddities(now time.Time) []string {
	var list []string
	say := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	switch age := now.Sub(r.Made); {
	case age < -clockQuarrel:
		say("the request was made at %s, which is yet to come by the clock of this machine (%s): one of the two clocks is wrong", clock(r.Made), clock(now))
	case age > oldRequest:
		say("the request was made at %s, %d days ago by the clock of this machine (%s): is it the right file, and the clock right?", clock(r.Made), int(age.Hours()/24), clock(now))
	}
	over, end := r.over(now), r.End(r.Last())
	switch {
	case over == r.Periods():
		say("all of its periods are over by the clock of this machine (%s): is it the right file, and the clock right?", clock(now))
	case !now.Before(end):
		say("its last period ended at %s: clients ask for a later one by the clock of this machine (%s)", clock(end), clock(now))
	case over > 0:
		say("%d of its %d periods are over by the clock of this machine (%s)", over, r.Periods(), clock(now))
	}
	if span, ahead := end.Sub(r.Start(r.First)), end.Sub(r.Made); span > longHorizon {
		say("it covers %d days: who steals the manager can publish under the address for as long, and nothing but time ends that", int(span.Hours()/24))
	} else if ahead > longHorizon {
		say("it reaches %d days ahead: who steals the manager can publish under the address until %s, and nothing but time ends that", int(ahead.Hours()/24), clock(end))
	}
	if r.Schedule != Public {
		say("it is not for the public Tor network, but for one with %s", r.Schedule)
	}
	for _, w := range r.Services {
		switch {
		case w.CertifiedThrough != 0 && r.First > w.CertifiedThrough+1:
			say("%s: a gap: the manager has certificates until %s, and the request begins at %s", w.Address, clock(r.End(w.CertifiedThrough)), clock(r.Start(r.First)))
		case w.CertifiedThrough == 0 && now.Before(r.FirstUse(r.First)):
			say("%s: the manager has no certificates, and the request begins at %s: nothing can be published before", w.Address, clock(r.FirstUse(r.First)))
		}
	}
	return list
}

// over counts the periods for which nothing is published any more.
func (r *Request) over(now time.Time) int {
	n := 0
	for ; n < r.Periods() && now.After(r.LastUse(r.First+uint64(n))); n++ {
	}
	return n
}
