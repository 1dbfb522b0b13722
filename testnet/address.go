package testnet

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// host is the address of everything. It is this one because connections within
// 127.0.0.0/8 come from it whatever one asks tor for, and a relay thinks little
// of a connection that comes from another address than its peer's descriptor
// says: it makes a second one.
const host = "127.0.0.1"

// Ports are chosen below those that systems give to outgoing connections, so
// that a port that was found free stays free, but for other programs that look
// for one to listen on at the same moment. Holding it with a listener until
// tor starts does more harm than good: each process that is started meanwhile
// has the listener too for a moment, until it has become another program.
const (
	lowestPort  = 10_000
	highestPort = 32_000
)

// portPool hands out ports, each once.
type portPool struct {
	mu    sync.Mutex
	given map[string]bool
}

// reserve finds a free port; the result is "host:port".
func (b *portPool) reserve() (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var err error
	for range 1000 {
		address := fmt.Sprintf("%s:%d", host, lowestPort+rand.IntN(highestPort-lowestPort))
		if b.given[address] {
			continue
		}
		var l net.Listener
		if l, err = net.Listen("tcp4", address); err == nil {
			b.given[address] = true
			return address, l.Close()
		}
	}
	return "", fmt.Errorf("finding a free port: %w", err)
}
