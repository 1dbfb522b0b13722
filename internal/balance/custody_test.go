package balance

import (
	"context"
	"crypto/ed25519"
	"strings"
	"sync"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/status"
	"onionbalancer/testnet/sim"
)

// withToken has the service's keys signed by a token from the start.
func (s *scene) withToken(takes time.Duration) *tokenKeys {
	s.stop()
	keys := &tokenKeys{takes: takes}
	s.signing = keys
	s.start()
	return keys
}

// second starts another service beside, with keys in memory, and returns it and
// how to stop it.
func (s *scene) second() (*Service, func()) {
	cfg := s.config()
	cfg.Keys = credential.Keys{Custodian: &memoryCustodian{key: testIdentity(s.t, 78)}, Signing: credential.Memory{}}
	service := NewService(cfg, s.env)
	ctx, cancel := context.WithCancel(s.t.Context())
	var wait sync.WaitGroup
	wait.Go(func() { service.Run(ctx) })
	return service, func() { cancel(); wait.Wait() }
}

func confirmed(s status.Service) (n int) {
	for _, d := range s.Descriptors {
		n += d.Confirmed
	}
	return n
}

func warned(s status.Service, text string) bool {
	return strings.Contains(strings.Join(s.Warnings, "\n"), text)
}

// Signatures of 30 ms: everything is published within seconds, and each upload
// costs one of them; an introduction point two, in each hour in which something
// is published.
func TestSlowToken(t *testing.T) {
	t.Parallel()
	onScene(t, sim.Config{Seed: 30}, func(t *testing.T, s *scene) {
		keys := s.withToken(30 * time.Millisecond)
		s.fetchEvery(10 * time.Minute)
		before := s.net.Tor().Counts().Posts
		s.settle(10 * time.Second)
		got := s.want("after 10 s", status.StateOK)
		points := 0
		for _, d := range got.Descriptors {
			points += d.Points
		}
		made, signs, _ := keys.counts()
		posts := s.net.Tor().Counts().Posts - before
		if confirmed(got) != 16 || made != 2 || posts != 16 || signs != posts+2*points {
			t.Errorf("%d slots, %d keys made, %d signatures for %d uploads and %d introduction points", confirmed(got), made, signs, posts, points)
		}
		// What is made again after an hour or two, although nothing changed, has
		// certificates of that hour.
		for _, i := range s.instances {
			i.SetOnline(false)
		}
		s.settle(2*time.Hour + 5*time.Minute)
		_, later, _ := keys.counts()
		n := s.net.Tor().Counts().Posts - before - posts
		if most := n + n/8*points; n < 16 || later-signs <= n || later-signs > most {
			t.Errorf("%d signatures for %d uploads while nothing changes, want at most %d", later-signs, n, most)
		}
	})
}

// A token that hangs holds up nothing but its own service: another one is
// published at once, and follows its instances; and the hung one's end is bounded.
func TestHungToken(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"from the start", "later"} {
		onScene(t, sim.Config{Seed: 31}, func(t *testing.T, s *scene) {
			s.stop()
			keys := &tokenKeys{}
			release := func() {}
			if what == "from the start" {
				release = keys.hang()
			}
			s.signing = keys
			s.start()
			s.settle(time.Minute)
			if what == "later" {
				release = keys.hang()
			}
			service, stop := s.second()
			s.settle(10 * time.Second)
			if got := service.Status(); got.State != status.StateOK || confirmed(got) != 16 {
				t.Errorf("%s: beside a hung token a service is %s, %d slots", what, got.State, confirmed(got))
			}
			s.instances[0].ReplacePoints()
			s.settle(3 * time.Minute)
			if got := service.Status(); confirmed(got) != 16 || time.Since(got.Descriptors[0].Built) > 4*time.Minute || got.Descriptors[0].Reason != string(ReasonChanged) {
				t.Errorf("%s: it does not follow its instances: %+v", what, got.Descriptors)
			}
			if got := s.service.Status(); len(got.Warnings) == 0 || got.State == status.StateOK {
				t.Errorf("%s: the service itself is %s, warnings %q", what, got.State, got.Warnings)
			}
			stop()
			began := time.Now()
			s.stop()
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("%s: stopping took %v", what, took)
			}
			if _, _, closed := keys.counts(); closed != 1 {
				t.Errorf("%s: closed %d times", what, closed)
			}
			release()
			s.start() // for the scene to stop
		})
	}
}

// A token that is gone for an hour: what is published stays, the status says what is
// wrong, and within a minute of its return all is well: half of it at most to the
// next try, which comes at random, and some seconds for the uploads.
func TestTokenReturns(t *testing.T) {
	t.Parallel()
	onScene(t, sim.Config{Seed: 32}, func(t *testing.T, s *scene) {
		keys := s.withToken(0)
		s.fetchEvery(10 * time.Minute)
		s.settle(time.Minute)
		keys.fail(gone{})
		s.instances[0].ReplacePoints()
		s.settle(time.Hour)
		got := s.want("without the token", status.StateDegraded)
		if !warned(got, "signing the descriptor of period") || !warned(got, gone{}.Error()) {
			t.Errorf("warnings: %q", got.Warnings)
		}
		s.reach("without the token", 20) // by the points that are still good
		s.settle(2*time.Hour + time.Minute)
		s.want("when HSDirs drop what was published", status.StateFailed)
		keys.fail(nil)
		s.confirms("with the token back", 16)
		s.want("with the token back", status.StateOK)
		if made, _, _ := keys.counts(); made != 2 {
			t.Errorf("%d signing keys made, want one for each period", made)
		}
	})
}

// Keys that are gone for good are replaced by new ones.
func TestTokenLosesKeys(t *testing.T) {
	onScene(t, sim.Config{Seed: 33}, func(t *testing.T, s *scene) {
		keys := s.withToken(0)
		s.settle(time.Minute)
		keys.lose()
		s.instances[0].ReplacePoints()
		s.settle(5 * time.Minute)
		got := s.want("with new keys", status.StateOK)
		if made, _, _ := keys.counts(); confirmed(got) != 16 || made != 4 {
			t.Errorf("%d slots, %d keys made; %+v", confirmed(got), made, got.Descriptors)
		}
		s.reach("with new keys", 20)
	})
}

// A token that may be put back is asked again within half a minute, a custodian
// that needs somebody's hands every few minutes.
func TestPaceOfCertifying(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err         error
		least, most int // tries in an hour, for two periods
	}{
		{gone{}, 220, 400},
		{errTokenGone, 24, 60},
	} {
		onScene(t, sim.Config{Seed: 34, Relays: 60}, func(t *testing.T, s *scene) {
			s.stop()
			s.custodian.fail(test.err)
			s.start()
			s.fetchEvery(10 * time.Minute)
			s.settle(time.Hour)
			got := s.want(test.err.Error(), status.StateFailed)
			if asked, _ := s.custodian.counts(); asked < test.least || asked > test.most || !warned(got, test.err.Error()) {
				t.Errorf("%v: asked %d times in an hour; warnings %q", test.err, asked, got.Warnings)
			}
			s.custodian.fail(nil)
			s.settle(6 * time.Minute)
			s.want("when it can", status.StateOK)
		})
	}
}

// brief is a custodian whose certificates, one for all hours, last for five hours.
type brief struct {
	*memoryCustodian
	now func() time.Time
}

func (b *brief) Certify(ctx context.Context, p descriptor.Period, signing ed25519.PublicKey, _ descriptor.Expiries) (descriptor.HourlyCertificates, error) {
	return b.memoryCustodian.Certify(ctx, p, signing, descriptor.Expiries{First: b.now().Add(5 * time.Hour), Count: 1})
}

// What waits to be uploaded is not when its certificate has ended meanwhile.
func TestCertificateEndsWhileUploadsWait(t *testing.T) {
	t.Parallel()
	onScene(t, sim.Config{Seed: 37, Relays: 60}, func(t *testing.T, s *scene) {
		s.stop()
		keys := &tokenKeys{}
		s.keeper, s.signing = &brief{s.custodian, s.now}, keys
		s.start()
		s.settle(time.Minute)
		got := s.want("at first", status.StateOK)
		keys.fail(gone{})
		s.custodian.fail(errTokenGone)
		s.instances[0].ReplacePoints()
		s.settle(5 * time.Minute)
		s.fetchEvery(20 * time.Minute)
		s.settle(6 * time.Hour)
		ended := s.want("after the certificates' end", status.StateFailed)
		if until := ended.Custody.CertifiedUntil; !until.Equal(got.Custody.CertifiedUntil) || until.After(s.now()) {
			t.Errorf("certified until %v", until)
		}
		keys.fail(nil)
		_, before, _ := keys.counts()
		s.settle(4 * time.Minute)
		if _, signs, _ := keys.counts(); signs != before {
			t.Errorf("%d signatures for descriptors whose certificates have ended", signs-before)
		}
		s.custodian.fail(nil)
		s.settle(6 * time.Minute)
		if got := s.want("with new certificates", status.StateOK); confirmed(got) != 16 {
			t.Errorf("%d slots", confirmed(got))
		}
	})
}

// Signing keys are retired at the start and whenever a period has ended, never
// those in use.
func TestRetires(t *testing.T) {
	t.Parallel()
	onScene(t, sim.Config{Seed: 35, Relays: 60, Params: fewSlots}, func(t *testing.T, s *scene) {
		s.stop()
		keys := &tokenKeys{}
		s.signing = keys
		s.start()
		s.fetchEvery(time.Hour)
		s.settle(time.Minute)
		keys.mu.Lock()
		first := len(keys.retired)
		keys.mu.Unlock()
		if first != 1 {
			t.Errorf("retired %d times at the start", first)
		}
		s.settle(2*24*time.Hour + 2*time.Hour)
		s.want("after two days", status.StateOK)
		keys.mu.Lock()
		defer keys.mu.Unlock()
		if n := len(keys.retired); n != 3 {
			t.Errorf("retired %d times in two days and at the start, want 3", n)
		}
		last := keys.retired[len(keys.retired)-1]
		if len(keys.keys) != 2 || keys.keys[last[0]] == nil || keys.keys[last[1]] == nil || keys.made != 4 {
			t.Errorf("%d keys left of %d that were made; in use are %v", len(keys.keys), keys.made, last)
		}
	})
}
