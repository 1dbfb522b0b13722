package tor

import (
	"context"
	"errors"
	"sync"

	"onionbalancer/descriptor"
	"onionbalancer/internal/tor/control"
)

// authorizations are the client keys that the pool's tors need for visits.
type authorizations struct {
	mu   sync.Mutex
	keys map[descriptor.Address]*authorization
}

// authorization is one client key, and which tors have it.
type authorization struct {
	mu   sync.Mutex
	key  *descriptor.ClientKey // nil once it is revoked
	with map[*Tor]int          // by the number of the connection that gave it
}

// Authorize gives the tor that serves the address a client key for visits, until
// Revoke or the tor's end. A key that the tor has from others stays, and is used. When
// tor cannot be reached now, or the address moves to another tor, the next Dial gives
// the key.
func (p *Pool) Authorize(ctx context.Context, address descriptor.Address, key *descriptor.ClientKey) error {
	p.auth.mu.Lock()
	a := p.auth.keys[address]
	if a == nil {
		a = &authorization{with: map[*Tor]int{}}
		if p.auth.keys == nil {
			p.auth.keys = map[descriptor.Address]*authorization{}
		}
		p.auth.keys[address] = a
	}
	p.auth.mu.Unlock()
	a.mu.Lock()
	if a.key != nil && !a.key.Equal(key) {
		a.forget()
	}
	a.key = key
	a.mu.Unlock()
	_, err := p.handKey(ctx, p.For(address), address)
	if errors.Is(err, control.ErrNotConnected) {
		return nil
	}
	return err
}

// forget has all tors be given the key again.
func (a *authorization) forget() {
	for t := range a.with {
		a.with[t] = -1
	}
}

// Revoke takes a client key back that Authorize gave.
func (p *Pool) Revoke(ctx context.Context, address descriptor.Address) error {
	a := p.authorizationOf(address)
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.key = nil // the rest stays, for who waits for it
	return a.takeBack(ctx, nil, address)
}

func (p *Pool) authorizationOf(address descriptor.Address) *authorization {
	p.auth.mu.Lock()
	defer p.auth.mu.Unlock()
	return p.auth.keys[address]
}

// handKey sees to it that t has the client key for an address, if there is one, and that
// no other tor has it. has says that there is one.
func (p *Pool) handKey(ctx context.Context, t *Tor, address descriptor.Address) (has bool, err error) {
	a := p.authorizationOf(address)
	if a == nil {
		return false, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	_ = a.takeBack(ctx, t, address) // tried again at the next visit
	if a.key == nil {
		return false, nil
	}
	if connects, given := a.with[t]; given && connects == t.client.State().Connects {
		return true, nil
	}
	_, err = a.give(ctx, t, address)
	return true, err
}

// giveKey gives t the client key, if it may have forgotten it. added says that it had
// none.
func (p *Pool) giveKey(ctx context.Context, t *Tor, address descriptor.Address) (added bool, err error) {
	a := p.authorizationOf(address)
	if a == nil {
		return false, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.key == nil {
		return false, nil
	}
	return a.give(ctx, t, address)
}

// give gives t the key. a.mu is held.
func (a *authorization) give(ctx context.Context, t *Tor, address descriptor.Address) (added bool, err error) {
	connects := t.client.State().Connects
	secret := a.key.Secret()
	defer secret.Wipe()
	added, err = t.client.AddClientKey(ctx, address.Label(), secret)
	if err == nil {
		a.with[t] = connects
	}
	return added, err
}

// takeBack takes the key from all tors but one. Those that cannot be reached keep their
// place in the list. a.mu is held.
func (a *authorization) takeBack(ctx context.Context, except *Tor, address descriptor.Address) error {
	var failed error
	for t := range a.with {
		if t == except {
			continue
		}
		err := t.client.RemoveClientKey(ctx, address.Label())
		if err == nil || errors.Is(err, control.ErrNotConnected) && t.own != nil {
			delete(a.with, t) // a tor of our own ends with its connection
			continue
		}
		failed = errors.Join(failed, err)
	}
	return failed
}
