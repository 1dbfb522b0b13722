package sim

import (
	"maps"
	"time"

	"onionbalancer/descriptor"
)

// CrowdConfig describes the visitors of a service. The zero values of Every and Stay
// are those of people who browse: a visit every five minutes, for an hour.
type CrowdConfig struct {
	// Clients is how many there are at any time.
	Clients int
	// Every is the time between two visits of one of them.
	Every time.Duration
	// Stay is for how long one visits. Then another takes its place, whose tor
	// knows nothing of the service.
	Stay time.Duration
	// Patience is as in ClientConfig.
	Patience time.Duration
	// ConsensusDelay is as in TorConfig.
	ConsensusDelay time.Duration
}

const (
	defaultEvery = 5 * time.Minute
	defaultStay  = time.Hour
	crowdSteps   = 20 // moments within Every at which some of a crowd visit
	crowdViews   = 50 // consensuses that a crowd has at most, at moments of their own
)

// Crowd is thousands of clients of one service, who visit it by themselves. Its methods
// may be called from any goroutine.
type Crowd struct {
	net     *Network
	cfg     CrowdConfig
	members []member
	step    int
	tally   Tally
	left    bool
}

// member is a client of a crowd.
type member struct {
	*Client
	visits int // left until another takes its place
}

// Tally is what became of a crowd's visits.
type Tally struct {
	// Visits counts all of them, Lost those that nobody answered, Retried those that
	// met a point that did not work.
	Visits, Lost, Retried int
	// Retries, Refused and Silent count introduction points that were tried in vain,
	// introductions that were refused, and those that were never answered.
	Retries, Refused, Silent int
	// Fetched counts descriptors.
	Fetched int
	// Waited is how long all of them waited together.
	Waited time.Duration
	// Answered counts the visits that each instance answered, by its name.
	Answered map[string]int
}

// NewCrowd has clients of the service with the given address visit it from now on.
func (n *Network) NewCrowd(address descriptor.Address, cfg CrowdConfig) *Crowd {
	n.lock()
	defer n.mu.Unlock()
	if cfg.Every == 0 {
		cfg.Every = defaultEvery
	}
	if cfg.Stay == 0 {
		cfg.Stay = defaultStay
	}
	c := &Crowd{net: n, cfg: cfg, members: make([]member, cfg.Clients)}
	c.tally.Answered = make(map[string]int)
	now := time.Now()
	for k := range c.members {
		m := &Client{net: n, cfg: ClientConfig{Patience: cfg.Patience}, address: address, random: n.cfg.source("client", n.clients), started: now}
		n.clients++
		if k < crowdViews {
			m.view = &view{net: n, random: m.random, delay: cfg.ConsensusDelay}
			m.view.follow(now)
		} else {
			m.view = c.members[k%crowdViews].view
		}
		c.members[k] = member{m, m.random.IntN(c.visits()) + 1}
	}
	n.agenda.plan(now, c.visit)
	return c
}

// visits is how many visits a client makes.
func (c *Crowd) visits() int { return max(1, int(c.cfg.Stay/c.cfg.Every)) }

// visit has those visit whose turn it is.
func (c *Crowd) visit(now time.Time) {
	if c.left {
		return
	}
	for k := c.step; k < len(c.members); k += crowdSteps {
		m := &c.members[k]
		if m.visits == 0 {
			m.forget()
			m.visits = c.visits()
		}
		m.visits--
		c.tally.count(m.Client.visit(now))
	}
	c.step = (c.step + 1) % crowdSteps
	c.net.agenda.plan(now.Add(c.cfg.Every/crowdSteps), c.visit)
}

func (t *Tally) count(r Result) {
	t.Visits++
	retries := r.Tries
	if r.Err != nil {
		t.Lost++
	} else {
		t.Answered[r.Instance.cfg.Name]++
		retries--
	}
	if retries > 0 {
		t.Retried++
	}
	t.Retries += retries
	t.Refused += r.Refused
	t.Silent += r.Silent
	t.Fetched += r.Fetched
	t.Waited += r.Took
}

// Tally returns what became of the visits since the last call.
func (c *Crowd) Tally() Tally {
	c.net.lock()
	defer c.net.mu.Unlock()
	t := c.tally
	c.tally = Tally{Answered: make(map[string]int)}
	return t
}

// Leave ends the visits.
func (c *Crowd) Leave() {
	c.net.lock()
	defer c.net.mu.Unlock()
	c.left = true
}

// Share is what part of the answered visits an instance answered, 0 to 1.
func (t Tally) Share(instance string) float64 {
	all := 0
	for n := range maps.Values(t.Answered) {
		all += n
	}
	return float64(t.Answered[instance]) / float64(max(all, 1))
}
