package credential

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/keystore"
	"onionbalancer/keystore/offline"
)

// simulated is where the simulated days begin: 00:20 UTC, when the second descriptor
// begins a period.
var simulated = time.Date(2026, 11, 20, 0, 20, 0, 0, time.UTC)

// counting is a custodian that counts how often it is asked to certify.
type counting struct {
	Custodian
	asked int
}

func (c *counting) Certify(ctx context.Context, p descriptor.Period, signing ed25519.PublicKey, expiries descriptor.Expiries) (descriptor.HourlyCertificates, error) {
	c.asked++
	return c.Custodian.Certify(ctx, p, signing, expiries)
}

// custodians returns keys of all forms that need no token, for one identity key.
func custodians(t *testing.T) map[string]Keys {
	t.Helper()
	fresh, err := keystore.New(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Wipe()
	dir := t.TempDir()
	if err := fresh.WriteTor(dir + "/front"); err != nil {
		t.Fatal(err)
	}
	disk, err := keystore.Open(dir + "/front")
	if err != nil {
		t.Fatal(err)
	}
	first := offline.Public.InUse(simulated).Number
	wanted, err := offline.Prepare(t.Context(), offline.Preparation{Dir: dir + "/offline", Address: fresh.Address(), Schedule: offline.Public, First: first, Count: 6})
	if err != nil {
		t.Fatal(err)
	}
	request, err := offline.NewRequest(simulated, offline.Public, first, []offline.Wanted{wanted})
	if err != nil {
		t.Fatal(err)
	}
	signed, err := request.Sign([]*descriptor.IdentityKey{fresh.Identity()}, simulated)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := offline.Install([]string{dir + "/offline"}, []*offline.Bundle{signed}, simulated); err != nil {
		t.Fatal(err)
	}
	prepared, err := keystore.OpenOffline(dir + "/offline")
	if err != nil {
		t.Fatal(err)
	}
	return map[string]Keys{
		"disk":    {Custodian: disk, Signing: Memory{}},
		"offline": {Custodian: prepared, Signing: prepared},
	}
}

// TestHoursOfDays: at every moment of four days, the certificate of both descriptors
// expires 54 to 55 hours later, and the custodian is asked once for each period.
func TestHoursOfDays(t *testing.T) {
	for what, keys := range custodians(t) {
		t.Run(what, func(t *testing.T) {
			custodian := &counting{Custodian: keys.Custodian}
			keys.Custodian = custodian
			c := newCustody(keys)
			k := New(keys, Env{})
			made := 0
			for now := simulated; now.Before(simulated.Add(4 * 24 * time.Hour)); now = now.Add(50 * time.Minute) {
				older := offline.Public.InUse(now)
				for _, p := range []descriptor.Period{older, older.Next()} {
					public, err := keys.Custodian.Address().Keys(p)
					if err != nil {
						t.Fatal(err)
					}
					if k.lacks(now, p) {
						need := Need{Keys: public, MaxSize: 50000, LastUse: p.LastUse(descriptor.DefaultRotationOffset)}
						if k.credentials[p], err = c.certify(t.Context(), need, now); err != nil {
							t.Fatal(err)
						}
						k.credentials[p].custody = k.current
						made++
					}
					one := k.credentials[p]
					raw, err := one.Encode(t.Context(), &descriptor.Contents{Made: now}, 1)
					if err != nil {
						t.Fatal(err)
					}
					d, err := new(descriptor.Decoder).DecodeOuter(raw, public, now)
					if err != nil {
						t.Fatal(err)
					}
					expires := d.SigningCert.Expires()
					if life := expires.Sub(now); life < 54*time.Hour || life > 55*time.Hour {
						t.Errorf("at %s: period %s has a certificate for %s more", now, p, life)
					}
					if !expires.Equal(one.ExpiresAt(now)) || expires.After(one.Expires) {
						t.Errorf("at %s: expires at %s, and is said to at %s, the last at %s", now, expires, one.ExpiresAt(now), one.Expires)
					}
				}
			}
			if made != 6 || custodian.asked != made {
				t.Errorf("asked %d times for %d credentials, in four days", custodian.asked, made)
			}
		})
	}
}

func TestNeedExpiries(t *testing.T) {
	hour := simulated.Truncate(time.Hour)
	for _, test := range []struct {
		what    string
		lastUse time.Duration // after now; 0: not known
		count   int
	}{
		{"a new period of the public network", 48 * time.Hour, 53},
		{"half of one", 24 * time.Hour, 29},
		{"a testing network's", 5 * time.Minute, 6},
		{"no end known", 0, 5},
		{"over, and the consensus is late", -10 * time.Hour, 5},
		{"periods of two weeks", 28 * 24 * time.Hour, 97},
	} {
		need := Need{}
		if test.lastUse != 0 {
			need.LastUse = hour.Add(test.lastUse)
		}
		if got := need.expiries(hour); got.Count != test.count || !got.First.Equal(descriptor.SigningCertExpiry(hour)) {
			t.Errorf("%s: %d certificates from %s on, want %d", test.what, got.Count, got.First, test.count)
		}
	}
}

// TestRenewal: where a period is used for longer than there are certificates, others
// are asked for when the hours are used up, and a single one when it is about to expire.
func TestRenewal(t *testing.T) {
	keys := custodians(t)["disk"]
	custody := newCustody(keys)
	p := offline.Public.InUse(simulated).Next()
	public, err := keys.Custodian.Address().Keys(p)
	if err != nil {
		t.Fatal(err)
	}
	k := New(keys, Env{})
	made, err := custody.certify(t.Context(), Need{Keys: public, LastUse: simulated}, simulated)
	if err != nil {
		t.Fatal(err)
	}
	made.custody = k.current
	k.credentials[p] = made
	for after, want := range map[time.Duration]bool{0: false, ExpiryMargin: false, ExpiryMargin + time.Hour: true} {
		if got := k.lacks(simulated.Add(after), p); got != want {
			t.Errorf("%s after certifying, others are needed: %v", after, got)
		}
	}
	made.certs = descriptor.Hourly(made.certs.First())
	made.Expires = made.certs.Expires()
	for after, want := range map[time.Duration]bool{0: false, 48 * time.Hour: false, 51 * time.Hour: true} {
		if got := k.lacks(simulated.Add(after), p); got != want {
			t.Errorf("%s after certifying, another single one is needed: %v", after, got)
		}
	}
}

// damaging is a custodian that damages the last of the certificates.
type damaging struct{ Custodian }

func (d damaging) Certify(ctx context.Context, p descriptor.Period, signing ed25519.PublicKey, expiries descriptor.Expiries) (descriptor.HourlyCertificates, error) {
	certs, err := d.Custodian.Certify(ctx, p, signing, expiries)
	if err != nil {
		return certs, err
	}
	raw := certs.Bytes()
	raw[len(raw)-1] ^= 1
	return descriptor.ParseHourly(raw)
}

// TestCustodianDistrusted: all certificates are verified before the first is used, and
// the time is checked.
func TestCustodianDistrusted(t *testing.T) {
	keys := custodians(t)["disk"]
	p := offline.Public.InUse(simulated).Next()
	public, err := keys.Custodian.Address().Keys(p)
	if err != nil {
		t.Fatal(err)
	}
	need := Need{Keys: public, LastUse: p.LastUse(descriptor.DefaultRotationOffset)}
	bad := newCustody(Keys{Custodian: damaging{keys.Custodian}, Signing: keys.Signing})
	if _, err := bad.certify(t.Context(), need, simulated); err == nil {
		t.Error("a damaged certificate of the last hour was believed")
	}
	old := newCustody(Keys{Custodian: stale{keys.Custodian}, Signing: keys.Signing})
	if _, err := old.certify(t.Context(), need, simulated); !errors.Is(err, descriptor.ErrExpired) {
		t.Errorf("expired certificates: %v", err)
	}
}

// stale is a custodian of certificates that have expired.
type stale struct{ Custodian }

func (s stale) Certify(ctx context.Context, p descriptor.Period, signing ed25519.PublicKey, expiries descriptor.Expiries) (descriptor.HourlyCertificates, error) {
	return s.Custodian.Certify(ctx, p, signing, descriptor.SigningCertExpiries(simulated.Add(-60*time.Hour), simulated.Add(-56*time.Hour)))
}
