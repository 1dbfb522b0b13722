package check

import (
	"context"
	"net"

	"onionbalancer/descriptor"
	"onionbalancer/internal/health"
)

// Hold keeps one connection open on the circuits of a name. closed is closed when it
// ends: tor was killed, a circuit destroyed, the application closed it, or ctx ended.
// So an end shows at once, and says that a check is due, no more. ctx bounds
// the connection, not only the attempt; what the application sends is dropped.
func Hold(ctx context.Context, d Dialer, address descriptor.Address, port uint16, circuit string) (closed <-chan struct{}, err error) {
	conn, _, err := d.Dial(ctx, health.Visit{Address: address, Port: port, Circuit: circuit})
	if err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	go func() {
		defer close(ended)
		defer stop()
		drain(conn)
	}()
	return ended, nil
}

// drain reads until the connection ends, and closes it. Who talks without being asked is
// not listened to for ever.
func drain(conn net.Conn) {
	defer conn.Close()
	var buffer [512]byte
	for total := 0; total < maxHeld; {
		n, err := conn.Read(buffer[:])
		if err != nil {
			return
		}
		total += n
	}
}

// maxHeld is how much an application may send on a connection that is only held.
const maxHeld = 1 << 20
