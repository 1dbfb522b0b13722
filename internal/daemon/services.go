package daemon

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/config"
	"onionbalancer/internal/openfile"
	"onionbalancer/internal/strictmodes"
	"onionbalancer/selection"
)

// One fetch a second is what a balancer may cost the network on average; an
// instance is not asked for more often than every fetchShortest.
const (
	fetchShortest = 2 * time.Minute
	fetchRate     = time.Second
)

// maxClientKeyFile bounds a client-authorization key's file, in bytes.
const maxClientKeyFile = 4096

// build opens what one [[service]] of the file names.
func build(cfg *config.Config, s config.Service) (balance.Config, error) {
	strategy, err := selection.Lookup(s.Strategy)
	if err != nil {
		return balance.Config{}, err
	}
	out := balance.Config{
		Strategy:   strategy,
		Room:       selection.Room{Points: s.MaxIntroductionPoints, PerInstance: s.PointsPerInstance},
		FetchEvery: s.FetchInterval,
	}
	if out.FetchEvery == 0 {
		out.FetchEvery, out.Automatic = automaticInterval(cfg), true
	}
	for _, i := range s.Instances {
		client, err := clientKey(i.ClientKey)
		if err != nil {
			return out, fmt.Errorf("instance %q: %w", i.Name, err)
		}
		out.Instances = append(out.Instances, balance.Instance{
			Name: i.Name, Address: i.Address, Weight: i.Weight, Client: client,
		})
	}
	// Last, since from here on something has to be let go again.
	return out, entrust(&out, s, cfg.StateDir)
}

// automaticInterval spaces the fetches of all instances of all services.
func automaticInterval(cfg *config.Config) time.Duration {
	total := 0
	for _, s := range cfg.Services {
		total += len(s.Instances)
	}
	return max(fetchShortest, time.Duration(total)*fetchRate)
}

// clientKey reads tor's .auth_private file at a path or in a credential of
// systemd's; no reference gives no key.
func clientKey(ref string) (*descriptor.ClientKey, error) {
	if ref == "" {
		return nil, nil
	}
	key, err := readClientKey(ref)
	if err != nil {
		return nil, fmt.Errorf("opening the client-authorization key %q: %w", ref, err)
	}
	return key, nil
}

func readClientKey(ref string) (*descriptor.ClientKey, error) {
	path, err := openfile.Resolve(ref)
	if err != nil {
		return nil, err
	}
	f, _, err := openfile.Secret(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxClientKeyFile))
	defer clear(text)
	if err != nil {
		return nil, err
	}
	key, err := descriptor.ParseClientKey(text)
	if err != nil {
		return nil, err // another file needs no other mode
	}
	return key, strictmodes.Current().Secret(path, f)
}

// buildAll opens every service of the file. The error joins what is wrong with
// those that are left out; with a file that contradicts itself none is opened.
func buildAll(cfg *config.Config, log *slog.Logger) (map[descriptor.Address]balance.Config, error) {
	services := map[descriptor.Address]balance.Config{}
	var addresses []descriptor.Address
	var errs []error
	var all []balance.Config
	for n, s := range cfg.Services {
		built, err := buildStrictly(cfg, s, strictmodes.Current(), log)
		if err != nil {
			errs = append(errs, fmt.Errorf("service %d (key %s): %w", n+1, s.Key, err))
			continue
		}
		all = append(all, built)
		address := built.Custodian.Address()
		addresses = append(addresses, address)
		services[address] = built
	}
	if len(errs) > 0 && len(services) == len(all) {
		return services, errors.Join(errs...)
	}
	if len(errs) == 0 {
		errs = append(errs, cfg.CheckAddresses(addresses))
	}
	if err := errors.Join(errs...); err != nil {
		release(all, log)
		return nil, err
	}
	return services, nil
}

// release lets the keys of services go that are not to run.
func release(services []balance.Config, log *slog.Logger) {
	var wait sync.WaitGroup
	for _, s := range services {
		wait.Go(func() { s.Release(log) })
	}
	wait.Wait()
}
