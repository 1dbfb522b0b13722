package cluster

import (
	"errors"
	"time"

	"onionbalancer/internal/state"
)

// damaged returns the version of a record that does not open, with which a Swap may replace
// it; 0 if it is none.
func (s *Store) damaged(key state.Key) uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if r := s.mirror.names[s.sealer.Load().name(key)]; r != nil && r.err != nil {
		return uint64(r.version)
	}
	return 0
}

// Stats is what there is to say of a store. Counts are since Open.
type Stats struct {
	Records  int   // that open
	Damaged  int   // that do not
	Old      int   // that another key than the first sealed
	Bytes    int   // of all values, sealed
	Revision int64 // of the engine
	Age      time.Duration
	Swaps    struct{ Made, Conflicts, Unknown, Errors uint64 } // requests; Errors and Unknown are transactions
	Took     time.Duration                                     // of all transactions
	Sent     uint64                                            // transactions
	Reads    uint64                                            // of everything
	Looks    uint64                                            // whether anything is missing, when nothing was
	Breaks   uint64                                            // of the watch
	Late     uint64                                            // how often it did not show a change of our own
	Back     uint64                                            // how often the engine went back
}

// Stats returns the figures of now.
func (s *Store) Stats() Stats {
	now := s.now()
	s.mu.RLock()
	defer s.mu.RUnlock()
	st := s.stats
	st.Bytes, st.Revision, st.Age = s.mirror.bytes, s.seen, s.ageLocked(now)
	first := s.sealer.Load().keys[0].id
	if s.layout != 0 && s.layoutBy != first {
		st.Old++
	}
	for _, r := range s.mirror.names {
		switch {
		case r.err != nil:
			st.Damaged++
		default:
			st.Records++
			if r.header.keyID() != first {
				st.Old++
			}
		}
	}
	return st
}

// count counts a transaction.
func (s *Store) count(err error, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Sent++
	s.stats.Took += took
	switch {
	case errors.Is(err, ErrUnknown):
		s.stats.Swaps.Unknown++
	case err != nil:
		s.stats.Swaps.Errors++
	}
}
