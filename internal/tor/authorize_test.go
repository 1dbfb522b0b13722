package tor

import (
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/health"
	"onionbalancer/internal/tor/control"
)

// holds returns the client key that a fake tor has for an address.
func (f *fakeTor) holds(a descriptor.Address) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.keys[a.Label()]
}

// TestKeyFollowsItsAddress: a client key is at the tor that visits, and at no other.
func TestKeyFollowsItsAddress(t *testing.T) {
	key, err := descriptor.ParseClientKey([]byte(privateHalf))
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		fakes := []*fakeTor{{}, {}}
		p := run(t, control.Config{}, fakes...)
		time.Sleep(time.Second)
		address := addresses(1)[0]
		fakeOf := func() (serves, other *fakeTor) {
			if p.For(address) == p.tors[0] {
				return fakes[0], fakes[1]
			}
			return fakes[1], fakes[0]
		}
		visit := func() { // it fails for want of a SOCKS port
			_, trace, err := p.Dial(t.Context(), health.Visit{Address: address, Port: 80})
			if err == nil || trace.Stage != health.NoTor {
				t.Errorf("visit: %+v, %v", trace, err)
			}
		}
		first, second := fakeOf()
		visit()
		if first.holds(address) != "" {
			t.Error("a key without Authorize")
		}
		if err := p.Authorize(t.Context(), address, key); err != nil {
			t.Fatal(err)
		}
		given := first.holds(address)
		if given == "" || second.holds(address) != "" {
			t.Errorf("given %q and %q", given, second.holds(address))
		}
		// The address moves when its tor is down for a while.
		first.setDown(true)
		time.Sleep(2 * time.Minute)
		if now, _ := fakeOf(); now != second {
			t.Fatal("the address did not move")
		}
		visit()
		if second.holds(address) != given {
			t.Errorf("the other tor has %q", second.holds(address))
		}
		if err := p.Revoke(t.Context(), address); err == nil {
			t.Error("a tor that cannot be reached has the key, and nobody says so")
		}
		if second.holds(address) != "" {
			t.Error("revoked, and still there")
		}
		if err := p.Authorize(t.Context(), address, key); err != nil {
			t.Fatal(err)
		}
		// It returns, with the key, and takes the address back.
		first.setDown(false)
		time.Sleep(10 * time.Minute)
		visit()
		if first.holds(address) != given || second.holds(address) != "" {
			t.Errorf("back: %q and %q", first.holds(address), second.holds(address))
		}
		// A tor that was restarted has no key.
		first.setDown(true)
		first.mu.Lock()
		clear(first.keys)
		first.mu.Unlock()
		first.setDown(false)
		time.Sleep(10 * time.Second)
		visit()
		if first.holds(address) != given {
			t.Errorf("after a restart: %q", first.holds(address))
		}
		if err := p.Revoke(t.Context(), address); err != nil || first.holds(address) != "" {
			t.Errorf("revoked: %v, %q", err, first.holds(address))
		}
	})
}

// TestSocksUser: it is one for a name and an address, and says neither.
func TestSocksUser(t *testing.T) {
	p, other := NewPool(New("a", nil)), NewPool(New("a", nil))
	list := addresses(2)
	seen := map[string]bool{}
	for _, a := range list {
		for _, circuit := range []string{"", "a", "b"} {
			user := p.socksUser(health.Visit{Address: a, Port: 80, Circuit: circuit})
			if seen[user] || len(user) != 32 || user != p.socksUser(health.Visit{Address: a, Port: 81, Circuit: circuit}) {
				t.Errorf("%q", user)
			}
			if user == other.socksUser(health.Visit{Address: a, Circuit: circuit}) {
				t.Error("the same in another pool")
			}
			seen[user] = true
		}
	}
}
