package balance

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/credential"
	"onionbalancer/testnet/sim"
)

// seenUploads are the certificates in all that is uploaded.
type seenUploads struct {
	Uploader
	mu   sync.Mutex
	keys func(descriptor.Period) descriptor.PeriodKeys
	list []seenUpload
}

type seenUpload struct {
	at       time.Time
	period   uint64
	revision uint64
	expires  time.Time
}

func (u *seenUploads) Upload(up hsdir.Upload) {
	body := up.Body
	up.Body = func(ctx context.Context, at hsdir.Slot) ([]byte, error) {
		raw, err := body(ctx, at)
		if err != nil {
			return nil, err
		}
		d, err := new(descriptor.Decoder).DecodeOuter(raw, u.keys(up.Period), time.Now())
		if err != nil {
			return nil, err
		}
		u.mu.Lock()
		defer u.mu.Unlock()
		u.list = append(u.list, seenUpload{time.Now(), up.Period.Number, d.RevisionCounter, d.SigningCert.Expires()})
		return raw, nil
	}
	u.Uploader.Upload(up)
}

// TestFreshCertificates: whoever certifies and signs, a descriptor's certificate expires
// 54 to 55 hours after it was made, as tor's does, all slots of an edition have the same
// one, and the custodian is asked once for a period. With a bundle of an earlier
// version it stays the same.
func TestFreshCertificates(t *testing.T) {
	t.Parallel()
	for what, test := range map[string]struct {
		signing  credential.SigningKeys
		constant bool
	}{
		"keys in memory":               {credential.Memory{}, false},
		"signing keys on a token":      {&tokenKeys{}, false},
		"single certificates, offline": {&tokenKeys{}, true},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			const days = 2
			seen := &seenUploads{}
			onScene(t, sim.Config{Seed: 71, Relays: 60, Params: fewSlots}, func(t *testing.T, s *scene) {
				s.stop()
				seen.keys = func(p descriptor.Period) descriptor.PeriodKeys {
					keys, err := s.custodian.Address().Keys(p)
					if err != nil {
						t.Error(err)
					}
					return keys
				}
				s.prepare = func() {
					seen.Uploader = s.env.Uploads(s.custodian.Address())
					s.env.Uploads = func(descriptor.Address) Uploader { return seen }
				}
				s.signing = test.signing
				if test.constant {
					b := &bundle{memoryCustodian: s.custodian}
					b.install(descriptor.Period{Number: 20000, Length: 24 * time.Hour}, 60)
					s.keeper = b
				}
				s.start()
				s.fetchEvery(time.Hour)
				s.settle(days * 24 * time.Hour)
				if asked, _ := s.custodian.counts(); asked > days+3 {
					t.Errorf("asked %d times to certify, in %d days", asked, days)
				}
			})
			editions := map[[2]uint64]time.Time{} // expiries, by period and revision
			expiries := map[uint64][]time.Time{}  // by period
			for _, u := range seen.list {
				if life := u.expires.Sub(u.at); !test.constant && (life <= 54*time.Hour-10*time.Minute || life > 55*time.Hour) {
					t.Errorf("at %s: a certificate for %s more", u.at.Format(time.DateTime), life)
				}
				edition := [2]uint64{u.period, u.revision}
				if known, ok := editions[edition]; ok && !known.Equal(u.expires) {
					t.Errorf("at %s: certificates until %s and %s in one edition", u.at.Format(time.DateTime), known, u.expires)
				}
				editions[edition] = u.expires
				if !slices.Contains(expiries[u.period], u.expires) {
					expiries[u.period] = append(expiries[u.period], u.expires)
				}
			}
			most := 0
			for _, list := range expiries {
				most = max(most, len(list))
			}
			if len(expiries) < days+1 || len(seen.list) < 100 || test.constant != (most == 1) || !test.constant && most < 20 {
				t.Errorf("%d uploads for %d periods, with at most %d certificates each", len(seen.list), len(expiries), most)
			}
		})
	}
}
