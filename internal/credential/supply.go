package credential

import (
	"fmt"
	"log/slog"
	"math/bits"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/event"
	"onionbalancer/internal/status"
)

// outlook is how long the certificates made ahead last, at one moment.
type outlook struct {
	known     bool // there is a Supplier, and a consensus that gives the time
	periods   int  // certified, from the one that clients ask for on
	horizon   int  // periods that were certified together the last time
	renewBy   time.Time
	darkAt    time.Time
	remaining time.Duration // until darkAt; 0 after it

	// stage grows with the urgency: 0 while there is none, 1 from a third of the
	// horizon on, one more whenever half of the remaining time has passed, and stageOver
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

// LookAhead returns how long the certificates that s has made ahead last, for current
// being the period that clients ask for and periods that begin offset after a multiple of
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

// look computes the outlook. before is the last one: after the end it has the
// time of the end. current is the period that clients ask for; periods begin
// offset after a multiple of their length.
func look(now time.Time, s Supplier, current descriptor.Period, offset time.Duration, before outlook) outlook {
	last, horizon, ok := s.Supply(current)
	o := outlook{known: true, horizon: horizon}
	if !ok {
		o.stage, o.urgent = stageOver, true
		o.darkAt, o.renewBy = before.darkAt, before.renewBy
		o.text = "there is no certificate for the period that clients ask for now: the last published descriptors stay, and nothing new is published; " +
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

// judge derives stage and text from the remaining time, if horizon was the whole.
func (o *outlook) judge(now time.Time, horizon time.Duration) {
	third := horizon / 3
	switch {
	case o.remaining == 0:
		o.periods, o.stage, o.urgent = 0, stageOver, true
		o.text = fmt.Sprintf("the certificates made offline ended at %s: the last published descriptors stay, and nothing new is published; "+
			"install new ones at once (balancer ceremony)", minute(o.darkAt))
		return
	case o.remaining <= third:
		o.stage = bits.Len64(uint64(third / o.remaining))
	case o.periods == 1:
		o.stage = 1 // even with more than a third left: the next period has none
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

// supply is the state of a Supplier.
type supply struct {
	outlook    outlook
	said       time.Time // in the log
	refresh    time.Time // when to look for new certificates
	refreshing bool
}

// How often a Supplier is asked to look for new certificates: more often while
// some are missing, since an operator may be installing them.
const (
	refreshEvery   = time.Minute
	refreshMissing = 15 * time.Second
)

// LookAhead computes how long certificates made ahead last, for current being the
// period that clients ask for and periods that begin offset after a multiple of
// their length. It records the outlook at the start, when the need grows or ends,
// and daily while it lasts.
func (k *Keeper) LookAhead(now time.Time, current descriptor.Period, offset time.Duration) {
	supplier, ok := k.current.keys.Custodian.(Supplier)
	if !ok {
		return
	}
	k.refreshSupply(now)
	before := k.supply.outlook
	o := look(now, supplier, current, offset, before)
	k.supply.outlook = o
	if before.known && o.darkAt.After(before.darkAt) {
		clear(k.failures) // the missing certificates may be there now
	}
	switch {
	case o.stage > 0 && (o.stage > before.stage || !before.known || now.Sub(k.supply.said) >= sayAgain):
		level := slog.LevelWarn
		if o.urgent {
			level = slog.LevelError
		}
		k.record(now, event.Custody, level, o.text, slog.Duration("remaining", o.remaining.Round(time.Minute)))
		k.supply.said = now
	case o.stage == 0 && (before.stage > 0 || !o.darkAt.Equal(before.darkAt)):
		k.record(now, event.Custody, slog.LevelInfo, "certificates made offline",
			slog.Int("periods", o.periods), slog.Time("until", o.darkAt), slog.Time("renew_by", o.renewBy))
	}
}

// refreshSupply has the Supplier look for new certificates in the background, when
// that is due.
func (k *Keeper) refreshSupply(now time.Time) {
	r, ok := k.current.keys.Custodian.(refresher)
	if !ok || k.supply.refreshing || now.Before(k.supply.refresh) {
		return
	}
	k.supply.refreshing = true
	k.call(r.Refresh, func(now time.Time, _ error) { // certifying fails with the same error when it matters
		every := refreshEvery
		if len(k.failures) > 0 || k.supply.outlook.stage == stageOver {
			every = refreshMissing
		}
		k.supply.refreshing, k.supply.refresh = false, now.Add(every)
	})
}

// Outlook returns the warning about certificates that run out; empty if there is no
// reason for one.
func (k *Keeper) Outlook() string { return k.supply.outlook.text }

// CannotSign reports whether no descriptor of p can be published because keys are
// missing.
func (k *Keeper) CannotSign(p descriptor.Period) bool {
	return k.supply.outlook.stage == stageOver || k.failures[p] != nil || k.unsigned[p] != nil
}

// Uncertified returns why certifying for p failed last; nil if it did not.
func (k *Keeper) Uncertified(p descriptor.Period) error {
	if f := k.failures[p]; f != nil {
		return f.err
	}
	return k.unsigned[p]
}

// Status describes the custody of the keys: the old one until the new keys have
// certified for p, the period that clients ask for.
func (k *Keeper) Status(now time.Time, p descriptor.Period) status.Custody {
	out := status.Custody{}
	keys := k.current.keys
	if c := k.credentials[p]; c != nil {
		keys = c.custody.keys
		out.CertifiedUntil, out.SameExpiry = c.Expires, c.single() // also after it expired
	}
	out.Form, out.Signing = keys.Form, keys.Where
	if o := k.supply.outlook; o.known {
		ahead := o.report(now)
		out.Ahead = &ahead
	}
	return out
}
