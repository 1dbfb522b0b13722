package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/check"
	"onionbalancer/internal/config"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/standby"
	"onionbalancer/internal/tor"
)

// checkListen looks whether the active machine can be asked for its heartbeat, as far as
// that shows here.
func (c *checker) checkListen() {
	listen := c.cfg.Cluster.Standby.Listen
	if listen == "" {
		return
	}
	const what = "cluster.standby.listen"
	network, address := config.Listener(listen)
	conn, err := net.DialTimeout(network, address, time.Second)
	if err == nil {
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		switch fit, err := standby.ReadBeat(conn); {
		case err != nil:
			c.fail(what, "name another port or path, here and in the onion service that leads to it", fmt.Errorf("something else answers at %s: %w", listen, err))
		case fit:
			c.ok(what, "%s answers: this machine publishes all services", listen)
		default:
			c.warn(what, "see balancer status", "%s answers that this machine does not publish all services", listen)
		}
		return
	}
	if network == "unix" {
		if _, err := os.Stat(filepath.Dir(address)); err != nil {
			c.fail(what, "make the directory, writable for the user that balancer runs as, and open to tor's", err)
			return
		}
	} else if l, err := net.Listen(network, address); err != nil {
		c.fail(what, "", err)
		return
	} else {
		_ = l.Close()
	}
	c.ok(what, "%s is free: balancer answers there when it runs", listen)
}

// beatPatience is how long Check waits for a heartbeat.
const beatPatience = 45 * time.Second

// checkBeat asks the active machine for its heartbeat.
func (c *checker) checkBeat(ctx context.Context, onions check.Dialer) {
	target := c.cfg.Cluster.Standby.Heartbeat
	if target == "" {
		return
	}
	const what = "heartbeat of the active machine"
	ctx, cancel := context.WithTimeout(ctx, beatPatience)
	defer cancel()
	fit, err := askBeat(ctx, onions, target)
	switch {
	case errors.Is(err, standby.ErrNoBeat):
		c.fail(what, "have the onion service lead to cluster.standby.listen of the active machine", err)
	case err != nil:
		c.warn(what, "see that the active machine runs, and that its onion service leads to its cluster.standby.listen", "none: %w", err)
	case !fit:
		c.warn(what, "see balancer status there", "it says that it does not publish all services")
	default:
		c.ok(what, "it publishes all services")
	}
}

func askBeat(ctx context.Context, onions check.Dialer, target string) (fit bool, err error) {
	address, port, err := config.CanaryTarget(target)
	if err != nil {
		return false, err
	}
	conn, err := dialBeat(ctx, onions, address, port, "check")
	if err != nil {
		return false, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	return standby.ReadBeat(conn)
}

// checkPublished looks at the descriptors that this machine watches.
func (c *checker) checkPublished(ctx context.Context, t *tor.Tor, consensus *hsdir.Consensus) {
	role := c.cfg.Cluster.Standby.Role
	addresses := c.cfg.Cluster.Standby.Addresses
	if role == config.RoleStandby {
		for _, s := range c.services {
			addresses = append(addresses, s.Keys.Custodian.Address())
		}
	}
	ctx, cancel := context.WithTimeout(ctx, checkFetch)
	defer cancel()
	fetcher := newFetcher(t)
	type answer struct {
		points int
		err    error
	}
	answers := make([]chan answer, len(addresses)) // one for each, to tell of them in their order
	for n, a := range addresses {
		answers[n] = make(chan answer, 1)
		go func() {
			got, err := fetch(ctx, fetcher, consensus, a, nil)
			if err != nil {
				answers[n] <- answer{err: err}
				return
			}
			answers[n] <- answer{points: len(got.Descriptor.IntroductionPoints)}
		}()
	}
	for n, a := range addresses {
		what := "published descriptor of " + a.Short()
		got := <-answers[n]
		switch err := got.err; {
		case err == nil:
			c.ok(what, "it has %s", printable.Count(got.points, "introduction point"))
		case errors.Is(err, descriptor.ErrClientKey):
			c.ok(what, "it is there; only authorized clients can read it")
		case errors.Is(err, hsdir.ErrNotFound) && role == config.RoleStandby:
			c.warn(what, "start the active machine before this one, which publishes what nobody does", "%w", err)
		default:
			c.warn(what, "", "%w", err)
		}
	}
}
