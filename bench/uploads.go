package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"onionbalancer/bench/harness"
	"onionbalancer/testnet/lab"
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
	cookie, err := os.ReadFile(filepath.Join(a.Net.Dir(), c.name, "control_auth_cookie"))
	if err != nil {
		return nil, err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", a.Net.Client(c.name).ControlAddress())
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

const (
	bulk = 12 << 20 // bytes that are fetched at once

	// transfersEach is how many transfers stand for one turn: single ones differ
	// by a third, for circuits differ, and relays share the machine.
	transfersEach = 4
)

// measureTransfer fetches much at once through an instance's own address and
// through both public ones, each time over circuits of its own.
func measureTransfer(ctx context.Context, o options, a *arena, both []*contender) ([]*result, error) {
	r := &result{Name: "transfer through the public address", How: "make bench-network", Unit: unitRate}
	turns := o.rounds * transfersEach
	for turn := range turns {
		own := a.Instances[turn%len(a.Instances)].Address()
		sides := []struct {
			address string
			into    *series
		}{{own, &r.Ideal}, {both[0].fronts[starts-1], &r.Ours}, {both[1].fronts[starts-1], &r.OnionBalance}}
		for i := range sides {
			side := sides[(i+turn)%len(sides)]
			harness.Progress("transfer %d of %d", turn+1, turns)
			rate, err := a.transfer(ctx, fmt.Sprintf("bulk-%d-%d", turn, i), side.address)
			if err != nil {
				return nil, fmt.Errorf("fetching %d bytes from %s: %w", bulk, side.address, err)
			}
			*side.into = append(*side.into, rate)
		}
	}
	r.atLeast("0.95 of an instance's own address", r.overhead().median(), 0.95)
	return []*result{r}, nil
}

// transfer returns bytes per second, from the first one on.
func (a *arena) transfer(ctx context.Context, user, address string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/bulk?bytes=%d", address, bulk), nil)
	if err != nil {
		return 0, err
	}
	response, err := a.Net.Client(lab.Client).HTTP(user).Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	began := time.Now()
	n, err := io.Copy(io.Discard, response.Body)
	if err == nil && n != bulk {
		err = fmt.Errorf("%d bytes came", n)
	}
	return float64(n) / time.Since(began).Seconds(), err
}
