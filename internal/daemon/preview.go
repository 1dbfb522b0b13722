package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
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
	defer func() { release(slices.Collect(maps.Values(services)), log) }()
	if len(services) == 0 {
		return nil, fmt.Errorf("opening the services: %w", errors.Join(err, errNoServices))
	}
	if err != nil {
		log.Warn("services left out", "error", err)
	}
	store, err := state.OpenReadOnly(cfg.StateDir, log)
	if errors.Is(err, fs.ErrNotExist) {
		store, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []Preview
	err = withConsensus(ctx, cfg, func(t *tor.Tor, c *hsdir.Consensus) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		record := event.Recorder(func(event.Event) {})
		backends := backend.New(backend.Config{Consensus: fixed{c}, Fetcher: newFetcher(t), Store: readOnly{store}, Record: record})
		done := make(chan struct{})
		go func() {
			defer close(done)
			backends.Run(ctx)
		}()
		env := balance.Env{Consensus: fixed{c}, Backends: backends, Store: readOnly{store}, Record: record}
		for _, address := range slices.SortedFunc(maps.Keys(services), func(a, b descriptor.Address) int { return strings.Compare(a.String(), b.String()) }) {
			p := Preview{Service: address}
			if plan, err := balance.Preview(ctx, services[address], env); err != nil {
				p.Error = err.Error()
			} else {
				p.Plan = &plan
			}
			list = append(list, p)
		}
		cancel()
		<-done
		return nil
	})
	return list, err
}

// fixed is a source of one consensus.
type fixed struct{ consensus *hsdir.Consensus }

func (f fixed) Consensus() (*hsdir.Consensus, error) { return f.consensus, nil }

func (fixed) Subscribe() (<-chan struct{}, func()) { return make(chan struct{}), func() {} }

// readOnly is a store that is read, if there is one, and keeps what is written to
// itself.
type readOnly struct{ db *state.DB }

func (r readOnly) Service(a descriptor.Address) (state.Service, uint64, error) {
	if r.db == nil {
		return state.Service{}, 0, nil
	}
	return r.db.Service(a)
}

func (r readOnly) Instances() ([]state.Listed[state.Instance], error) {
	if r.db == nil {
		return nil, nil
	}
	return r.db.Instances()
}

func (r readOnly) AllClaims() ([]state.ListedClaims, error) {
	if r.db == nil {
		return nil, nil
	}
	return r.db.AllClaims()
}

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
