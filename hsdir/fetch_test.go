package hsdir

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
)

// fetchScene is a service, a network, and what the HSDirs do.
type fetchScene struct {
	tor     *fakeTor
	c       *Consensus
	service *testService
	keys    descriptor.PeriodKeys
	cfg     FetchConfig
	now     time.Time
	hsdirs  [][]ResponsibleHSDir // per replica, those that are asked first in front
}

func newFetchScene(t *testing.T) *fetchScene {
	s := &fetchScene{tor: &fakeTor{otherwise: fails(reasonError("NOT_FOUND"))}, now: publicNoon.Add(time.Minute)}
	s.c = randomNetwork(200, 21, publicNoon).parse(t, false)
	s.service = newTestService(t, 1)
	s.keys = s.service.keys(t, s.c.CurrentPeriod())
	s.cfg = FetchConfig{Getter: s.tor, Shuffle: func(int, func(int, int)) {}}
	s.hsdirs = s.c.Current().Store(s.keys.Blinded)
	return s
}

func (s *fetchScene) good(t *testing.T, revision uint64) behaviour {
	return sends(s.service.encode(t, s.keys.Period, revision))
}

func (s *fetchScene) set(replica, position int, b behaviour) {
	s.tor.set(s.hsdirs[replica][position].Fingerprint, b)
}

// mostly has all HSDirs behave as in most, but for the first few of each replica.
func (s *fetchScene) mostly(most, others behaviour, few ...int) {
	s.tor.otherwise = most
	for replica, n := range few {
		for position := range n {
			s.set(replica, position, others)
		}
	}
}

const notFound = reasonError("NOT_FOUND")

func (s *fetchScene) fetch(floor uint64, client *descriptor.ClientKey) (FetchResult, error) {
	return NewFetcher(s.cfg).Fetch(context.Background(), s.c, s.keys, client, floor, s.now)
}

func TestFetch(t *testing.T) {
	other := newTestService(t, 2)
	clientKey := testClientKey(t, 7)
	refused := reasonError("QUERY_REJECTED")
	for _, test := range []struct {
		name     string
		set      func(t *testing.T, s *fetchScene)
		floor    uint64
		client   *descriptor.ClientKey
		revision uint64 // of the descriptor; 0 for none
		err      error
		outcomes string // of the HSDirs that were asked, by name
		took     time.Duration
	}{
		{name: "both replicas answer", revision: 5, outcomes: "answered,answered",
			set: func(t *testing.T, s *fetchScene) { s.tor.otherwise = s.good(t, 5) }},
		{name: "the freshest is kept", revision: 6, outcomes: "answered,answered",
			set: func(t *testing.T, s *fetchScene) { s.set(0, 0, s.good(t, 5)); s.set(1, 0, s.good(t, 6)) }},
		{name: "the next of the replica is asked", revision: 5, outcomes: "answered,answered,not found,refused",
			set: func(t *testing.T, s *fetchScene) {
				s.set(0, 0, fails(refused))
				s.set(0, 1, s.good(t, 5))
				s.set(1, 1, s.good(t, 5))
			}},
		{name: "the fourth is asked last", revision: 5, outcomes: "answered,answered,not found,not found,not found",
			set: func(t *testing.T, s *fetchScene) { s.set(0, 3, s.good(t, 5)); s.set(1, 0, s.good(t, 5)) }},
		{name: "silence", revision: 5, outcomes: "answered,answered,no answer,no answer", took: 14 * time.Second,
			set: func(t *testing.T, s *fetchScene) {
				s.tor.otherwise = s.good(t, 5)
				s.set(0, 0, silent)
				s.set(1, 0, silent)
			}},
		{name: "a second opinion is not waited for long", revision: 5, outcomes: "abandoned,answered", took: 5 * time.Second,
			set: func(t *testing.T, s *fetchScene) { s.tor.otherwise = s.good(t, 5); s.set(1, 0, silent) }},
		{name: "slow answers count", revision: 9, outcomes: "answered,answered", took: 4 * time.Second,
			set: func(t *testing.T, s *fetchScene) {
				s.set(0, 0, s.good(t, 5))
				s.set(1, 0, slowly(4*time.Second, s.good(t, 9)))
			}},
		{name: "unknown everywhere", err: ErrNotFound, outcomes: strings.TrimSuffix(strings.Repeat("not found,", 8), ","),
			set: func(*testing.T, *fetchScene) {}},
		{name: "one replica's word is not enough", err: ErrNoAnswer, took: 56 * time.Second,
			outcomes: "no answer,no answer,no answer,no answer,not found,not found,not found,not found",
			set: func(_ *testing.T, s *fetchScene) {
				for i := range 4 {
					s.set(1, i, silent)
				}
			}},
		{name: "the word of one HSDir of each replica is not enough", err: ErrNoAnswer, took: 42 * time.Second,
			outcomes: "no answer,no answer,no answer,no answer,no answer,no answer,not found,not found",
			set:      func(_ *testing.T, s *fetchScene) { s.mostly(silent, fails(notFound), 1, 1) }},
		{name: "nor that of half of them", err: ErrNoAnswer, took: 28 * time.Second,
			outcomes: "no answer,no answer,no answer,no answer,not found,not found,not found,not found",
			set:      func(_ *testing.T, s *fetchScene) { s.mostly(silent, fails(notFound), 2, 2) }},
		{name: "nor that of half of one", err: ErrNoAnswer, took: 28 * time.Second,
			outcomes: "no answer,no answer,no answer,not found,not found,not found,not found,not found",
			set:      func(_ *testing.T, s *fetchScene) { s.mostly(silent, fails(notFound), 2, 3) }},
		{name: "that of more than half is", err: ErrNotFound, took: 14 * time.Second,
			outcomes: "no answer,no answer,not found,not found,not found,not found,not found,not found",
			set:      func(_ *testing.T, s *fetchScene) { s.mostly(silent, fails(notFound), 3, 3) }},
		{name: "a few liars among the silent", err: ErrNoAnswer, took: 28 * time.Second,
			outcomes: "invalid,invalid,invalid,invalid,no answer,no answer,no answer,no answer",
			set:      func(_ *testing.T, s *fetchScene) { s.mostly(silent, sends([]byte("lies")), 2, 2) }},
		{name: "half of them lie", err: ErrInvalid,
			outcomes: "invalid,invalid,invalid,invalid,not found,not found,not found,not found",
			set:      func(_ *testing.T, s *fetchScene) { s.mostly(fails(notFound), sends([]byte("lies")), 2, 2) }},
		{name: "nobody answers", err: ErrNoAnswer, took: 56 * time.Second,
			outcomes: strings.TrimSuffix(strings.Repeat("no answer,", 8), ","),
			set:      func(_ *testing.T, s *fetchScene) { s.tor.otherwise = silent }},
		{name: "all refuse", err: ErrNoAnswer, outcomes: strings.TrimSuffix(strings.Repeat("refused,", 8), ","),
			set: func(_ *testing.T, s *fetchScene) { s.tor.otherwise = fails(refused) }},
		{name: "not connected", err: ErrNoAnswer, outcomes: strings.TrimSuffix(strings.Repeat("no answer,", 8), ","),
			set: func(_ *testing.T, s *fetchScene) { s.tor.otherwise = fails(errors.New("no connection")) }},
		{name: "another service's descriptor", err: ErrInvalid, outcomes: strings.TrimSuffix(strings.Repeat("invalid,", 8), ","),
			set: func(t *testing.T, s *fetchScene) { s.tor.otherwise = sends(other.encode(t, s.keys.Period, 5)) }},
		{name: "tor finds it bad", err: ErrInvalid, outcomes: strings.TrimSuffix(strings.Repeat("invalid,", 8), ","),
			set: func(_ *testing.T, s *fetchScene) { s.tor.otherwise = fails(reasonError("BAD_DESC")) }},
		{name: "one liar", revision: 5, outcomes: "answered,answered,invalid",
			set: func(t *testing.T, s *fetchScene) {
				s.tor.otherwise = s.good(t, 5)
				s.set(0, 0, sends([]byte("hs-descriptor 3\nlies\n")))
			}},
		{name: "one forger where nobody else has anything", err: ErrNotFound,
			outcomes: "invalid,not found,not found,not found,not found,not found,not found,not found",
			set:      func(_ *testing.T, s *fetchScene) { s.set(0, 0, sends(nil)) }},
		{name: "another period's descriptor", err: ErrInvalid, outcomes: strings.TrimSuffix(strings.Repeat("invalid,", 8), ","),
			set: func(t *testing.T, s *fetchScene) {
				s.tor.otherwise = sends(s.service.encode(t, s.keys.Period.Previous(), 5))
			}},
		{name: "expired", err: ErrInvalid, outcomes: strings.TrimSuffix(strings.Repeat("invalid,", 8), ","),
			set: func(t *testing.T, s *fetchScene) { s.tor.otherwise = s.good(t, 5); s.now = s.now.Add(60 * time.Hour) }},
		{name: "the floor itself is no replay", floor: 5, revision: 5, outcomes: "answered,answered",
			set: func(t *testing.T, s *fetchScene) { s.tor.otherwise = s.good(t, 5) }},
		{name: "one replays", floor: 5, revision: 6, outcomes: "answered,answered,replayed",
			set: func(t *testing.T, s *fetchScene) { s.tor.otherwise = s.good(t, 6); s.set(0, 0, s.good(t, 4)) }},
		{name: "all replay", floor: 5, err: ErrReplayed, outcomes: strings.TrimSuffix(strings.Repeat("replayed,", 8), ","),
			set: func(t *testing.T, s *fetchScene) { s.tor.otherwise = s.good(t, 4) }},
		{name: "needs a client key", err: descriptor.ErrClientKey, outcomes: strings.TrimSuffix(strings.Repeat("needs client key,", 8), ","),
			set: func(t *testing.T, s *fetchScene) {
				s.tor.otherwise = sends(s.service.encode(t, s.keys.Period, 5, clientKey.Client()))
			}},
		{name: "has the client key", client: clientKey, revision: 5, outcomes: "answered,answered",
			set: func(t *testing.T, s *fetchScene) {
				s.tor.otherwise = sends(s.service.encode(t, s.keys.Period, 5, clientKey.Client()))
			}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newFetchScene(t)
			test.set(t, s)
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				got, err := s.fetch(test.floor, test.client)
				if took := time.Since(began); took != test.took {
					t.Errorf("took %v, want %v", took, test.took)
				}
				if !errors.Is(err, test.err) || (err == nil) != (test.revision != 0) {
					t.Fatalf("error %v, want %v", err, test.err)
				}
				if err == nil && got.Descriptor.RevisionCounter != test.revision {
					t.Errorf("revision %d, want %d", got.Descriptor.RevisionCounter, test.revision)
				}
				asked := got.HSDirs
				for len(asked) > 0 && asked[len(asked)-1].Outcome == NotAsked {
					asked = asked[:len(asked)-1]
				}
				if names(asked) != test.outcomes || len(got.HSDirs) != 8 {
					t.Errorf("outcomes of %d HSDirs %s, want %s", len(got.HSDirs), names(asked), test.outcomes)
				}
				checkFetched(t, s, got)
			})
		})
	}
}

// checkFetched holds for the result of every fetch.
func checkFetched(t *testing.T, s *fetchScene, got FetchResult) {
	t.Helper()
	for _, a := range got.HSDirs {
		if (a.Err == nil) != (a.Outcome == Answered || a.Outcome == NotAsked) {
			t.Errorf("%s with error %v", a.Outcome, a.Err)
		}
	}
	for hsdir, n := range s.tor.count() {
		if n > 1 {
			t.Errorf("HSDir %s was asked %d times", hsdir, n)
		}
	}
	if got.Descriptor == nil {
		return
	}
	d, err := new(descriptor.Decoder).Decode(got.Raw, s.keys, testClientKey(t, 7), s.now)
	if err != nil || d.RevisionCounter != got.Descriptor.RevisionCounter {
		t.Errorf("the bytes are not the descriptor's: %v", err)
	}
}

func TestFetchRefusesOtherPeriods(t *testing.T) {
	s := newFetchScene(t)
	s.keys = s.service.keys(t, s.keys.Period.Next())
	if _, err := s.fetch(0, nil); err == nil || !strings.Contains(err.Error(), "clients fetch for") || len(s.tor.calls) > 0 {
		t.Errorf("error %v after %d calls", err, len(s.tor.calls))
	}
}

// AskOuter asks the one HSDir alone, and returns what it has, whatever that is.
func TestAskOuter(t *testing.T) {
	s := newFetchScene(t)
	other := newTestService(t, 2)
	s.tor.otherwise = s.good(t, 5)
	for _, test := range []struct {
		behaviour behaviour
		replica   int
		position  int
		outcome   Outcome
		revision  uint64
		err       error
	}{
		{s.good(t, 5), 0, 0, Answered, 5, nil},
		{s.good(t, 3), 1, 2, Answered, 3, nil},
		{s.good(t, 4), 1, 3, Answered, 4, nil}, // of the reserve
		{fails(notFound), 0, 1, NotFound, 0, ErrNotFound},
		{sends(other.encode(t, s.keys.Period, 9)), 0, 1, Invalid, 0, ErrInvalid},
		{fails(reasonError("QUERY_REJECTED")), 0, 1, Refused, 0, ErrNoAnswer},
	} {
		s.set(test.replica, test.position, test.behaviour)
		at := s.hsdirs[test.replica][test.position].Fingerprint
		before := len(s.tor.seen())
		got, err := NewFetcher(s.cfg).AskOuter(t.Context(), s.c, s.keys, at, s.now)
		if !errors.Is(err, test.err) || len(got.HSDirs) != 1 {
			t.Fatalf("%v, want %v, of %d HSDirs", err, test.err, len(got.HSDirs))
		}
		asked := got.HSDirs[0]
		if asked.HSDir.Fingerprint != at || asked.Outcome != test.outcome || asked.Revision != test.revision || (got.Descriptor != nil) != (err == nil) {
			t.Errorf("%+v, want %s with revision %d", asked, test.outcome, test.revision)
		}
		if n := len(s.tor.seen()) - before; n != 1 {
			t.Errorf("%d HSDirs were asked", n)
		}
	}
	if _, err := NewFetcher(s.cfg).AskOuter(t.Context(), s.c, s.keys, [20]byte{1}, s.now); !errors.Is(err, ErrNotResponsible) {
		t.Errorf("an HSDir that is not responsible: %v", err)
	}
}

func TestFetchWithoutHSDirs(t *testing.T) {
	s := newFetchScene(t)
	consensus, _ := randomNetwork(5, 21, publicNoon).documents()
	c, err := new(Parser).Parse(consensus, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	s.c = c
	if _, err := s.fetch(0, nil); !errors.Is(err, ErrNoHSDirs) {
		t.Errorf("error %v, want ErrNoHSDirs", err)
	}
}

// TestFetchInOneHSDir has a ring of one relay, which has all to say.
func TestFetchInOneHSDir(t *testing.T) {
	s := newFetchScene(t)
	s.c = randomNetwork(1, 22, publicNoon).parse(t, false)
	if _, err := s.fetch(0, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("error %v, want ErrNotFound", err)
	}
	s.tor.otherwise = s.good(t, 5)
	if got, err := s.fetch(0, nil); err != nil || got.Descriptor.RevisionCounter != 5 {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestFetchManyReplicas(t *testing.T) {
	s := newFetchScene(t)
	net := randomNetwork(200, 21, publicNoon)
	net.Params = []string{"hsdir_n_replicas=3", "hsdir_spread_fetch=2", "hsdir_spread_store=2"}
	s.c = net.parse(t, false)
	s.hsdirs = s.c.Current().Store(s.keys.Blinded)
	s.set(2, 1, s.good(t, 5)) // known to the last HSDir of all
	got, err := s.fetch(0, nil)
	if err != nil || names(got.HSDirs) != "answered,not found,not found,not found,not found,not found" {
		t.Errorf("%s, %v", names(got.HSDirs), err)
	}
}

func TestFetchEndsWithItsContext(t *testing.T) {
	s := newFetchScene(t)
	s.tor.otherwise = silent
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		began := time.Now()
		_, err := NewFetcher(s.cfg).Fetch(ctx, s.c, s.keys, nil, 0, s.now)
		if !errors.Is(err, ErrNoAnswer) || !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// fetchMany starts fetches at once, and returns their errors.
func (s *fetchScene) fetchMany(fetches int) (errs []error) {
	f := NewFetcher(s.cfg)
	ended := make(chan error)
	for range fetches {
		go func() {
			_, err := f.Fetch(context.Background(), s.c, s.keys, nil, 0, s.now)
			ended <- err
		}()
	}
	for range fetches {
		if err := <-ended; err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// TestFetchesShareTheirPlaces starts many fetches under a small bound.
func TestFetchesShareTheirPlaces(t *testing.T) {
	for _, configured := range []int{1, 2, 3, 6} {
		s := newFetchScene(t)
		good := s.good(t, 5)
		s.cfg.InFlight = configured
		synctest.Test(t, func(t *testing.T) {
			s.tor.otherwise = slowly(time.Second, good)
			if errs := s.fetchMany(20); errs != nil {
				t.Error(errs)
			}
			// A fetch has two places, or none.
			if got, least := s.tor.atMost(), max(2, configured/2*2); got < least || got > max(2, configured) {
				t.Errorf("%d in flight, want %d at least, and no more than %d", got, least, configured)
			}
		})
	}
}

// The clock of a fetch starts when it has its places, however long it waited for
// them, and stops it then.
func TestFetchClock(t *testing.T) {
	s := newFetchScene(t)
	good := s.good(t, 5)
	synctest.Test(t, func(t *testing.T) {
		s.tor.otherwise = slowly(3*time.Second, good)
		if errs := s.fetchMany(1000); errs != nil {
			t.Errorf("%d of 1000 fetches at once failed: %v", len(errs), errs[0])
		}
	})
	s = newFetchScene(t)
	s.cfg.Patience, s.cfg.Total = time.Minute, 90*time.Second
	synctest.Test(t, func(t *testing.T) {
		s.tor.otherwise = silent
		began := time.Now()
		errs := s.fetchMany(80) // eight at a time
		if took := time.Since(began); len(errs) != 80 || took != 10*s.cfg.Total {
			t.Errorf("%d fetches failed after %v, want all after ten times %v", len(errs), took, s.cfg.Total)
		}
	})
}

// A fetch that waits for its places ends with its context.
func TestFetchEndsWhileItWaits(t *testing.T) {
	s := newFetchScene(t)
	s.cfg.InFlight = 2
	synctest.Test(t, func(t *testing.T) {
		s.tor.otherwise = silent
		f := NewFetcher(s.cfg)
		go func() { _, _ = f.Fetch(t.Context(), s.c, s.keys, nil, 0, s.now) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		got, err := f.Fetch(ctx, s.c, s.keys, nil, 0, s.now)
		if !errors.Is(err, ErrNoAnswer) || !errors.Is(err, context.DeadlineExceeded) || len(s.tor.seen()) != 2 || len(got.HSDirs) != 8 {
			t.Errorf("%v with %d HSDirs listed, after %d calls", err, len(got.HSDirs), len(s.tor.seen()))
		}
		time.Sleep(time.Minute)
	})
}

// What is too large to be a descriptor is the consensus's to say.
func TestFetchFollowsMaxDescriptorSize(t *testing.T) {
	s := newFetchScene(t)
	clients := []descriptor.AuthorizedClient{testClientKey(t, 1).Client()}
	for i := range 600 {
		c := clients[0]
		c.PublicKey[0], c.PublicKey[1] = byte(i), byte(1+i>>8)
		clients = append(clients, c)
	}
	raw := s.service.encode(t, s.keys.Period, 5, clients...)
	if len(raw) < descriptor.MaxSize {
		t.Fatalf("%d bytes: not too large by default", len(raw))
	}
	s.tor.otherwise = sends(raw)
	f := NewFetcher(s.cfg)
	for _, size := range []int{descriptor.MaxSize, len(raw), len(raw) + 1, 1000, 1 << 20} {
		net := randomNetwork(200, 21, publicNoon)
		net.Params = []string{fmt.Sprintf("HSV3MaxDescriptorSize=%d", size)}
		_, err := f.Fetch(t.Context(), net.parse(t, false), s.keys, testClientKey(t, 1), 0, s.now)
		if fits := len(raw) < size; fits != (err == nil) || !fits && !(errors.Is(err, ErrInvalid) && errors.Is(err, descriptor.ErrTooLarge)) {
			t.Errorf("%d bytes, limit %d: %v", len(raw), size, err)
		}
	}
}

func TestOutcomesHaveNames(t *testing.T) {
	for o := NotAsked; o <= Abandoned; o++ {
		if text := o.String(); text == "" || strings.HasPrefix(text, "outcome") {
			t.Errorf("outcome %d: %q", uint8(o), text)
		}
	}
	if got := Outcome(99).String(); got != "outcome 99" {
		t.Errorf("unknown outcome: %q", got)
	}
}
