package balance

import (
	"context"
	"fmt"
	"log/slog"
	"math/bits"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/status"
)

// Supplier is a Custodian whose certificates were made ahead, and run out.
type Supplier interface {
	// Supply returns the last period of the uninterrupted run of certified
	// periods that from is in, and how many periods were certified together the
	// last time. ok is false if from itself is not certified.
	Supply(from descriptor.Period) (last descriptor.Period, horizon int, ok bool)
}

// outlook is how long what was certified ahead lasts, seen at one moment.
type outlook struct {
	known     bool // there is a Supplier, and a consensus to reckon by
	periods   int  // certified, from the one that clients ask for on
	horizon   int  // periods that were certified together the last time
	renewBy   time.Time
	darkAt    time.Time
	remaining time.Duration // until darkAt; 0 after it

	// stage grows with the need: 0 while there is none, 1 from a third of the
	// horizon on, one more whenever half of what remained is gone, and stageOver
	// at the end.
	stage  int
	urgent bool
	text   string // for people; empty at stage 0
}

const (
	stageOver = 99
	// sayAgain is how often the log repeats a warning that has not changed.
	sayAgain = 24 * time.Hour
	// urgentBefore is how long before the end warnings become errors, unless a
	// tenth of the horizon is more or a sixth of it less.
	urgentBefore = 3 * 24 * time.Hour
)

// LookAhead says how long what s certified ahead lasts, for current being the
// period that clients ask for and periods that begin offset after a multiple of
// their length: a warning, if there is reason for one, and whether it is urgent.
func LookAhead(now time.Time, s Supplier, current descriptor.Period, offset time.Duration) (ahead status.Ahead, warning string, urgent bool) {
	o := look(now, s, current, offset, outlook{})
	return o.report(now), o.text, o.urgent
}

// report is o for the status.
func (o outlook) report(now time.Time) status.Ahead {
	remaining := time.Duration(0)
	if !o.darkAt.IsZero() {
		remaining = max(o.darkAt.Sub(now), 0)
	}
	return status.Ahead{Periods: o.periods, Horizon: o.horizon, RenewBy: o.renewBy, DarkAt: o.darkAt, Remaining: remaining.Seconds()}
}

// look works the outlook out. before is the last one: after the end it knows
// when that was. current is the period that clients ask for; periods begin
// offset after a multiple of their length.
func look(now time.Time, s Supplier, current descriptor.Period, offset time.Duration, before outlook) outlook {
	last, horizon, ok := s.Supply(current)
	o := outlook{known: true, horizon: horizon}
	if !ok {
		o.stage, o.urgent = stageOver, true
		o.darkAt, o.renewBy = before.darkAt, before.renewBy
		o.text = "there is no certificate for the period that clients ask for now: what was published last stays, and nothing new is; " +
			"install certificates at once (balancer ceremony)"
		return o
	}
	o.periods = int(last.Number-current.Number) + 1
	o.darkAt = last.End(offset)
	o.renewBy = last.Next().FirstUse(offset)
	o.remaining = max(o.darkAt.Sub(now), 0)
	o.judge(now, time.Duration(horizon)*current.Length)
	return o
}

// judge says what the remaining time means if horizon was the whole.
func (o *outlook) judge(now time.Time, horizon time.Duration) {
	third := horizon / 3
	switch {
	case o.remaining == 0:
		o.periods, o.stage, o.urgent = 0, stageOver, true
		o.text = fmt.Sprintf("the certificates made offline ended at %s: what was published last stays, and nothing new is; "+
			"install new ones at once (balancer ceremony)", minute(o.darkAt))
		return
	case o.remaining <= third:
		o.stage = bits.Len64(uint64(third / o.remaining))
	case o.periods == 1:
		o.stage = 1 // whatever a third is: the next period has none
	default:
		return
	}
	o.urgent = o.remaining <= max(horizon/10, min(urgentBefore, horizon/6))
	o.text = fmt.Sprintf("the certificates made offline last until %s, for %s more: install new ones before %s (balancer ceremony)",
		minute(o.darkAt), roughly(o.remaining), minute(o.renewBy))
	if !now.Before(o.renewBy) {
		o.text = fmt.Sprintf("the certificates made offline last until %s, for %s more, and there is none for the next period: "+
			"install new ones at once (balancer ceremony)", minute(o.darkAt), roughly(o.remaining))
	}
}

func minute(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// roughly writes a duration in the unit that fits.
func roughly(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", d/time.Hour)
	default:
		return fmt.Sprintf("%d minutes", d/time.Minute)
	}
}

// lookAhead renews the outlook, and logs it at the start, when the need grows or
// ends, and daily while it lasts.
func (s *Service) lookAhead(now time.Time, c *hsdir.Consensus) {
	supplier, ok := s.custody.custodian.(Supplier)
	if !ok {
		s.outlook = outlook{}
		return
	}
	if c == nil {
		return // the last outlook will do
	}
	s.custody.refresh()
	before := s.outlook
	o := look(now, supplier, c.CurrentPeriod(), c.RotationOffset(), before)
	s.outlook = o
	if before.known && o.darkAt.After(before.darkAt) {
		clear(s.custody.failures) // what was missing may be there
	}
	switch {
	case o.stage > 0 && (o.stage > before.stage || !before.known || now.Sub(s.outlookSaid) >= sayAgain):
		level := slog.LevelWarn
		if o.urgent {
			level = slog.LevelError
		}
		s.log.Log(context.Background(), level, o.text, "remaining", o.remaining.Round(time.Minute))
		s.outlookSaid = now
	case o.stage == 0 && (before.stage > 0 || !o.darkAt.Equal(before.darkAt)):
		s.log.Info("certificates made offline", "periods", o.periods, "until", o.darkAt, "renew_by", o.renewBy)
	}
}

// reportCustody describes who keeps the keys: those of before until the new ones
// have certified for the period that clients ask for.
func (s *Service) reportCustody(now time.Time) status.Custody {
	is, until := s.custody.is, time.Time{}
	if a := s.authorities[s.epoch.period]; a != nil {
		is, until = a.by.is, a.expires // also when that is over
	}
	out := status.Custody{Form: is.Form, Signing: is.Signing, CertifiedUntil: until}
	if o := s.outlook; o.known {
		ahead := o.report(now)
		out.Ahead = &ahead
	}
	return out
}
