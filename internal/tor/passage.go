package tor

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"onionbalancer/descriptor"
	"onionbalancer/internal/health"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/tor/control"
)

// passage is what the events of one visit showed: which introduction points were
// tried, which acknowledged, and whether the rendezvous joined.
//
// An introduction circuit that is refused is extended to another point. tor
// 0.4.9 then still introduces itself with the key of the first one, which the second
// does not know: only the first point of each circuit counts.
type passage struct {
	mu        sync.Mutex
	tries     []try          // in order
	of        map[string]int // the try of each introduction circuit; -1 once extended
	waiting   string         // the rendezvous circuit that was just told of an acknowledgement
	rend      map[string]int // the try that each rendezvous circuit waits for
	unclear   bool           // a rendezvous could not be told to be of one try
	through   bool           // a circuit was built: our tor is in order
	joined    bool           // the rendezvous joined
	sent      bool           // the stream asks for its port
	noDesc    string         // why no descriptor came
	gotDesc   bool
	remote    string        // what the service's tor ended the stream with
	reason    string        // or ours
	finished  chan struct{} // closed after the stream's last event
	completed bool          // it is closed
	refused   func()        // is called when the first introduction point does not know the service; may be nil
}

// try is an introduction by one point.
type try struct {
	health.PointResult
	pending bool // its relay has not answered yet
}

func newPassage() *passage {
	return &passage{of: map[string]int{}, rend: map[string]int{}, finished: make(chan struct{})}
}

// note takes in an event.
func (p *passage) note(e control.Traffic) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case e.Fetch != "":
		p.noteFetch(e)
	case e.Stream != "":
		p.noteStream(e)
	case e.Purpose == "HS_CLIENT_INTRO":
		p.noteIntroduction(e)
	case e.Purpose == "HS_CLIENT_REND":
		p.noteRendezvous(e)
	}
}

func (p *passage) noteFetch(e control.Traffic) {
	switch e.Fetch {
	case "RECEIVED":
		p.gotDesc = true
		if p.reason != "" {
			p.end()
		}
	case "FAILED":
		p.noDesc = e.Reason
	}
}

func (p *passage) noteStream(e control.Traffic) {
	switch e.Status {
	case "SENTCONNECT":
		p.sent = true
	case "FAILED", "CLOSED":
		p.remote, p.reason = e.Remote, e.Reason
		// When tor cannot read the descriptor, it fails the stream for a moment before
		// it says that the descriptor came.
		if e.Reason != "MISC" || p.gotDesc {
			p.end()
		}
	case "SUCCEEDED":
		p.end()
	}
}

// end says that no more is to come.
func (p *passage) end() {
	if !p.completed {
		p.completed = true
		close(p.finished)
	}
}

// noteIntroduction follows an introduction circuit: HSCI_CONNECTING, HSCI_INTRO_SENT,
// and then HSCI_DONE if its relay acknowledged, else HSCI_CONNECTING again.
func (p *passage) noteIntroduction(e control.Traffic) {
	i, known := p.of[e.Circuit]
	switch {
	case e.Status == "BUILT":
		p.through = true
	case e.Status == "PURPOSE_CHANGED" && e.State == "HSCI_INTRO_SENT":
		p.through = true
		relay, err := descriptor.ParseFingerprint(e.Last)
		if known || err != nil {
			p.of[e.Circuit] = -1
			return
		}
		p.of[e.Circuit] = len(p.tries)
		p.tries = append(p.tries, try{health.PointResult{Relay: relay}, true})
	case !known || i < 0:
	case e.Status == "PURPOSE_CHANGED" && e.OldState == "HSCI_INTRO_SENT" && e.State == "HSCI_DONE":
		p.tries[i].pending, p.tries[i].Acknowledged = false, true
		if p.waiting != "" {
			p.rend[p.waiting], p.waiting = i, ""
		}
	case e.Status == "PURPOSE_CHANGED" && e.OldState == "HSCI_INTRO_SENT":
		p.tries[i].pending = false
		if p.refused != nil {
			p.refused()
		}
	case e.Status == "CLOSED" || e.Status == "FAILED":
		p.tries[i].pending = false
	}
}

// noteRendezvous follows a rendezvous circuit: HSCR_CONNECTING, HSCR_ESTABLISHED_IDLE,
// HSCR_ESTABLISHED_WAITING when the introduction was acknowledged, unless the service
// is quicker, and HSCR_JOINED.
func (p *passage) noteRendezvous(e control.Traffic) {
	if e.Status == "BUILT" {
		p.through = true
	}
	if e.Status != "PURPOSE_CHANGED" {
		return
	}
	p.through = true
	switch e.State {
	case "HSCR_ESTABLISHED_WAITING":
		p.waiting = e.Circuit
	case "HSCR_JOINED":
		p.joined = true
		i, known := p.rend[e.Circuit]
		if !known {
			i = p.onlyPending()
		}
		if i < 0 {
			p.unclear = true
			return
		}
		p.tries[i].pending, p.tries[i].Acknowledged, p.tries[i].Answered = false, true, true
	}
}

// onlyPending returns the try that is pending, -1 unless it is one.
func (p *passage) onlyPending() int {
	found := -1
	for i, t := range p.tries {
		if t.pending {
			if found >= 0 {
				return -1
			}
			found = i
		}
	}
	return found
}

// points returns what is known of the points.
func (p *passage) points() []health.PointResult {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.unclear {
		return nil
	}
	var list []health.PointResult
	for _, t := range p.tries {
		if !t.pending {
			list = append(list, t.PointResult)
		}
	}
	return list
}

// outcome is how far a visit got that did not connect, and why it did not, given
// what the SOCKS port answered. It does not say that ctx ended.
func (p *passage) outcome(code socksCode) (health.Stage, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	acknowledged := slices.ContainsFunc(p.tries, func(t try) bool { return t.Acknowledged })
	refused := slices.ContainsFunc(p.tries, func(t try) bool { return !t.pending && !t.Acknowledged })
	switch {
	case p.remote == "DONE":
		return health.Answered, health.ErrNoPort
	case p.remote != "":
		return health.Answered, fmt.Errorf("%w (%s)", health.ErrRefused, printable.Text(p.remote))
	case p.joined:
		return health.Answered, health.ErrSilent
	case acknowledged:
		return health.Introduced, errors.New("an introduction point acknowledged, and the onion service did not come to the rendezvous")
	case p.sent:
		return health.Introduced, errors.New("the onion service does not answer on a circuit that was there")
	}
	if stage, err := outcomeOf(code); err != nil && code != socksGeneral && code != socksRefused {
		return stage, err
	}
	switch {
	case refused:
		return health.NoPoint, errors.New("the introduction points that were tried do not know the onion service")
	case p.through:
		return health.NoPoint, errors.New("no introduction point acknowledged")
	case p.gotDesc && p.reason == "MISC":
		return health.NoPoint, errors.New("tor cannot read the descriptor: a client key may be missing, or wrong")
	case p.noDesc != "":
		return health.NoPoint, fmt.Errorf("there is no descriptor (%s)", printable.Text(p.noDesc))
	}
	return health.NoTor, errors.New("tor built no circuit")
}

// outcomeOf is outcome without events. Several causes share a code; the likeliest is
// named.
func outcomeOf(code socksCode) (health.Stage, error) {
	switch code {
	case socksNoDesc:
		return health.NoPoint, errors.New("there is no descriptor")
	case socksIntroFailed, socksIntroLate:
		return health.NoPoint, errors.New("no introduction point of the descriptor can be used")
	case socksNoClientKey:
		return health.NoPoint, errors.New("the descriptor is for authorized clients, and tor has no client key")
	case socksBadKey:
		return health.NoPoint, errors.New("the descriptor is for authorized clients, and the client key does not open it")
	case socksUnreachable:
		return health.NoPoint, errors.New("there is no descriptor, or none of its introduction points can be used")
	case socksRefused:
		return health.Answered, errors.New("the onion service has no such port, or nothing accepts connections where it leads")
	case socksGeneral:
		return health.Answered, health.ErrRefused
	case noCode:
		return health.NoPoint, nil
	}
	return health.NoPoint, fmt.Errorf("tor's SOCKS port answered %#x", int(code))
}
