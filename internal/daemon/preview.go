package daemon

import (
	"context"
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
	"onionbalancer/internal/event"
	"onionbalancer/internal/state"
	"onionbalancer/internal/tor"
)

// Preview is the plan of one service.
type Preview struct {
	Service descriptor.Address `json:"service"`
	Error   string             `json:"error,omitempty"`
	Plan    *balance.Plan      `json:"plan,omitempty"` // nil with an error
}

// Plans returns what the services of cfg would publish now, by address, and
// publishes nothing. It uses the tor of cfg, or that of a running daemon.
func Plans(ctx context.Context, cfg *config.Config, log *slog.Logger) ([]Preview, error) {
	services, err := buildAll(cfg, log)
	defer func() { release(maps.Values(services), log) }()
	if len(services) == 0 {
		return nil, fmt.Errorf("opening the services: %w", errors.Join(err, errNoServices))
	}
	if err != nil {
		log.Warn("services left out", "error", err)
	}
	store, err := state.OpenReadOnly(cfg.StateDir, log)
	if errors.Is(err, fs.ErrNotExist) {
		store, err = new(state.DB), nil // has nothing stored
	}
	if err != nil {
		return nil, err
	}
	t, c, stop, err := connect(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer stop()
	record := event.Recorder(func(event.Event) {})
	backends := backend.New(backend.Config{Consensus: fixed{c}, Fetcher: newFetcher(t), Store: readOnly{store}, Record: record})
	defer background(ctx, backends.Run)()
	env := balance.Env{Consensus: fixed{c}, Backends: backends, Store: readOnly{store}, Record: record, Country: waiting(ctx, t), Advise: advice.Run}
	var list []Preview
	for _, address := range slices.SortedFunc(maps.Keys(services), func(a, b descriptor.Address) int { return strings.Compare(a.String(), b.String()) }) {
		p := Preview{Service: address}
		if plan, err := balance.Preview(ctx, services[address], env); err != nil {
			p.Error = err.Error()
		} else {
			p.Plan = &plan
		}
		list = append(list, p)
	}
	return list, nil
}

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
