package sim

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"sync"
)

// Application serves one connection that an instance's tor makes to a port, and
// returns when it is done. The connection is closed then.
type Application func(port uint16, conn net.Conn)

// Web is an Application that answers every request of HTTP/1.1 with 200 and "OK".
func Web(_ uint16, conn net.Conn) {
	for in := bufio.NewReader(conn); ; {
		request, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		_, err = io.Copy(io.Discard, request.Body)
		if err == nil {
			_, err = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nOK\n")
		}
		if err != nil || request.Close {
			return
		}
	}
}

// stream is a connection over a circuit. What is sent stays on the way while
// either end hangs.
type stream struct {
	*circuit
	done  chan struct{}
	once  sync.Once
	close func()
}

// near and far are the ends of a stream: the visitor's and the application's.
type near struct {
	net.Conn
	stream *stream
}

type far struct {
	net.Conn
	stream *stream
}

// open connects an application, with Network.mu held.
func (d *Dialer) open(c *circuit, port uint16, application Application) net.Conn {
	ours, theirs := net.Pipe()
	s := &stream{circuit: c, done: make(chan struct{})}
	s.close = func() {
		_ = ours.Close() // a pipe's Close cannot fail
		_ = theirs.Close()
		close(s.done)
	}
	d.streams[s] = true
	d.net.conns.Go(func() {
		defer func() {
			d.net.lock()
			defer d.net.mu.Unlock()
			delete(d.streams, s)
			_ = theirs.Close()
		}()
		application(port, far{theirs, s})
	})
	return near{ours, s}
}

// end closes both ends.
func (s *stream) end() { s.once.Do(s.close) }

// await returns when both ends move; false if the stream has ended.
func (s *stream) await() bool {
	n := s.instance.net
	for {
		n.lock()
		gate := s.gate()
		n.mu.Unlock()
		if gate == nil {
			return true
		}
		select {
		case <-gate:
		case <-s.done:
			return false
		}
	}
}

func (e near) Close() error {
	e.stream.end()
	return nil
}

func (e far) Read(b []byte) (int, error) {
	n, err := e.Conn.Read(b)
	if !e.stream.await() {
		return 0, io.ErrClosedPipe
	}
	return n, err
}

func (e far) Write(b []byte) (int, error) {
	if !e.stream.await() {
		return 0, io.ErrClosedPipe
	}
	return e.Conn.Write(b)
}
