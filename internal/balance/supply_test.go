package balance

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/status"
	"onionbalancer/testnet/sim"
)

// bundle is a custodian that certifies for the periods up to last alone.
type bundle struct {
	*memoryCustodian
	mu      sync.Mutex
	last    descriptor.Period
	horizon int
}

// fewSlots is for tests of many days to take less time.
var fewSlots = map[string]int32{"hsdir_spread_store": 2, "hsdir_spread_fetch": 2}

var errEnded = errors.New("nothing was certified for it")

func (b *bundle) install(last descriptor.Period, horizon int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last, b.horizon = last, horizon
}

func (b *bundle) Supply(from descriptor.Period) (descriptor.Period, int, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last, b.horizon, from.Number <= b.last.Number
}

func (b *bundle) Certify(ctx context.Context, p descriptor.Period, signing ed25519.PublicKey, _ descriptor.Expiries) (descriptor.HourlyCertificates, error) {
	if _, _, ok := b.Supply(p); !ok {
		return descriptor.HourlyCertificates{}, errEnded
	}
	expires := p.LastUse(descriptor.DefaultRotationOffset).Add(6 * time.Hour)
	return b.memoryCustodian.Certify(ctx, p, signing, descriptor.Expiries{First: expires, Count: 1})
}

func (b *bundle) RevisionKey(ctx context.Context, p descriptor.Period) (descriptor.RevisionKey, error) {
	if _, _, ok := b.Supply(p); !ok {
		return descriptor.RevisionKey{}, errEnded
	}
	return b.memoryCustodian.RevisionKey(ctx, p)
}

// records collects what is logged in one of the words.
type records struct {
	slog.Handler
	mu   *sync.Mutex
	list *[]string
	of   []string
}

func (r records) WithAttrs([]slog.Attr) slog.Handler { return r }

func (r records) Enabled(context.Context, slog.Level) bool { return true }

func (r records) Handle(_ context.Context, record slog.Record) error {
	if slices.ContainsFunc(r.of, func(words string) bool { return strings.Contains(record.Message, words) }) {
		r.mu.Lock()
		defer r.mu.Unlock()
		*r.list = append(*r.list, fmt.Sprintf("%s %s", record.Level, record.Message))
	}
	return nil
}

// A bundle runs out: warnings long before, every day and oftener towards the
// end; after it, what is published stays and the status says so; and all is
// well as soon as there is a new one.
func TestBundleRunsOut(t *testing.T) {
	t.Parallel()
	if !soaking() {
		t.Skip("two weeks: make soak")
	}
	onScene(t, sim.Config{Seed: 50, Relays: 60, Params: fewSlots}, func(t *testing.T, s *scene) {
		s.stop()
		log := records{mu: new(sync.Mutex), list: new([]string), of: []string{"certificates made offline", "no certificate for"}}
		s.handler = log
		// The clock of the simulation begins in period 10956, at 00:02.
		b := &bundle{memoryCustodian: s.custodian}
		period := func(n uint64) descriptor.Period { return descriptor.Period{Number: n, Length: 24 * time.Hour} }
		b.install(period(10965), 11)
		keys := &tokenKeys{}
		s.keeper, s.signing = b, keys
		s.start()
		s.fetchEvery(time.Hour)
		s.settle(2 * time.Hour)
		ahead := func(when string) (status.Service, *status.Ahead) {
			t.Helper()
			got := s.service.Status()
			if got.Custody.Ahead == nil {
				t.Fatalf("%s: %+v", when, got.Custody)
			}
			return got, got.Custody.Ahead
		}
		got, a := ahead("at first")
		s.want("at first", status.StateOK)
		dark := period(10966).Start(12 * time.Hour)
		if a.Periods != 10 || a.Horizon != 11 || !a.DarkAt.Equal(dark) || !a.RenewBy.Equal(dark.Add(-12*time.Hour)) ||
			a.Remaining < 9*86400 || a.Remaining > 10*86400 || got.Custody.CertifiedUntil.IsZero() {
			t.Errorf("at first: %+v, %+v", got.Custody, a)
		}
		s.settle(7 * 24 * time.Hour)
		if got = s.want("near the end", status.StateDegraded); !warned(got, "install new ones before") || warned(got, errEnded.Error()) {
			t.Errorf("near the end: %q", got.Warnings)
		}
		s.settle(time.Until(dark) - time.Hour)
		if got = s.want("in the last hour", status.StateDegraded); !warned(got, "none for the next period") || !warned(got, errEnded.Error()) {
			t.Errorf("in the last hour: %q", got.Warnings)
		}
		s.reach("in the last hour", 20)
		s.settle(4 * time.Hour)
		got, a = ahead("after the end")
		s.want("after the end", status.StateFailed)
		if !warned(got, "ended at") && !warned(got, "there is no certificate") || a.Remaining != 0 || !a.DarkAt.Equal(dark) || a.Periods != 0 {
			t.Errorf("after the end: %q, %+v", got.Warnings, a)
		}
		if d := got.Descriptors; len(d) != 1 || d[0].Confirmed != 4 || d[0].Period != 10965 {
			t.Errorf("what is published after the end: %+v", d)
		}
		s.settle(48 * time.Hour)
		got = s.want("long after the end", status.StateFailed)
		if len(got.Descriptors) != 0 {
			t.Errorf("long after the end: %+v", got.Descriptors)
		}
		if made, _, _ := keys.counts(); made != 10 {
			t.Errorf("%d signing keys made, want one for each of the periods 10956 to 10965", made)
		}
		b.install(period(10980), 15)
		s.settle(6 * time.Minute)
		got = s.want("with a new bundle", status.StateOK)
		if confirmed(got) != 8 {
			t.Errorf("%d slots", confirmed(got))
		}
		s.reach("with a new bundle", 20)
		log.check(t)
	})
}

// check looks at the rhythm of the log in TestBundleRunsOut.
func (r records) check(t *testing.T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	count := map[string]int{}
	for _, line := range *r.list {
		word, _, _ := strings.Cut(line, " ")
		count[word]++
	}
	// A third of eleven days is 3.7, a sixth 1.8; the end comes twice, seen by the
	// clock and then by the consensus or not; and then daily for two days.
	if count["INFO"] != 2 || count["WARN"] < 2 || count["WARN"] > 3 || count["ERROR"] < 7 || count["ERROR"] > 14 {
		t.Errorf("logged %v:\n%s", count, strings.Join(*r.list, "\n"))
	}
	if first, last := (*r.list)[0], (*r.list)[len(*r.list)-1]; !strings.HasPrefix(first, "INFO certificates made offline") || !strings.HasPrefix(last, "INFO") {
		t.Errorf("first %q, last %q", first, last)
	}
}

func testAddress(t testing.TB, n byte) descriptor.Address {
	t.Helper()
	return testIdentity(t, n).Address()
}

func testIdentity(t testing.TB, n byte) *descriptor.IdentityKey {
	t.Helper()
	seed := make([]byte, 32)
	seed[0] = n
	key, err := descriptor.IdentityKeyFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
