package main

import (
	"fmt"
	"time"

	"onionbalancer/internal/status"
	"onionbalancer/keystore"
)

// custodyText says who keeps the keys, and how long that lasts.
func custodyText(now time.Time, c status.Custody) string {
	text := keystore.Form(c.Form).String()
	switch c.Signing {
	case "memory":
		text += ", signing keys in memory"
	case "disk":
		text += ", signing keys on disk"
	case "token":
		text += ", signing keys on a token"
	}
	switch a := c.Ahead; {
	case a == nil && c.CertifiedUntil.IsZero():
		return text + "; nothing is certified yet"
	case a == nil:
		return text + "; certified until " + moment(c.CertifiedUntil)
	case a.Periods == 0 && a.DarkAt.IsZero():
		return text + "; NO CERTIFICATE for the present period"
	case a.Periods == 0:
		return text + "; the certificates ENDED at " + moment(a.DarkAt)
	default:
		return fmt.Sprintf("%s; %s left of %d, until %s (in %s); renew before %s", text, plural(a.Periods, "period"), a.Horizon,
			moment(a.DarkAt), roughly(a.DarkAt.Sub(now)), moment(a.RenewBy))
	}
}

// roughly writes a duration in the unit that fits.
func roughly(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return plural(int(d/(24*time.Hour)), "day")
	case d >= 2*time.Hour:
		return plural(int(d/time.Hour), "hour")
	}
	return plural(int(d/time.Minute), "minute")
}
