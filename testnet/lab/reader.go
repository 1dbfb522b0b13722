package lab

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/tor/control"
)

// readPatience is for one HSDir.
const readPatience = 5 * time.Second

// Reader reads descriptors from HSDirs, as they are, through one of the network's tors.
// It is safe for concurrent use.
type Reader struct {
	client  *control.Client
	fetcher *hsdir.Fetcher
	parser  hsdir.Parser
	decoder descriptor.Decoder
	cancel  context.CancelFunc
	done    chan struct{}

	mu        sync.Mutex
	consensus *hsdir.Consensus
}

// NewReader reads through the tor of that name, until Close.
func (l *Lab) NewReader(ctx context.Context, tor string) (*Reader, error) {
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &Reader{client: l.Control(tor), cancel: cancel, done: make(chan struct{})}
	r.fetcher = hsdir.NewFetcher(hsdir.FetchConfig{Getter: r.client, Patience: readPatience, Total: 4 * readPatience})
	go func() {
		defer close(r.done)
		_ = r.client.Run(running) // until it is cancelled
	}()
	err := r.client.Ready(ctx)
	if err == nil {
		err = r.Refresh(ctx)
	}
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("reading descriptors through tor %q: %w", tor, err)
	}
	return r, nil
}

// Control is a client of the control port of one of the network's clients.
func (l *Lab) Control(tor string) *control.Client {
	return control.New(control.Config{
		Dial:       control.DialTarget(l.Net.ControlTarget(tor)),
		CookieFile: filepath.Join(l.Net.Dir(), tor, "control_auth_cookie"),
	})
}

// Close ends the connection to tor.
func (r *Reader) Close() {
	r.cancel()
	<-r.done
}

// Refresh takes over tor's consensus, which says which HSDirs are asked.
func (r *Reader) Refresh(ctx context.Context) error {
	consensus, err := r.client.GetInfo(ctx, "dir/status-vote/current/consensus-microdesc")
	if err != nil {
		return fmt.Errorf("reading the consensus: %w", err)
	}
	microdescs, err := r.client.GetInfo(ctx, "md/all")
	if err != nil {
		return fmt.Errorf("reading the consensus: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := r.parser.Parse(consensus, microdescs, true)
	if err == nil {
		r.consensus = c
	}
	return err
}

// Consensus is the one of the last Refresh.
func (r *Reader) Consensus() *hsdir.Consensus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.consensus
}

// HSDirs are those that clients ask for the descriptor of an address, as 40
// hexadecimal digits.
func (r *Reader) HSDirs(a descriptor.Address) (list []string, err error) {
	ring := r.Consensus().Current()
	keys, err := a.Keys(ring.Period)
	if err != nil {
		return nil, err
	}
	for _, replica := range ring.Fetch(keys.Blinded) {
		for _, h := range replica {
			list = append(list, h.Hex())
		}
	}
	return list, nil
}

// Ask reads the descriptor of an address from one HSDir.
func (r *Reader) Ask(ctx context.Context, a descriptor.Address, hsdir string) (*descriptor.Descriptor, error) {
	ctx, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	keys, err := a.Keys(r.Consensus().Current().Period)
	if err != nil {
		return nil, err
	}
	raw, err := r.client.HSFetch(ctx, a.Label(), hsdir)
	if err != nil {
		return nil, err
	}
	return r.decoder.Decode(raw, keys, nil, time.Now())
}

// Fetch reads the descriptor of an address as clients do, from any of its HSDirs.
func (r *Reader) Fetch(ctx context.Context, a descriptor.Address) (*descriptor.Descriptor, error) {
	c := r.Consensus()
	keys, err := a.Keys(c.Current().Period)
	if err != nil {
		return nil, err
	}
	result, err := r.fetcher.Fetch(ctx, c, keys, nil, 0, time.Now())
	return result.Descriptor, err
}

// Points are introduction points, by their authentication keys.
type Points map[[32]byte]bool

// PointsOf are those of a descriptor.
func PointsOf(d *descriptor.Descriptor) Points {
	points := Points{}
	for _, p := range d.IntroductionPoints {
		points[p.AuthKey] = true
	}
	return points
}

// Any reports whether any of the points is among others.
func (p Points) Any(others Points) bool {
	for key := range p {
		if others[key] {
			return true
		}
	}
	return false
}
