package testnet

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// loopback hands out ports on one address of 127.0.0.0/8 that is ours alone as
// far as chance goes. Outgoing connections take their source ports on
// 127.0.0.1, so that a port found free here stays free, and two networks on
// one machine do not meet.
type loopback struct {
	host string

	mu   sync.Mutex
	held map[string]net.Listener
}

// newLoopback chooses an address and checks that one can listen on it.
func newLoopback() (*loopback, error) {
	var err error
	for range 8 {
		host := fmt.Sprintf("127.%d.%d.1", 1+rand.IntN(250), 1+rand.IntN(250))
		var l net.Listener
		if l, err = net.Listen("tcp4", host+":0"); err == nil {
			l.Close()
			return &loopback{host: host, held: map[string]net.Listener{}}, nil
		}
	}
	return nil, fmt.Errorf("finding a loopback address: %w", err)
}

// reserve finds a free port and holds it until release; the result is
// "host:port".
func (b *loopback) reserve() (string, error) {
	l, err := net.Listen("tcp4", b.host+":0")
	if err != nil {
		return "", fmt.Errorf("finding a free port: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	address := l.Addr().String()
	b.held[address] = l
	return address, nil
}

// release lets go of ports just before the process that they are for starts.
func (b *loopback) release(addresses ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, address := range addresses {
		if l := b.held[address]; l != nil {
			l.Close()
			delete(b.held, address)
		}
	}
}

// releaseAll lets go of what is still held.
func (b *loopback) releaseAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for address, l := range b.held {
		l.Close()
		delete(b.held, address)
	}
}
