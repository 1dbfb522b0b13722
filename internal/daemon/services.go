package daemon

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/config"
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

// clientKey reads tor's .auth_private file; no path gives no key.
func clientKey(path string) (*descriptor.ClientKey, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the client-authorization key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("opening the client-authorization key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("the client-authorization key %s can be read by others: chmod 600 %s", path, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxClientKeyFile))
	if err != nil {
		return nil, fmt.Errorf("reading the client-authorization key: %w", err)
	}
	defer clear(text)
	key, err := descriptor.ParseClientKey(text)
	if err != nil {
		return nil, fmt.Errorf("reading the client-authorization key %s: %w", path, err)
	}
	return key, nil
}

// buildAll opens every service of the file. The error joins what is wrong with
// those that are left out; with a file that contradicts itself none is opened.
func buildAll(cfg *config.Config, log *slog.Logger) (map[descriptor.Address]balance.Config, error) {
	services := map[descriptor.Address]balance.Config{}
	var addresses []descriptor.Address
	var errs []error
	var all []balance.Config
	for n, s := range cfg.Services {
		built, err := build(cfg, s)
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
