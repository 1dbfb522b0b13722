package daemon

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"onionbalancer/descriptor"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/config"
	"onionbalancer/internal/openfile"
	"onionbalancer/internal/strictmodes"
	"onionbalancer/selection"
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
	if out.Clients, err = authorizedClients(s.Clients); err != nil {
		return out, err
	}
	for _, line := range s.CAA {
		record, err := descriptor.ParseCAA(line)
		if err != nil {
			return out, err
		}
		out.CAA = append(out.CAA, record)
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
	// Last: what is opened from here on must be closed on error.
	out.Keys, err = openKeys(s, cfg.StateDir)
	return out, err
}

// authorizedClients reads the clients that a directory of tor's authorized_clients
// names, one in each .auth file; no path names none.
func authorizedClients(dir string) ([]descriptor.AuthorizedClient, error) {
	if dir == "" {
		return nil, nil
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the authorized clients: %w", err)
	}
	var clients []descriptor.AuthorizedClient
	for _, f := range files {
		if filepath.Ext(f.Name()) != ".auth" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return nil, fmt.Errorf("opening the authorized clients: %w", err)
		}
		client, err := descriptor.ParseAuthorizedClient(text)
		if err != nil {
			return nil, fmt.Errorf("reading the authorized client %s: %w", filepath.Join(dir, f.Name()), err)
		}
		clients = append(clients, client)
	}
	if len(clients) == 0 {
		// With none the service would be open to everybody.
		return nil, fmt.Errorf("opening the authorized clients: no .auth file in %s", dir)
	}
	return clients, nil
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
		address := built.Keys.Custodian.Address()
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

// release closes the keys of services that are not to run.
func release(services []balance.Config, log *slog.Logger) {
	var wait sync.WaitGroup
	for _, s := range services {
		wait.Go(func() {
			if err := s.Keys.Close(); err != nil {
				log.Warn("closing the keys", "error", err)
			}
		})
	}
	wait.Wait()
}
