package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"onionbalancer/keystore"
	"onionbalancer/testnet"
)

// The names of the tors that are no relays and no instances.
const (
	visitor = "visitor"
	ours    = "balancer"
	theirs  = "onionbalance"
)

// onionBalanceInterval is the voting interval that OnionBalance takes for
// granted on a test network.
const onionBalanceInterval = 20 * time.Second

// arena is a private network with three instances, which answer under the
// addresses of all services that either program will be started for.
type arena struct {
	dir       string
	net       *testnet.Network
	keys      map[string][]*keystore.Fresh // by program
	instances []*testnet.Service
}

func startArena(ctx context.Context, dir string) (a *arena, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Minute, errors.New("the test network was not up after five minutes"))
	defer cancel()
	a = &arena{dir: dir, keys: map[string][]*keystore.Fresh{}}
	var fronts []string
	for _, name := range []string{ours, theirs} {
		for range starts {
			key, err := keystore.New(rand.Reader)
			if err != nil {
				return nil, err
			}
			a.keys[name] = append(a.keys[name], key)
			fronts = append(fronts, key.Address().String())
		}
	}
	a.net, err = testnet.Start(ctx, testnet.Config{
		Dir: filepath.Join(dir, "net"), Relays: 20, VotingInterval: onionBalanceInterval,
		Clients:  []string{visitor, ours, theirs},
		Progress: func(p testnet.Progress) { progress("%s", p) },
	})
	if err != nil {
		return nil, err
	}
	if err := a.startInstances(ctx, fronts); err != nil {
		return nil, errors.Join(err, a.net.Stop())
	}
	return a, nil
}

// startInstances starts three instances and waits until they are published.
func (a *arena) startInstances(ctx context.Context, fronts []string) error {
	progress("starting three instances")
	a.instances = make([]*testnet.Service, 3)
	group, ctx := errgroup.WithContext(ctx)
	for i := range a.instances {
		group.Go(func() (err error) {
			a.instances[i], err = a.net.Service(ctx, testnet.ServiceConfig{Name: fmt.Sprintf("web%d", i+1), Masters: fronts})
			if err != nil {
				return err
			}
			return a.instances[i].Published(ctx)
		})
	}
	return group.Wait()
}

// instanceList writes one entry for each instance.
func (a *arena) instanceList(entry string) string {
	var b strings.Builder
	for _, s := range a.instances {
		fmt.Fprintf(&b, entry, s.Name(), s.Address())
	}
	return b.String()
}
