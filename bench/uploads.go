package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// quiet is for how long no HSDir may have confirmed anything for a publication
// to count as complete. Its end counts as the moment of publication all the
// same, so that neither program is spared the wait.
const quiet = 200 * time.Millisecond

// uploads hears from a contender's tor which descriptors HSDirs confirmed.
type uploads struct {
	conn      net.Conn
	confirmed chan string // addresses, without .onion
}

func watchUploads(ctx context.Context, a *arena, c *contender) (*uploads, error) {
	cookie, err := os.ReadFile(filepath.Join(a.net.Dir(), c.name, "control_auth_cookie"))
	if err != nil {
		return nil, err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", a.net.Client(c.name).ControlAddress())
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(conn, "AUTHENTICATE %s\r\nSETEVENTS HS_DESC\r\n", hex.EncodeToString(cookie)); err != nil {
		conn.Close()
		return nil, err
	}
	u := &uploads{conn: conn, confirmed: make(chan string, 1000)}
	go func() {
		defer close(u.confirmed)
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			if rest, ok := strings.CutPrefix(lines.Text(), "650 HS_DESC UPLOADED "); ok {
				address, _, _ := strings.Cut(rest, " ")
				u.confirmed <- address
			}
		}
	}()
	return u, nil
}

func (u *uploads) close() { u.conn.Close() }

// settle waits until HSDirs have confirmed descriptors of an address, and then
// none for a moment.
func (u *uploads) settle(ctx context.Context, address string) error {
	address = strings.TrimSuffix(address, ".onion")
	var done <-chan time.Time
	for {
		select {
		case confirmed, ok := <-u.confirmed:
			if !ok {
				return fmt.Errorf("the control connection ended")
			}
			if confirmed == address {
				done = time.After(quiet)
			}
		case <-done:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("waiting for a descriptor to be published: %w", context.Cause(ctx))
		}
	}
}
