package daemon

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"slices"
	"sync"

	"onionbalancer/descriptor"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/clients"
	"onionbalancer/internal/config"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/health"
	"onionbalancer/internal/openfile"
	"onionbalancer/internal/strictmodes"
	"onionbalancer/keystore"
	"onionbalancer/keystore/pkcs11uri"
	"onionbalancer/selection"
)

// build opens the files of one [[service]], if no one but root and user
// can change its keys and modules.
func build(cfg *config.Config, s config.Service, user strictmodes.User) (balance.Config, error) {
	if err := checkService(user, s); err != nil {
		return balance.Config{}, err
	}
	out, err := buildBalancing(s.Balancing)
	if err != nil {
		return out, err
	}
	out.ClientsDir, out.CAACritical = s.Clients, s.CAACritical
	out.Reclaim = cfg.Cluster.Standby.Role == config.RoleActive
	out.Resume = cfg.Cluster.Store == config.StoreEtcd // moving a service is not publishing it again
	for _, line := range s.CAA {
		record, err := descriptor.ParseCAA(line)
		if err != nil {
			return out, err
		}
		out.CAA = append(out.CAA, record)
	}
	if out.Clients, err = authorizedClients(s.Clients, out.CAA); err != nil {
		return out, err
	}
	// The manager visits a restricted address as one client more, if there is room.
	more := descriptor.Contents{Clients: append(slices.Clip(out.Clients), descriptor.AuthorizedClient{}), CAA: out.CAA}
	if len(out.Clients) > 0 && more.CheckRoom(0) != nil {
		out.Visits = balance.Visits{}
	}
	// Last: what is opened from here on must be closed on error.
	if out.Keys, err = openKeys(s, cfg.StateDir); err != nil {
		return out, err
	}
	if err := checkCustodian(user, out.Keys.Custodian); err != nil {
		return out, errors.Join(err, out.Keys.Close())
	}
	return out, nil
}

// buildBalancing opens the files that a [[service]] or [[shard]] has beside its keys and
// clients.
func buildBalancing(s config.Balancing) (out balance.Config, err error) {
	out = balance.Config{
		Room:       selection.Room{Points: s.MaxIntroductionPoints, PerInstance: s.PointsPerInstance},
		Ordinary:   s.Profile == config.ProfileOrdinary,
		FetchEvery: s.FetchInterval,
	}
	if out.Strategy, out.Program, err = strategy(s.Strategy); err != nil {
		return out, err
	}
	if out.Avoid, out.Prefer, err = rules(s.Points); err != nil {
		return out, err
	}
	var specs []health.Spec
	for _, i := range s.Instances {
		specs = append(specs, i.Spec)
		client, err := clientKey(i.ClientKey)
		if err != nil {
			return out, fmt.Errorf("instance %q: %w", i.Name, err)
		}
		checkClient := client
		if i.Spec.Address != (descriptor.Address{}) {
			if checkClient, err = clientKey(i.Check.ClientKey); err != nil {
				return out, fmt.Errorf("check of instance %q: %w", i.Name, err)
			}
		}
		out.Instances = append(out.Instances, balance.Instance{
			Name: i.Name, Address: i.Address, Weight: i.Weight, Client: client, Probe: i.Probe, Check: i.Spec, CheckClient: checkClient,
		})
	}
	out.Visits = balance.Visits{Every: s.Public, Spec: visitSpec(specs)}
	return out, nil
}

// authorizedClients reads the clients in a directory; an empty path has none. All have
// room in a descriptor with the CAA records.
func authorizedClients(dir string, caa []descriptor.CAA) ([]descriptor.AuthorizedClient, error) {
	var list []clients.Client
	if dir != "" {
		var err error
		if list, err = clients.Read(dir); err != nil {
			return nil, err
		}
	}
	if err := clients.CheckRoom(list, caa, nil); err != nil {
		return nil, err
	}
	return clients.Keys(list), nil
}

// maxClientKeyFile bounds a client-authorization key's file, in bytes.
const maxClientKeyFile = 4096

// clientKey reads tor's .auth_private file at a path or in a credential of
// systemd's; no reference gives no key.
func clientKey(ref string) (key *descriptor.ClientKey, err error) {
	if ref == "" {
		return nil, nil
	}
	defer func() {
		if err != nil {
			key, err = nil, fmt.Errorf("opening the client-authorization key %q: %w", ref, err)
		}
	}()
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
	if key, err = descriptor.ParseClientKey(text); err != nil {
		return nil, err // another file needs no other mode
	}
	return key, strictmodes.Current().Secret(path, f)
}

// Where the descriptor-signing keys of a service are.
const (
	signingMemory = "memory"
	signingDisk   = "disk"
	signingToken  = "token"
)

// openKeys opens the keys of a service. No token is called yet: an absent one
// must not keep the daemon from starting.
func openKeys(s config.Service, stateDir string) (credential.Keys, error) {
	custodian, err := keystore.Open(s.Key)
	if err != nil {
		return credential.Keys{}, err
	}
	return keysOf(custodian, s.Key, s.Signing, stateDir)
}

// keysOf returns a custodian, which it closes on error, with the signing keys that go
// with it. ref is the custodian's reference, signing that of a token or empty.
func keysOf(custodian keystore.Custodian, ref, signing, stateDir string) (credential.Keys, error) {
	keys := credential.Keys{Custodian: custodian, Form: string(custodian.Form())}
	// The references name no secret. Neither can contain the line end between.
	keys.Reference = ref + "\n" + signing
	own, prepared := custodian.(credential.SigningKeys)
	switch {
	case signing != "":
		// A ceremony has keys named by the salt of its own directory.
		dirs := []string{stateDir}
		if prepared {
			dirs = []string{ref, stateDir}
		}
		token, err := keystore.OpenSigning(signing, custodian.Address(), dirs[0], dirs[1:]...)
		if err != nil {
			return credential.Keys{}, errors.Join(err, custodian.Close())
		}
		keys.Signing, keys.Where = token, signingToken
	case prepared:
		keys.Signing, keys.Where = own, signingDisk
	default:
		keys.Signing, keys.Where = credential.Memory{}, signingMemory
	}
	return keys, nil
}

// uriOf parses a reference that may be a PKCS #11 URI; nil if it is not one. Errors
// in one are left to keystore.
func uriOf(ref string) *pkcs11uri.URI {
	uri, _ := pkcs11uri.Parse(ref)
	return uri
}

// buildAll opens every service of the file. The error joins the errors of
// those that are left out; if the file contradicts itself none is opened.
func buildAll(cfg *config.Config, log *slog.Logger) (map[descriptor.Address]balance.Config, error) {
	return buildBeside(cfg, nil, log)
}

// buildBeside is buildAll where the shards of customers are known, by their addresses.
func buildBeside(cfg *config.Config, customers map[descriptor.Address]string, log *slog.Logger) (map[descriptor.Address]balance.Config, error) {
	services := map[descriptor.Address]balance.Config{}
	var addresses []descriptor.Address
	var errs []error
	var all []balance.Config
	for n, s := range cfg.Services {
		built, err := build(cfg, s, strictmodes.Current())
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
		errs = append(errs, cfg.CheckAddresses(addresses, customers))
	}
	if err := errors.Join(errs...); err != nil {
		release(slices.Values(all), log)
		return nil, err
	}
	return services, nil
}

// release closes the keys of services that will not run.
func release(services iter.Seq[balance.Config], log *slog.Logger) {
	var wait sync.WaitGroup
	for s := range services {
		wait.Go(func() {
			if err := s.Keys.Close(); err != nil {
				log.Warn("closing the keys", "error", err)
			}
		})
	}
	wait.Wait()
}
