package hsdir

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var errNoToken = errors.New("the token is gone")

// slow makes pub as one whose signatures take time; hung never makes anything.
func slow(pub Publication, takes time.Duration) Publication {
	encode := pub.Encode
	pub.Slow = true
	pub.Encode = func(ctx context.Context) ([]byte, error) {
		select {
		case <-time.After(takes):
			return encode(ctx)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return pub
}

func hung(pub Publication) Publication { return slow(pub, 1000*time.Hour) }

// Signatures of 30 ms are made one by one, while the uploads run side by side;
// every upload has bytes of its own, also one that is tried again.
func TestSlowSigner(t *testing.T) {
	inScene(t, func(t *testing.T, s *publishScene) {
		s.tor.setAll(slowly(time.Second, accepts))
		s.tor.set(s.slots[2].HSDir, fails(errSilence))
		s.publish(slow(s.publication("d", s.slots...), 30*time.Millisecond))
		time.Sleep(8*30*time.Millisecond + time.Second)
		synctest.Wait()
		filled, most := 0, s.tor.atMost()
		for _, r := range s.reported() {
			if r.Err == nil {
				filled++
			}
		}
		if filled != 7 || most < 6 {
			t.Errorf("%d slots filled, %d uploads at a time; want 7, and nearly all at a time", filled, most)
		}
		time.Sleep(10*time.Minute + time.Second)
		synctest.Wait()
		bodies := map[string]bool{}
		for _, c := range s.tor.seen() {
			bodies[c.body] = true
		}
		if n := len(s.tor.seen()); len(bodies) != n || n < 9 {
			t.Errorf("%d different bodies in %d uploads", len(bodies), n)
		}
	})
}

// More services with a signer that hangs than there are places hold up nothing
// but themselves, and Close.
func TestHungSigners(t *testing.T) {
	inScene(t, func(t *testing.T, s *publishScene) {
		s.cfg.InFlight = 2
		for n := range byte(5) {
			pub := hung(s.publication("hung", s.slots...))
			pub.Address = newTestService(t, 10+n).identity.Address()
			s.publish(pub)
		}
		time.Sleep(5 * time.Minute)
		failed := 0
		for _, r := range s.reported() {
			if !r.Unmade || !errors.Is(r.Err, context.DeadlineExceeded) {
				t.Errorf("report %+v", r)
			}
			failed++
		}
		if failed < 10 {
			t.Errorf("%d reports of 5 services that cannot sign", failed)
		}
		began := time.Now()
		s.publish(s.publication("live", s.slots...))
		synctest.Wait()
		if n := len(s.reported()); n != 8 || time.Since(began) > 0 {
			t.Errorf("%d slots filled beside the hung after %v, want 8 at once", n, time.Since(began))
		}
		s.p.Close()
		if waited := time.Since(began); waited > 0 {
			t.Errorf("closing took %v", waited)
		}
	})
}

// A signer that fails is asked again for the whole address and not for every
// slot, at the latest after half a minute; when it is back, all slots are filled.
func TestSignerReturns(t *testing.T) {
	inScene(t, func(t *testing.T, s *publishScene) {
		var gone atomic.Bool
		var tries atomic.Int32
		gone.Store(true)
		pub := s.publication("d", s.slots...)
		encode := pub.Encode
		pub.Slow = true
		pub.Encode = func(ctx context.Context) ([]byte, error) {
			tries.Add(1)
			if gone.Load() {
				return nil, errNoToken
			}
			return encode(ctx)
		}
		s.publish(pub)
		time.Sleep(time.Hour)
		synctest.Wait()
		reports, asked := s.reported(), int(tries.Load())
		if last := reports[len(reports)-1]; !last.Unmade || last.Failures != asked || last.Retry > 30*time.Second || !errors.Is(last.Err, errNoToken) {
			t.Errorf("after %d tries: %+v", asked, last)
		}
		if asked < 100 || asked > 130 || len(s.tor.seen()) > 0 {
			t.Errorf("asked %d times in an hour, %d uploads", asked, len(s.tor.seen()))
		}
		gone.Store(false)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if n := len(s.reported()); n != 8 || s.p.Outstanding() != 0 {
			t.Errorf("%d slots filled when it is back, want 8", n)
		}
	})
}

// What is published anew, with another key, waits neither for the old key's
// answer nor for its next try.
func TestSlowSuperseded(t *testing.T) {
	for what, old := range map[string]func(Publication) Publication{
		"hung": hung,
		"gone": func(pub Publication) Publication {
			pub.Slow, pub.Encode = true, func(context.Context) ([]byte, error) { return nil, errNoToken }
			return pub
		},
	} {
		inScene(t, func(t *testing.T, s *publishScene) {
			s.publish(old(s.publication("old", s.slots...)))
			time.Sleep(45 * time.Second)
			began := time.Now()
			s.reported()
			s.publish(slow(s.publication("new", s.slots...), time.Millisecond))
			time.Sleep(8 * time.Millisecond)
			synctest.Wait()
			if n := len(s.reported()); n != 8 {
				t.Errorf("%s: %d slots filled after %v, want 8", what, n, time.Since(began))
			}
			s.p.Withdraw(s.addr)
			s.publish(old(s.publication("late", s.slots...)))
			s.p.Withdraw(s.addr)
			time.Sleep(time.Hour)
			for _, r := range s.reported() {
				if !errors.Is(r.Err, errNoToken) {
					t.Errorf("%s: a report after everything was withdrawn: %+v", what, r)
				}
			}
		})
	}
}
