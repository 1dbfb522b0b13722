package offline

import (
	"errors"
	"fmt"

	"onionbalancer/descriptor"
	"onionbalancer/internal/shell"
)

// missingLocked says why there is nothing for p, and what to do.
func (c *Custodian) missingLocked(p descriptor.Period) error {
	s, b := c.state.keys.Schedule, c.state.bundle
	var why error
	switch {
	case p.Length != s.Length():
		why = fmt.Errorf("the network's periods last %s, and the keys in %s were made for %s: use a new directory", p.Length, c.dir, s)
	case b == nil:
		why = fmt.Errorf("no certificates are installed in %s yet: have a request signed offline (balancer ceremony sign), and install the bundle (balancer ceremony install)", c.dir)
	default:
		first, last := b.Entries[0].Period, b.Entries[len(b.Entries)-1].Period
		switch {
		case p.Number > last:
			why = fmt.Errorf("%w %d, at %s: %s", ErrEnded, last, clock(s.End(last)), c.advice())
		case p.Number < first:
			why = fmt.Errorf("the certificates prepared offline begin with period %d, at %s: is the clock right? If so, %s", first, clock(s.Start(first)), c.advice())
		default:
			why = fmt.Errorf("the certificates prepared offline, for periods %d to %d, leave this one out: %s", first, last, c.advice())
		}
	}
	return missing{errors.Join(why, c.trouble)}
}

// missing is the error about a period that nothing is prepared for.
type missing struct{ error }

func (m missing) Unwrap() error { return m.error }

// Temporary reports that the next try may succeed though nobody touches the
// daemon: what is missing may be installed at any moment.
func (missing) Temporary() bool { return true }

// ErrEnded is wrapped by errors about a period after the last one prepared.
var ErrEnded = errors.New("the certificates prepared offline ended with period")

func (c *Custodian) advice() string {
	return fmt.Sprintf("run a ceremony, which begins with: balancer ceremony request --dir %s", shell.Quote(c.dir))
}
