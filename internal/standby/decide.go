package standby

import (
	"fmt"
	"log/slog"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/times"
)

// View is what is known of one service at one moment, after a reading. All times are by
// this machine's clock.
type View struct {
	Now    time.Time
	Watch  bool // nothing can be done but to tell
	Hosted bool
	Unable error // why this machine could not publish; nil if it can

	Period  descriptor.Period // that clients fetch
	Read    Read
	Counter uint64    // the highest seen in the period; 0 if none
	Most    uint64    // the highest that a machine with a clock like ours uses; 0: not known
	Made    time.Time // when the descriptor with Counter was; zero if there is none
	Expires time.Time // its certificate does
	// Before is when the descriptor of the period before was last known to be made, while
	// clients with an older consensus still fetch that one; zero if nobody does.
	Before time.Time
	Turn   time.Time // when clients begin to fetch that of the next period; zero: not known
	Points Points    // of it
	Own    bool      // this machine made it

	Beats bool // there is a heartbeat
	Beat  Beat
}

// Read is what a reading showed: HSDirs were asked for the descriptor that clients fetch.
type Read struct {
	At    time.Time
	Full  bool // all that clients ask were asked, else one of each replica
	Found bool // some have a valid descriptor
	// Missing says that none has, and that more than half of each replica say so. If it is
	// neither Found nor Missing, nobody knows.
	Missing bool
	Most    bool // more than half of each replica answered
}

// Points is how the published introduction points look from here.
type Points struct {
	Known     bool // they could be read, and what instances show is known as of now
	Published int
	Live      int           // of healthy instances
	Unknown   int           // perhaps of healthy instances
	Healthy   int           // instances that have introduction points
	Lag       time.Duration // by which what instances show may be older than what is published
}

// unmet reports whether clients reach nobody, and this machine could have them reach
// somebody.
func (p Points) unmet() bool {
	return p.Known && p.Published > 0 && p.Live == 0 && p.Unknown == 0 && p.Healthy > 0
}

// withdrawn reports whether the service was withdrawn: only then is a descriptor without
// introduction points published.
func (p Points) withdrawn() bool { return p.Known && p.Published == 0 }

// State is what earlier views led to. The zero State is that of a machine that has just
// started.
type State struct {
	Taken bool
	Since time.Time // when it was last taken over, or yielded
	Why   Reason    // of that

	last    time.Time // of the last reading
	ever    bool      // some reading found the service
	missing time.Time // since when readings show it, without one that found it
	unmet   time.Time // since when readings show it
	blind   time.Time // since when readings show nothing
	well    time.Time // when the active machine last said that it can publish
	period  descriptor.Period
	from    uint64 // the counter in that period when it was taken over
}

// Reason says why a service is taken over or yielded. Reasons are for people to read.
type Reason string

// The reasons.
const (
	ReasonMissing Reason = "HSDirs do not have the descriptor that clients fetch"
	ReasonUnmet   Reason = "no published introduction point belongs to a healthy instance"
	ReasonSilence Reason = "the published descriptor has not been renewed"
	ReasonBefore  Reason = "the descriptor of the period before, which some clients fetch still, has not been renewed"
	ReasonNext    Reason = "the descriptor of the next period, which nobody can read yet, may not have been renewed"
	ReasonResumed Reason = "this machine published last, before it was started again"
	ReasonActive  Reason = "the active machine publishes again"
)

// Action is what a machine does about a service.
type Action int

// The actions.
const (
	StandBy  Action = iota // publishes nothing
	TakeOver               // begins to publish
	Publish                // goes on publishing
	Yield                  // ends publishing
)

// String returns the action in words.
func (a Action) String() string {
	return [...]string{"stand by", "take over", "publish", "yield"}[a]
}

// Decision is what follows from a View and a State.
type Decision struct {
	Action Action
	Why    Reason
	From   uint64    // of TakeOver: the counter of View.Period to start above
	Until  time.Time // of StandBy: when it takes over, if nothing else is read; zero if it does not
	Next   time.Time // of the next reading, at the latest
	Full   bool      // that asks all HSDirs that clients ask
	Alarm  Alarm
}

// Alarm is what an operator should know; the zero Alarm is nothing.
type Alarm struct {
	Level slog.Level
	Text  string
}

// Decide says what to do about a service. It reads no clock and changes nothing.
//
// The standby takes over when clients find no descriptor, or one of no use, or one that is
// not renewed; whichever it is, all HSDirs that clients ask have to show it, so that an
// HSDir that withholds or repeats brings nothing about as long as one of the others does
// not. For descriptors that cannot be read it goes by a heartbeat that ended long ago. It
// yields to a higher counter than it has made itself, which only the active machine can have
// made, and later: one HSDir is enough to show that. Then everything counts from anew, so that
// it publishes again if what the active machine publishes is of no use.
func Decide(v View, s State, t Timing) (Decision, State) {
	s.note(v, t)
	d := Decision{Next: v.Now.Add(t.Every)}
	switch {
	case v.Watch:
		d.watch(v, s, t)
	case s.Taken && v.overtaken(s):
		d.Action, d.Why = Yield, ReasonActive
		s.Taken, s.Since, s.Why, s.missing, s.unmet = false, v.Now, d.Why, time.Time{}, time.Time{}
	case s.Taken:
		d.Action, d.Why = Publish, s.Why
		d.Next = v.Now.Add(t.Taken)
		d.alarm(v, s, t)
	default:
		d.stand(v, s, t)
		if d.Action == TakeOver {
			d.Next = v.Now.Add(t.Taken)
			s.Taken, s.Since, s.Why, s.period, s.from = true, v.Now, d.Why, v.Period, v.Counter
		}
	}
	s.ever = s.ever || v.Read.Found
	return d, s
}

// note takes a reading in. After a time without readings, as when the machine slept, or a
// clock that was set, nothing has lasted.
func (s *State) note(v View, t Timing) {
	if gap := v.Read.At.Sub(s.last); gap < 0 || gap > 3*t.Every {
		s.missing, s.unmet, s.blind = time.Time{}, time.Time{}, time.Time{}
	}
	since := func(at *time.Time, is bool) {
		switch {
		case !is:
			*at = time.Time{}
		case at.IsZero():
			*at = v.Read.At
		}
	}
	if v.Read.Found || v.Read.Missing {
		since(&s.missing, v.Read.Missing)
	}
	if v.Beats && v.Beat.Fit {
		s.well = times.Later(s.well, v.Beat.Heard)
	}
	s.well = times.Earlier(s.well, v.Now) // the clock may have been set back
	since(&s.unmet, v.Points.unmet() && !v.Read.Missing)
	since(&s.blind, !v.Read.Found && !v.Read.Missing)
	s.last = v.Read.At
}

// overtaken reports whether another machine has published since this one took over. What
// was made before, and of another period is only seen now, is no sign of life.
func (v View) overtaken(s State) bool {
	if v.Own || v.Counter == 0 {
		return false
	}
	if v.Period == s.period {
		return v.Counter > s.from
	}
	return v.Made.After(s.Since)
}

// sign is a sign that clients miss the active machine, and when it counts.
type sign struct {
	why Reason
	due time.Time
}

// signs lists the signs that there are.
func (v View) signs(s State, t Timing) (list []sign) {
	p := v.patience(t)
	if !s.ever {
		p.Missing = max(p.Missing, t.Start)
	}
	if !s.missing.IsZero() {
		list = append(list, sign{ReasonMissing, s.missing.Add(p.Missing)})
	}
	if !s.unmet.IsZero() {
		list = append(list, sign{ReasonUnmet, s.unmet.Add(p.Unmet)})
	}
	if v.Read.Found && !v.Made.IsZero() {
		list = append(list, sign{ReasonSilence, v.Made.Add(p.Silence)})
	}
	// Whether that one was renewed since nobody can ask. So the heartbeat has to be silent.
	if p := v.patience(t); !v.Before.IsZero() && v.Beats && !v.heard(t) && v.Made.Before(v.Before.Add(p.Silence)) {
		list = append(list, sign{ReasonBefore, v.Before.Add(keptFor - dropMargin)})
	}
	if v.nextGone(s, t) {
		list = append(list, sign{ReasonNext, v.Turn.Add(-dropMargin)})
	}
	return list
}

// nextGone reports whether HSDirs may have forgotten the descriptor of the next period by the
// time when all clients fetch it. The active machine renewed it in time as long as it
// was well, or published the one that is read.
func (v View) nextGone(s State, t Timing) bool {
	if v.Watch || v.heard(t) || s.well.IsZero() || v.Turn.IsZero() {
		return false
	}
	renewed := times.Later(s.well, v.Made).Add(-renewal)
	if v.Hosted {
		renewed = renewed.Add(-t.Hosted)
	}
	return !v.Turn.Before(renewed.Add(keptFor - dropMargin))
}

// patience returns how long to bear each sign.
func (v View) patience(t Timing) Patience {
	p := t.Alone
	switch {
	case v.Watch: // or else it would tell of each time that a standby takes over
		p = t.Heard
	case v.heard(t):
		p = t.Heard
	case v.Beats:
		p = t.Silent
	}
	p.Unmet = max(p.Unmet, 2*v.Points.Lag)
	if v.Hosted {
		p.Silence += t.Hosted
		// What is later is too late, heartbeat or not.
		p.Silence = min(p.Silence, keptFor-dropMargin)
	}
	return p
}

// heard reports whether the active machine says that it can publish.
func (v View) heard(t Timing) bool {
	return v.Beats && v.Beat.Fit && v.Now.Sub(v.Beat.Heard) <= t.Beat
}

// stand decides for a machine that has not taken over.
func (d *Decision) stand(v View, s State, t Timing) {
	d.alarm(v, s, t)
	if v.Unable != nil || v.Points.withdrawn() {
		return
	}
	if !s.ever && v.Read.Found && v.Own && !v.heard(t) {
		d.Action, d.Why = TakeOver, ReasonResumed
		return
	}
	if due := d.weigh(v, s, t); due != "" {
		d.Action, d.Why, d.From, d.Until = TakeOver, due, v.Counter, time.Time{}
		if v.Most > 0 {
			d.From = min(d.From, v.Most)
		}
	}
}

// weigh returns the sign that counts now, which a full reading has shown. Else it has one
// made when the next counts.
func (d *Decision) weigh(v View, s State, t Timing) Reason {
	for _, sign := range v.signs(s, t) {
		at := sign.due
		switch {
		case v.Now.Before(at):
		case v.Read.Full && v.Read.Most:
			return sign.why
		case v.Read.Full: // it did not show enough
			at = v.Now.Add(t.Confirm)
		default:
			at = v.Now
		}
		if d.Until.IsZero() || at.Before(d.Until) {
			d.Until = at
		}
		if !at.After(d.Next) {
			d.Next, d.Full = at, true
		}
	}
	return ""
}

// alarm fills in what the operator of a standby should know.
func (d *Decision) alarm(v View, s State, t Timing) {
	switch {
	case v.Unable != nil && !s.Taken:
		d.Alarm = Alarm{slog.LevelError, fmt.Sprintf("this machine could not take over: %v", v.Unable)}
	case v.Most > 0 && v.Counter > v.Most:
		d.Alarm = Alarm{slog.LevelError, fmt.Sprintf("another publisher: the revision counter is more than %s ahead of the clock", t.Ahead)}
	case v.Points.withdrawn() && !s.Taken:
		d.Alarm = Alarm{slog.LevelInfo, "the service is withdrawn: it is not taken over"}
	case s.Taken && !s.missing.IsZero() && v.Now.Sub(s.missing) > 2*t.Every:
		d.Alarm = Alarm{slog.LevelError, "this machine has taken over, and still " + string(ReasonMissing)}
	case !s.blind.IsZero() && v.Now.Sub(s.blind) > 2*t.Every:
		d.Alarm = Alarm{slog.LevelWarn, "too few HSDirs answer to tell whether the service is published"}
	}
}

// expiresSoon is how long before the end of a certificate its descriptor was not renewed
// for long: it lasts for 54 hours, or as long as those made offline.
const expiresSoon = 6 * time.Hour

// watch fills in what a machine without keys tells.
func (d *Decision) watch(v View, s State, t Timing) {
	due := d.weigh(v, s, t)
	d.Until = time.Time{}
	switch {
	case due == ReasonSilence:
		d.Alarm = Alarm{slog.LevelError, fmt.Sprintf("the published descriptor has not been renewed for %s", v.Now.Sub(v.Made).Round(time.Minute))}
	case due != "":
		d.Alarm = Alarm{slog.LevelError, string(due)}
	case v.Read.Found && v.Now.Add(expiresSoon).After(v.Expires):
		d.Alarm = Alarm{slog.LevelError, "the certificate of the published descriptor ends at " + v.Expires.UTC().Format("2006-01-02 15:04 UTC")}
	default:
		d.alarm(v, s, t)
	}
}
