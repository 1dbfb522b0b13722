package daemon

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/advice"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/config"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/event"
	"onionbalancer/internal/hosting"
	"onionbalancer/internal/state"
	"onionbalancer/internal/tor"
)

// Preview is the plan of one service, or of a shard's customer.
type Preview struct {
	Service  descriptor.Address `json:"service"`
	Shard    string             `json:"shard,omitempty"`
	Customer string             `json:"customer,omitempty"`
	Error    string             `json:"error,omitempty"`
	Plan     *balance.Plan      `json:"plan,omitempty"` // nil with an error

	cfg balance.Config
}

// Plans returns what the services of cfg would publish now, by address, and for an example
// of each shard's customers; or for one customer, by name or address. It publishes nothing,
// and uses the tor of cfg, or that of a running daemon.
func Plans(ctx context.Context, cfg *config.Config, customer string, log *slog.Logger) ([]Preview, error) {
	store, err := state.OpenReadOnly(cfg.StateDir, log)
	if errors.Is(err, fs.ErrNotExist) {
		store, err = new(state.DB), nil // has nothing stored
	}
	if err != nil {
		return nil, err
	}
	list, err := hostedPreviews(cfg, readOnly{store}, customer)
	if err != nil {
		return nil, err
	}
	if customer == "" {
		services, err := buildAll(cfg, log)
		defer func() { release(maps.Values(services), log) }()
		if len(services)+len(list) == 0 {
			return nil, fmt.Errorf("opening the services: %w", errors.Join(err, errNoServices))
		}
		if err != nil {
			log.Warn("services left out", "error", err)
		}
		for address, built := range services {
			list = append(list, Preview{Service: address, cfg: built})
		}
	}
	slices.SortFunc(list, func(a, b Preview) int {
		return cmp.Or(strings.Compare(a.Shard, b.Shard), strings.Compare(a.Service.String(), b.Service.String()))
	})
	t, c, stop, err := connect(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer stop()
	record := event.Recorder(func(event.Event) {})
	backends := backend.New(backend.Config{Consensus: fixed{c}, Fetcher: newFetcher(t), Store: readOnly{store}, Record: record})
	defer background(ctx, backends.Run)()
	env := balance.Env{Consensus: fixed{c}, Backends: backends, Store: readOnly{store}, Record: record, Country: waiting(ctx, t), Advise: advice.Run}
	for n := range list {
		if plan, err := balance.Preview(ctx, list[n].cfg, env); err != nil {
			list[n].Error = err.Error()
		} else {
			list[n].Plan = &plan
		}
	}
	return list, nil
}

// hostedPreviews returns one customer, by name or address, or without that the first active
// one of each shard; nothing is planned yet.
func hostedPreviews(cfg *config.Config, store hosting.Store, customer string) (list []Preview, err error) {
	customers, err := hosting.Customers(store)
	if err != nil {
		return nil, err
	}
	asked := func(c hosting.Customer) bool { return c.State == hosting.Active }
	if customer != "" {
		address, _ := descriptor.ParseAddress(customer) // zero for a name
		asked = func(c hosting.Customer) bool {
			return c.Address == address || c.Name == customer && c.State != hosting.Removed
		}
	}
	for _, s := range cfg.Shards {
		n := slices.IndexFunc(customers, func(c hosting.Customer) bool { return c.Shard == s.Name && asked(c) })
		if n < 0 {
			continue
		}
		built, err := buildBalancing(s.Balancing)
		if err != nil {
			return nil, fmt.Errorf("shard %q: %w", s.Name, err)
		}
		c := customers[n]
		built.Keys = credential.Keys{Custodian: noKey{c.Address}, Signing: credential.Memory{}}
		built.Hosted, built.Withdrawn = true, c.State != hosting.Active
		list = append(list, Preview{Service: c.Address, Shard: s.Name, Customer: c.Name, cfg: built})
	}
	if customer != "" && len(list) == 0 {
		return nil, fmt.Errorf("planning for %q: %w", customer, hosting.ErrUnknown)
	}
	return list, nil
}

// noKey is a custodian without a key: a plan needs none.
type noKey struct{ address descriptor.Address }

var errNoKey = errors.New("there is no key")

func (k noKey) Address() descriptor.Address { return k.address }

func (noKey) Certify(context.Context, descriptor.Period, ed25519.PublicKey, descriptor.Expiries) (descriptor.HourlyCertificates, error) {
	return descriptor.HourlyCertificates{}, errNoKey
}

func (noKey) RevisionKey(context.Context, descriptor.Period) (descriptor.RevisionKey, error) {
	return descriptor.RevisionKey{}, errNoKey
}

func (noKey) Close() error { return nil }

// waiting returns a balance.Env.Country that waits for tor's answers.
func waiting(ctx context.Context, t *tor.Tor) func(netip.Addr) (string, bool) {
	known := map[netip.Addr]string{}
	return func(a netip.Addr) (string, bool) {
		if _, found := known[a]; !found {
			known[a] = tor.Country(ctx, t.Client().GetInfo, a)
		}
		return known[a], false
	}
}

// fixed is a source of one consensus.
type fixed struct{ consensus *hsdir.Consensus }

func (f fixed) Consensus() (*hsdir.Consensus, error) { return f.consensus, nil }

func (fixed) Subscribe() (<-chan struct{}, func()) { return make(chan struct{}), func() {} }

// readOnly is a store that is read, and keeps writes in memory.
type readOnly struct{ *state.DB }

func (readOnly) SwapService(context.Context, descriptor.Address, uint64, state.Service) (uint64, error) {
	return 0, state.ErrReadOnly
}

func (readOnly) SwapInstance(context.Context, descriptor.Address, uint64, state.Instance) (uint64, error) {
	return 1, nil
}

func (readOnly) SwapClaims(context.Context, descriptor.Period, uint64, state.Claims) (uint64, error) {
	return 1, nil
}

func (readOnly) Swap(_ context.Context, changes ...state.Change) ([]uint64, error) {
	return make([]uint64, len(changes)), nil
}
