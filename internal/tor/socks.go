package tor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// socksCode is the code of a SOCKS port's answer (RFC 1928, section 6, and tor's
// proposal 304, of which a port with the flag ExtendedErrors sends those from 0xF0).
type socksCode int

// noCode stands for an answer that did not come.
const noCode socksCode = -1

const (
	socksSucceeded   socksCode = 0x00
	socksGeneral     socksCode = 0x01
	socksUnreachable socksCode = 0x04
	socksRefused     socksCode = 0x05
	socksNoDesc      socksCode = 0xF0
	socksIntroFailed socksCode = 0xF2
	socksNoClientKey socksCode = 0xF4
	socksBadKey      socksCode = 0xF5
	socksIntroLate   socksCode = 0xF7
)

// socksConnect has a SOCKS port connect, for a user, to a host of at most 255 bytes. The
// code is noCode if the answer did not come; taken says whether the request was sent. ctx
// bounds it.
func socksConnect(ctx context.Context, conn net.Conn, user, host string, port uint16) (code socksCode, taken bool, err error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() && err == nil {
			err = ctx.Err()
		}
		if err != nil && ctx.Err() != nil {
			err = ctx.Err()
		}
	}()
	if err := greet(conn, user); err != nil {
		return noCode, false, fmt.Errorf("greeting tor's SOCKS port: %w", err)
	}
	request := append([]byte{5, 1, 0, 3, byte(len(host))}, host...)
	if _, err := conn.Write(append(request, byte(port>>8), byte(port))); err != nil {
		return noCode, false, fmt.Errorf("asking tor's SOCKS port: %w", err)
	}
	code, err = readAnswer(conn)
	return code, true, err
}

// greet authenticates as a user. The password says nothing, and must not be empty. tor
// looks at a second message only when more comes after its answer to the first.
func greet(conn net.Conn, user string) error {
	name := append([]byte{1, byte(len(user))}, user...)
	for _, step := range []struct {
		send   []byte
		expect [2]byte
	}{
		{[]byte{5, 1, 2}, [2]byte{5, 2}},
		{append(name, 1, '-'), [2]byte{1, 0}},
	} {
		if _, err := conn.Write(step.send); err != nil {
			return err
		}
		var answer [2]byte
		if _, err := io.ReadFull(conn, answer[:]); err != nil {
			return err
		}
		if answer != step.expect {
			return errors.New("it does not take user and password")
		}
	}
	return nil
}

// readAnswer reads an answer whole, so that what follows is the stream's.
func readAnswer(conn net.Conn) (socksCode, error) {
	var head [5]byte // up to the first byte of the address
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return noCode, err
	}
	rest := 0
	switch {
	case head[0] != 5:
		return noCode, fmt.Errorf("an answer of SOCKS version %d", head[0])
	case head[3] == 1:
		rest = 4 - 1 + 2
	case head[3] == 4:
		rest = 16 - 1 + 2
	case head[3] == 3:
		rest = int(head[4]) + 2
	default:
		return noCode, fmt.Errorf("an answer with an address of type %d", head[3])
	}
	if _, err := io.ReadFull(conn, make([]byte, rest)); err != nil {
		return noCode, err
	}
	return socksCode(head[1]), nil
}
