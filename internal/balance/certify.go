package balance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
)

// The wait after a failure to certify, doubling to the second value. A token
// that is absent may be put back at any moment; whatever else is wrong, a PIN
// above all, takes somebody to mend it.
const (
	retryCertify     = 2 * time.Second
	retryCertifyMax  = 5 * time.Minute
	retryCertifyGone = 30 * time.Second
)

// slowAnswer is how long a custodian may take before the status says so.
const slowAnswer = 15 * time.Second

// brokenAfter is how often in a row a signing key may fail, for another reason
// than that its token is absent, before another key is asked for.
const brokenAfter = 3

// certified is what certifying for one period came to.
type certified struct {
	by        *custody
	period    descriptor.Period
	authority *authority
	err       error
	last      bool // of those asked for together
}

// certify has the custodian certify, in the background, for each ring's period
// that lacks it. Answers come to s.certified.
func (s *Service) certify(now time.Time, rings []*hsdir.Ring) {
	c := s.custody
	c.retire([2]descriptor.Period{rings[0].Period, rings[1].Period}, s.log)
	var due []request
	for _, ring := range rings {
		if !s.lacksAuthority(now, ring.Period) {
			delete(c.failures, ring.Period)
			continue
		}
		if !c.mayTry(now, ring.Period) {
			continue
		}
		keys, err := s.keysFor(ring.Period)
		if err != nil {
			continue // plan says so
		}
		due = append(due, request{keys: keys, maxSize: ring.MaxDescriptorSize(), now: now})
	}
	if len(due) == 0 || !c.asked.IsZero() {
		return
	}
	if c.call(func() { s.ask(c, due) }) == nil {
		c.asked = now
	}
}

// ask has each request answered, in turn.
func (s *Service) ask(c *custody, due []request) {
	for n, r := range due {
		ctx, cancel := context.WithTimeout(c.ctx, certifyPatience)
		a, err := c.certify(ctx, r)
		cancel()
		select {
		case s.certified <- certified{c, r.keys.Period, a, err, n == len(due)-1}:
		case <-c.ctx.Done():
			return
		}
	}
}

// mayTry reports whether no failure forbids to try now.
func (c *custody) mayTry(now time.Time, p descriptor.Period) bool {
	f := c.failures[p]
	return f == nil || !now.Before(f.retryAt)
}

// lacksAuthority reports whether there is no authority for p, or one that is
// not to be used for much longer.
func (s *Service) lacksAuthority(now time.Time, p descriptor.Period) bool {
	a := s.authorities[p]
	return a == nil || a.broken || a.by.is.Reference != s.custody.is.Reference || !now.Add(certificateMargin).Before(a.expires)
}

// usable returns the authority for p, nil if there is none that clients accept.
func (s *Service) usable(now time.Time, p descriptor.Period) *authority {
	if a := s.authorities[p]; a != nil && now.Before(a.expires) {
		return a
	}
	return nil
}

// certifiedNow takes one answer in. Until a better authority is there, the one
// made before goes on working.
func (s *Service) certifiedNow(now time.Time, r certified) {
	c := r.by
	if r.last {
		c.asked = time.Time{}
	}
	if c != s.custody {
		return
	}
	err := r.err
	if old := s.authorities[r.period]; err == nil && old != nil {
		err = old.betterThan(r.authority)
	}
	if err == nil {
		s.authorities[r.period] = r.authority
		s.signers[r.authority.public] = true
		delete(c.failures, r.period)
		s.log.Info("certified", "period", r.period.Number, "until", r.authority.expires)
		return
	}
	longest := retryCertifyMax
	if temporary(err) {
		longest = retryCertifyGone
	}
	f := c.failures[r.period]
	if f == nil {
		f = new(failure)
		c.failures[r.period] = f
	}
	f.err, f.retryAt = err, now.Add(min(jitter(retryCertify<<min(f.tries, 10)), longest))
	f.tries++
}

// betterThan returns why a stays in use though there is another authority now.
func (a *authority) betterThan(other *authority) error {
	switch {
	case a.broken && a.public == other.public:
		return errors.New("the signing key is still the one that does not sign")
	case a.broken, a.by.is.Reference != other.by.is.Reference, other.expires.After(a.expires):
		return nil
	}
	return fmt.Errorf("the certificate ends at %s, and the custodian has none that ends later", clock(a.expires))
}

// temporary reports whether what failed may mend itself at any moment.
func temporary(err error) bool {
	var t interface{ Temporary() bool }
	return errors.As(err, &t) && t.Temporary()
}

// signed takes in whether the signing key made the bytes of an upload of e.
// It failed so often in a row.
func (e *edition) signed(o outcome, failures int) {
	if !o.Unencoded {
		e.unmade, e.authority.broken = nil, false
		return
	}
	e.unmade = o.Err
	if failures >= brokenAfter && !temporary(o.Err) {
		e.authority.broken = true
	}
}

// forgetCustody lets go of what belongs to periods that old names, and of keys
// that nothing published is signed with any more.
func (s *Service) forgetCustody(old func(descriptor.Period) bool) {
	maps.DeleteFunc(s.authorities, func(p descriptor.Period, _ *authority) bool { return old(p) })
	maps.DeleteFunc(s.custody.failures, func(p descriptor.Period, _ *failure) bool { return old(p) })
	s.former = slices.DeleteFunc(s.former, func(c *custody) bool {
		for _, a := range s.authorities {
			if a.by == c {
				return false
			}
		}
		for _, e := range s.editions {
			if e.authority.by == c {
				return false
			}
		}
		s.closing.Go(func() { c.close(s.log) })
		return true
	})
}
