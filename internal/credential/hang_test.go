package credential

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/event"
)

// slowKeys are a custodian and signing keys whose calls take as long as they are
// told to, whatever their contexts say, as foreign code does.
type slowKeys struct {
	identity *descriptor.IdentityKey
	signing  ed25519.PrivateKey

	mu      sync.Mutex
	takes   map[string]time.Duration // by call
	running []string
	overlap []string // calls that were made while another ran
	calls   map[string]int
}

func newSlowKeys(t *testing.T) *slowKeys {
	t.Helper()
	identity, err := descriptor.IdentityKeyFromSeed(append([]byte{1}, make([]byte, 31)...))
	if err != nil {
		t.Fatal(err)
	}
	return &slowKeys{identity: identity, signing: ed25519.NewKeyFromSeed(make([]byte, 32)), takes: map[string]time.Duration{}, calls: map[string]int{}}
}

func (k *slowKeys) call(name string) {
	k.mu.Lock()
	if len(k.running) > 0 && name != "close" { // what hangs is closed all the same
		k.overlap = append(k.overlap, name+" during "+strings.Join(k.running, ", "))
	}
	k.calls[name]++
	k.running = append(k.running, name)
	takes := k.takes[name]
	k.mu.Unlock()
	time.Sleep(takes)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.running = k.running[:len(k.running)-1]
}

func (k *slowKeys) set(name string, takes time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.takes[name] = takes
}

// counts returns how often a call was made, and fails if any two were at once.
func (k *slowKeys) counts(t *testing.T, name string) int {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.overlap) > 0 {
		t.Errorf("calls at once: %q", k.overlap)
	}
	return k.calls[name]
}

func (k *slowKeys) Address() descriptor.Address { return k.identity.Address() }

func (k *slowKeys) Certify(_ context.Context, p descriptor.Period, signing ed25519.PublicKey, expiries descriptor.Expiries) (descriptor.HourlyCertificates, error) {
	k.call("certify")
	blinded, err := k.identity.Blind(p)
	if err != nil {
		return descriptor.HourlyCertificates{}, err
	}
	return blinded.CertifyHours([32]byte(signing), expiries)
}

func (k *slowKeys) RevisionKey(_ context.Context, p descriptor.Period) (descriptor.RevisionKey, error) {
	blinded, err := k.identity.Blind(p)
	if err != nil {
		return descriptor.RevisionKey{}, err
	}
	return blinded.RevisionKey(), nil
}

func (k *slowKeys) SigningKey(context.Context, descriptor.Period) (crypto.Signer, error) {
	return k, nil
}
func (k *slowKeys) Public() crypto.PublicKey { return k.signing.Public() }

func (k *slowKeys) Sign(_ io.Reader, message []byte, o crypto.SignerOpts) ([]byte, error) {
	k.call("sign")
	return k.signing.Sign(nil, message, o)
}

func (k *slowKeys) Retire(context.Context, []descriptor.Period) error { k.call("retire"); return nil }
func (k *slowKeys) Close() error                                      { k.call("close"); return nil }

// desk is a Keeper of slow keys with the loop that it belongs to.
type desk struct {
	*Keeper
	mu    sync.Mutex // held as by the loop
	keys  *slowKeys
	needs [2]Need
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{keys: newSlowKeys(t)}
	for n := range d.needs {
		keys, err := d.keys.Address().Keys(descriptor.Period{Number: 20000 + uint64(n), Length: 24 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		d.needs[n] = Need{Keys: keys, MaxSize: 50000}
	}
	d.Keeper = New(Keys{Custodian: d.keys, Signing: d.keys}, Env{Record: func(event.Event) {}, Post: func(f func(time.Time)) {
		go func() { d.mu.Lock(); defer d.mu.Unlock(); f(time.Now()) }()
	}})
	return d
}

// turns has the loop ask for credentials every second for d, and fails if it ever
// has to wait.
func (d *desk) turns(t *testing.T, lasts time.Duration) {
	t.Helper()
	for range lasts / time.Second {
		began := time.Now()
		d.mu.Lock()
		d.Require(began, d.needs)
		d.Warnings(began)
		d.Forget(func(descriptor.Period) bool { return false }, nil)
		d.mu.Unlock()
		if took := time.Since(began); took > 0 {
			t.Fatalf("the loop waited for %s", took)
		}
		time.Sleep(time.Second)
		synctest.Wait()
	}
}

func (d *desk) usable() (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, need := range d.needs {
		if d.Usable(time.Now(), need.Keys.Period) != nil {
			n++
		}
	}
	return n
}

// A custodian that hangs holds up nothing: neither the loop nor another service's
// keys. It is said, and tried again when the call has returned.
func TestHangingCustodian(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, other := newDesk(t), newDesk(t)
		d.keys.set("certify", 10*time.Minute)
		d.turns(t, 20*time.Second)
		if w := strings.Join(d.Warnings(time.Now()), "\n"); !strings.Contains(w, "has not answered yet") {
			t.Errorf("after 20 s: %q", w)
		}
		other.turns(t, 2*time.Second)
		if n := other.usable(); n != 2 {
			t.Errorf("beside it, others have %d credentials", n)
		}
		for _, says := range []string{"the keys do not answer, for 1m0s", "an earlier call to the keys has not returned"} {
			d.turns(t, time.Minute)
			if w := strings.Join(d.Warnings(time.Now()), "\n"); !strings.Contains(w, says) {
				t.Errorf("after minutes: %q, want %q", w, says)
			}
		}
		if n := d.keys.counts(t, "certify"); n != 1 {
			t.Errorf("called %d times while the first call hangs", n)
		}
		d.keys.set("certify", time.Second)
		d.turns(t, 12*time.Minute)
		if n := d.usable(); n != 2 || len(d.Warnings(time.Now())) > 0 {
			t.Errorf("when it answers again: %d credentials, %q", n, d.Warnings(time.Now()))
		}
		d.Close()
		other.Close()
	})
}

// Whatever is asked at once, and however long each call takes, the keys get one call
// at a time.
func TestCallsTakeTurns(t *testing.T) {
	for _, takes := range []time.Duration{time.Second, certifyTimeout + callGrace + 30*time.Second} {
		synctest.Test(t, func(t *testing.T) {
			d := newDesk(t)
			d.turns(t, 5*time.Second)
			d.mu.Lock()
			made := d.Usable(time.Now(), d.needs[0].Keys.Period)
			d.mu.Unlock()
			for _, call := range []string{"certify", "retire", "sign"} {
				d.keys.set(call, takes)
			}
			var signing sync.WaitGroup
			for n := range 5 {
				d.needs = [2]Need{d.needs[1], d.needs[0]} // something to retire, and to certify
				d.mu.Lock()
				delete(d.credentials, d.needs[0].Keys.Period)
				d.mu.Unlock()
				for range 2 {
					signing.Go(func() {
						if _, err := made.Encode(t.Context(), &descriptor.Contents{}, uint64(n+1)); err != nil && takes < signTimeout {
							t.Error(err)
						}
					})
				}
				d.turns(t, 7*time.Second)
			}
			signing.Wait()
			d.turns(t, 10*time.Minute)
			certify, retire, sign := d.keys.counts(t, "certify"), d.keys.counts(t, "retire"), d.keys.counts(t, "sign")
			if certify+retire+sign < 6 || takes < signTimeout && min(certify, retire, sign) < 3 {
				t.Errorf("called %d, %d and %d times: the test shows nothing", certify, retire, sign)
			}
			d.Close()
			time.Sleep(time.Hour) // what was left behind
		})
	}
}

// The end waits for calls that hang, and for a Close that does, for seconds; it may
// come twice, and nothing is asked after it.
func TestCloseWhileCallsHang(t *testing.T) {
	for _, hangs := range []string{"nothing", "certify", "retire", "sign", "close"} {
		synctest.Test(t, func(t *testing.T) {
			d := newDesk(t)
			if hangs == "sign" {
				d.turns(t, time.Second)
			}
			d.keys.set(hangs, time.Hour)
			d.turns(t, 2*time.Second)
			made := d.Usable(time.Now(), d.needs[0].Keys.Period)
			signed := make(chan error, 1)
			if hangs == "sign" {
				go func() { _, err := made.Encode(t.Context(), &descriptor.Contents{}, 1); signed <- err }()
				synctest.Wait()
			}
			began := time.Now()
			d.Close()
			d.Close()
			if took := time.Since(began); took > 2*(callGrace+closeTimeout) || hangs == "nothing" && took > 0 {
				t.Errorf("%s hangs: closing twice took %s", hangs, took)
			}
			if hangs == "sign" {
				if err := <-signed; !errors.Is(err, errClosed) {
					t.Errorf("the signature that hangs: %v", err)
				}
			}
			for range 20 * min(1, d.usable()) { // chance decides what it sees first
				if _, err := made.Encode(t.Context(), &descriptor.Contents{}, 2); !errors.Is(err, errClosed) {
					t.Fatalf("%s hangs: after the end, signing gives %v", hangs, err)
				}
			}
			if n := d.keys.counts(t, "sign"); n > 1 || hangs == "nothing" && n > 0 {
				t.Errorf("%s hangs: %d signatures", hangs, n)
			}
			if n := d.keys.counts(t, "close"); n == 0 {
				t.Errorf("%s hangs: not closed", hangs)
			}
			time.Sleep(3 * time.Hour) // what was left behind
		})
	}
}
