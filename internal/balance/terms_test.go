package balance

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/state"
	"onionbalancer/testnet/sim"
)

// term is a manager's handle of a service's record in a store that several share: it is of
// no use after another manager took the service over.
type term struct {
	store  *flakyStore
	owner  string
	number uint64
	mu     sync.Mutex
	dead   bool          // the process was killed
	lose   bool          // the next answer to a write
	late   chan struct{} // until it is closed, answers wait; nil: they do not
	naive  atomic.Bool   // it does not know of terms
	tries  atomic.Int32  // writes, and
	swaps  atomic.Int32  // those that were made
}

// take makes a manager the owner of the scene's service.
func (s *managers) take(owner string) *term {
	a := s.custodian.Address()
	r, version, err := s.store.DB.Service(a)
	if err != nil {
		s.t.Error(err)
	}
	r.Owner, r.Term = owner, r.Term+1
	if _, err := s.store.DB.SwapService(s.t.Context(), a, version, r); err != nil {
		s.t.Error(err)
	}
	return &term{store: s.shared, owner: owner, number: r.Term}
}

// rewrite writes the record again as it is.
func (s *managers) rewrite() {
	a := s.custodian.Address()
	r, version, err := s.store.DB.Service(a)
	if err == nil {
		_, err = s.store.DB.SwapService(s.t.Context(), a, version, r)
	}
	if err != nil {
		s.t.Error(err)
	}
}

func (m *term) Service(a descriptor.Address) (state.Service, uint64, error) {
	return m.store.Service(a)
}

// look reads the record, which another manager may own by now.
func (m *term) look(a descriptor.Address) (state.Service, uint64, error) {
	r, version, err := m.store.Service(a)
	if err == nil && (r.Owner != m.owner || r.Term != m.number) {
		err = fmt.Errorf("%s in term %d: %w", r.Owner, r.Term, state.ErrFenced)
	}
	return r, version, err
}

func (m *term) SwapService(ctx context.Context, a descriptor.Address, version uint64, r state.Service) (uint64, error) {
	m.mu.Lock()
	dead, lose, late := m.dead, m.lose, m.late
	m.mu.Unlock()
	if dead {
		return 0, errors.New("the process is dead")
	}
	m.tries.Add(1)
	if _, _, err := m.look(a); err != nil && !m.naive.Load() {
		return 0, err
	}
	r.Owner, r.Term = m.owner, m.number
	version, err := m.store.SwapService(ctx, a, version, r)
	if late != nil {
		<-late
	}
	if err == nil {
		m.swaps.Add(1)
		if lose {
			m.mu.Lock()
			m.lose = false
			m.mu.Unlock()
			return 0, errors.New("the answer was lost")
		}
	}
	return version, err
}

// managers are several that publish the scene's service, one after the other, with all that
// left any of them.
type managers struct {
	*scene
	mine    *term
	shared  *flakyStore // of all managers
	asleep  atomic.Bool
	fenced  atomic.Int32
	mu      sync.Mutex
	highest map[descriptor.Period]uint64 // that was launched
	earlier map[descriptor.Period]uint64 // in an earlier term
	number  uint64                       // of the last that launched anything
	launch  int                          // uploads, and
	late    int                          // of these, those of a term that was over
}

// onManagers runs do on a network with a service that one of several managers publishes.
func onManagers(t *testing.T, cfg sim.Config, reserve func(*Env), do func(t *testing.T, m *managers)) {
	stable := sim.InstanceConfig{PointLife: 50 * time.Hour}
	onSceneOf(t, cfg, []sim.InstanceConfig{stable, stable, stable}, func(t *testing.T, s *scene) {
		s.stop()
		m := &managers{scene: s, highest: map[descriptor.Period]uint64{}, earlier: map[descriptor.Period]uint64{}}
		custody := s.custody
		s.custody = func(c *Config) {
			c.Resume = true
			if custody != nil {
				custody(c)
			}
		}
		s.prepare = func() {
			m.shared = &flakyStore{DB: s.store.DB}
			m.mine = m.take(fmt.Sprintf("m%d", m.number+1))
			reserve(&s.env)
			s.env.Store = m.mine
			s.env.Awake = func() bool { return !m.asleep.Load() }
			s.env.Fenced = func(descriptor.Address) { m.fenced.Add(1) }
			mine := m.mine
			x := &spy{s.env.Uploads(descriptor.Address{}), func(p descriptor.Period, revision uint64) error { return m.launched(mine, p, revision) }}
			s.env.Uploads = func(descriptor.Address) Uploader { return x }
		}
		s.start()
		do(t, m)
	})
}

// launched judges an upload: its counter is reserved, above those of all earlier terms, and
// its term is not over.
func (m *managers) launched(by *term, p descriptor.Period, revision uint64) error {
	by.mu.Lock()
	dead := by.dead
	by.mu.Unlock()
	if dead {
		return errors.New("the process is dead")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.launch++
	if m.asleep.Load() {
		m.t.Errorf("an upload was launched while the process had not looked at its record")
	}
	switch {
	case by.number < m.number:
		m.late++
	case by.number > m.number:
		m.number = by.number
		for of, n := range m.highest {
			m.earlier[of] = n
		}
	}
	if stored := m.ceiling(p); revision > stored {
		m.t.Errorf("term %d: counter %d was uploaded, and %d are reserved", by.number, revision, stored)
	}
	if revision <= m.earlier[p] {
		m.t.Errorf("term %d: counter %d was uploaded after %d in an earlier term", by.number, revision, m.earlier[p])
	}
	m.highest[p] = max(m.highest[p], revision)
	return nil
}

// launches returns how many uploads were launched so far.
func (m *managers) launches() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.launch
}

// kill ends the manager without its being able to say so.
func (m *managers) kill() {
	m.mine.mu.Lock()
	m.mine.dead = true
	m.mine.mu.Unlock()
	m.stop()
}
