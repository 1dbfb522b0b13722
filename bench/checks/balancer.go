package main

import (
	"context"
	"errors"
	"fmt"
	"net/textproto"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cretz/bine/control"

	"onionbalancer/internal/status"
	"onionbalancer/internal/tor/process"
	"onionbalancer/keystore"
	"onionbalancer/testnet/lab"
)

// balancer is one of those that are compared, with its tor.
type balancer struct {
	way way
	key *keystore.Fresh
	dir string
	run *lab.Process

	tor      *control.Conn // nil until connect
	torPID   int
	circuits atomic.Uint64 // that the tor has begun since connect
	done     chan struct{} // closed when events are no longer counted
	cancel   context.CancelFunc
}

func (b *balancer) socket() string { return filepath.Join(b.dir, "state", status.SocketName) }

// connect connects to the control socket of the balancer's tor twice, to ask it and to
// count the circuits that it begins.
func (b *balancer) connect(ctx context.Context) (err error) {
	if b.tor, err = b.dialTor(ctx); err != nil {
		return err
	}
	pid, err := b.info("process/pid")
	if err != nil {
		return err
	}
	b.torPID = int(pid)
	counted, err := b.dialTor(ctx)
	if err != nil {
		return err
	}
	events := make(chan control.Event, 64)
	if err := counted.AddEventListener(events, control.EventCodeCircuit); err != nil {
		return errors.Join(err, counted.Close())
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	b.done, b.cancel = make(chan struct{}), cancel
	go func() {
		defer close(b.done)
		defer counted.Close()
		_ = counted.HandleEvents(running) // until stop, or tor ends
	}()
	go func() {
		for {
			select {
			case e := <-events:
				if c, ok := e.(*control.CircuitEvent); ok && c.Status == "LAUNCHED" {
					b.circuits.Add(1)
				}
			case <-b.done:
				return
			}
		}
	}()
	return nil
}

func (b *balancer) dialTor(ctx context.Context) (*control.Conn, error) {
	cfg, _, ok := process.Running(ctx, filepath.Join(b.dir, "state", "tor"))
	if !ok {
		return nil, errors.New("it does not run")
	}
	conn, err := cfg.Dial(ctx)
	if err != nil {
		return nil, err
	}
	tor := control.NewConn(textproto.NewConn(conn))
	if err := tor.Authenticate(""); err != nil {
		return nil, errors.Join(err, tor.Close())
	}
	return tor, nil
}

// info asks tor for a number.
func (b *balancer) info(key string) (uint64, error) {
	got, err := b.tor.GetInfo(key)
	if err != nil {
		return 0, err
	}
	if len(got) != 1 {
		return 0, fmt.Errorf("tor does not know %s", key)
	}
	return strconv.ParseUint(strings.TrimSpace(got[0].Val), 10, 64)
}

// take reads all counts.
func (b *balancer) take(ctx context.Context) (c counts, err error) {
	c.at, c.circuits = time.Now(), b.circuits.Load()
	for i, pid := range []int{b.run.PID(), b.torPID} {
		if c.processor[i], err = lab.ProcessorTime(pid); err != nil {
			return c, err
		}
	}
	for _, way := range []string{"read", "written"} {
		n, err := b.info("traffic/" + way)
		if err != nil {
			return c, err
		}
		c.traffic += n
	}
	snapshot, err := status.Query(ctx, b.socket())
	if err != nil {
		return c, err
	}
	for _, s := range snapshot.Services {
		for _, i := range s.Instances {
			if i.Check != nil {
				c.checks += i.Check.Passed + i.Check.Failed
				c.failed += i.Check.Failed
			}
		}
	}
	return c, nil
}

// stop ends the balancer, and its tor with it.
func (b *balancer) stop() (err error) {
	if b.cancel != nil {
		b.cancel()
		<-b.done
	}
	if b.tor != nil {
		_ = b.tor.Close()
	}
	if b.run != nil {
		err = b.run.Stop()
	}
	return err
}
