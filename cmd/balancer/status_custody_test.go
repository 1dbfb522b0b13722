package main

import (
	"testing"
	"time"

	"onionbalancer/internal/status"
)

func TestCustodyText(t *testing.T) {
	now := time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)
	dark := now.Add(11*24*time.Hour + 3*time.Hour)
	for _, test := range []struct {
		custody status.Custody
		want    string
	}{
		{status.Custody{Form: "tor", Signing: "memory"}, "tor's hs_ed25519_secret_key, signing keys in memory; nothing is certified yet"},
		{status.Custody{Form: "pem", Signing: "token", CertifiedUntil: now},
			"PKCS #8 in PEM, as OnionBalance writes it, signing keys on a token; certified until 2026-11-20 09:00 UTC"},
		{status.Custody{Form: "offline", Signing: "disk", Ahead: &status.Ahead{Periods: 12, Horizon: 60, DarkAt: dark, RenewBy: dark.Add(-12 * time.Hour)}},
			"certificates prepared offline, signing keys on disk; 12 periods left of 60, until 2026-12-01 12:00 UTC (in 11 days); renew before 2026-12-01 00:00 UTC"},
		{status.Custody{Form: "offline", Signing: "disk", Ahead: &status.Ahead{Horizon: 60, DarkAt: now}},
			"certificates prepared offline, signing keys on disk; the certificates ENDED at 2026-11-20 09:00 UTC"},
		{status.Custody{Form: "offline", Signing: "token", Ahead: &status.Ahead{}},
			"certificates prepared offline, signing keys on a token; NO CERTIFICATE for the present period"},
	} {
		if got := custodyText(now, test.custody); got != test.want {
			t.Errorf("%+v:\n%q, want\n%q", test.custody, got, test.want)
		}
	}
}
