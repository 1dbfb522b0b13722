package balance

import (
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/selection"
)

// Reconfigure hands a new configuration, for the same address, to Run. The one
// handed over last wins. After the end of Run it lets the keys of cfg go.
func (s *Service) Reconfigure(cfg Config) {
	if !s.hand(cfg) {
		cfg.Release(s.log)
	}
}

// hand reports whether there is still somebody to hand cfg to.
func (s *Service) hand(cfg Config) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.handed = append(s.handed, cfg)
	select {
	case s.configs <- struct{}{}:
	default:
	}
	return true
}

// takeOver takes the configuration over that was handed over last, and lets the
// keys of those before it go.
func (s *Service) takeOver(now time.Time) {
	s.mu.Lock()
	handed := s.handed
	s.handed = nil
	s.mu.Unlock()
	if len(handed) == 0 {
		return // it came along with the one before
	}
	last := handed[len(handed)-1]
	for _, cfg := range handed[:len(handed)-1] {
		if !s.custody.holds(cfg) && !sameKeys(cfg, last) {
			s.closing.Go(func() { cfg.Release(s.log) })
		}
	}
	s.reconfigure(now, last)
}

// reconfigure takes cfg over. Instances that stay keep what is known of them.
func (s *Service) reconfigure(now time.Time, cfg Config) {
	s.cfg = cfg
	s.entrust(cfg)
	old := s.instances
	s.instances = nil
	names := make(map[string]string, len(old)) // then to now, of those that stay
	for _, configured := range cfg.Instances {
		i := &instance{Instance: configured, due: now, changes: newChanges()}
		for _, o := range old {
			if o.Address == configured.Address {
				names[o.Name] = configured.Name
				o.Instance = configured
				i = o
			}
		}
		s.instances = append(s.instances, i)
	}
	s.claims.forget(s.configured)
	s.left, s.thefts = nil, nil
	// What is published of an instance stays its own under another name, and is
	// not what is published of another that has its name now.
	s.chosen = slices.DeleteFunc(slices.Clone(s.chosen), func(c selection.Candidate) bool { return names[c.Instance] == "" })
	for n := range s.chosen {
		s.chosen[n].Instance = names[s.chosen[n].Instance]
	}
}

// configured reports whether a is the address of an instance.
func (s *Service) configured(a descriptor.Address) bool {
	return slices.ContainsFunc(s.instances, func(i *instance) bool { return i.Address == a })
}

// entrust asks the keys of cfg from now on. Those of before are kept for as long
// as something is signed with them: with other references, until the new ones
// have certified; with the same, until what they certified has to be renewed.
func (s *Service) entrust(cfg Config) {
	if s.custody != nil && s.custody.holds(cfg) {
		clear(s.custody.failures) // the operator may have mended it
		return
	}
	if s.custody != nil {
		s.custody.cancel()
		s.former = append(s.former, s.custody)
	}
	s.custody = newCustody(cfg)
}

// end lets all keys go.
func (s *Service) end() {
	s.mu.Lock()
	s.ended = true
	handed := s.handed
	s.handed = nil
	s.mu.Unlock()
	for _, cfg := range handed {
		if !s.custody.holds(cfg) {
			s.former = append(s.former, newCustody(cfg))
		}
	}
	for _, c := range append(s.former, s.custody) {
		s.closing.Go(func() { c.close(s.log) })
	}
	s.closing.Wait()
}
