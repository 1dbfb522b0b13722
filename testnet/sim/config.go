package sim

import (
	"maps"
	"time"
)

// Config describes a network. The zero value is a network of 60 relays with
// the public network's timing, in which no relay ever leaves.
type Config struct {
	// Seed decides everything that is random. Networks of the same seed, with
	// callers that do the same at the same moments, behave the same.
	Seed uint64

	// Relays is how many relays there are at any time. 0 means 60.
	Relays int
	// WithoutHSDir is how many of these are too young for the HSDir flag.
	WithoutHSDir int
	// Churn is the share of the relays that is replaced by new ones in the
	// course of a shared-random run (a day). 0 means that none is.
	Churn float64

	// Testing gives the timing of a network with TestingTorNetwork: a time
	// period is 24 voting intervals, which last 20 s unless VotingInterval
	// says otherwise.
	Testing bool
	// VotingInterval is the time between two consensuses, in whole seconds.
	// 0 means an hour, or 20 s on a testing network.
	VotingInterval time.Duration
	// Params are consensus parameters ("hsdir_spread_store", …). Those that
	// are absent have tor's defaults.
	Params map[string]int32

	// Latency is how long an HSDir takes to answer, at most; each answer takes
	// between half of it and all of it. 0 means 2 s, or 100 ms on a testing
	// network.
	Latency time.Duration

	// Loss is the share of circuits to HSDirs that die without a sign, be they
	// the balancer's, an instance's or a client's: half of them before the
	// HSDir has the request, half of them after it acted on it.
	Loss float64

	// Tor is the tor that Network.Dial reaches.
	Tor TorConfig
}

// TorConfig describes a tor with a control port.
type TorConfig struct {
	// Password is asked of controllers; without one, any of them gets in.
	Password string
	// Version is what GETINFO version answers. "" means "0.4.9.11".
	Version string
	// ConsensusDelay is how long after a consensus became valid this tor gets
	// it. 0 means at a random moment, as tor as a client does it: between 45
	// and 111 minutes after the consensus it has went stale, on the public network.
	ConsensusDelay time.Duration
	// Bootstrap is for how long, from the start of the network, this tor has
	// no consensus. 0 means that it has one at once.
	Bootstrap time.Duration
}

const (
	defaultRelays   = 60
	defaultInterval = time.Hour
	testingInterval = 20 * time.Second
	defaultLatency  = 2 * time.Second
	testingLatency  = 100 * time.Millisecond
	defaultVersion  = "0.4.9.11"

	runIntervals    = 24 // voting intervals in a shared-random protocol run
	offsetIntervals = 12 // and from its start to the next time period's
)

// withDefaults returns c with every zero value replaced by what it stands for.
func (c Config) withDefaults() Config {
	if c.Relays == 0 {
		c.Relays = defaultRelays
	}
	if c.VotingInterval == 0 {
		c.VotingInterval = defaultInterval
		if c.Testing {
			c.VotingInterval = testingInterval
		}
	}
	if c.Latency == 0 {
		c.Latency = defaultLatency
		if c.Testing {
			c.Latency = testingLatency
		}
	}
	if c.Tor.Version == "" {
		c.Tor.Version = defaultVersion
	}
	c.Params = maps.Clone(c.Params)
	return c
}

// param returns a consensus parameter, or tor's default.
func (c Config) param(name string, fallback int32) int32 {
	if v, ok := c.Params[name]; ok {
		return v
	}
	return fallback
}

// periodLength is the length of a time period, in whole minutes.
func (c Config) periodLength() time.Duration {
	if c.Testing {
		return (runIntervals * c.VotingInterval).Truncate(time.Minute)
	}
	return time.Duration(c.param("hsdir_interval", 1440)) * time.Minute
}

// periodOffset is where time periods begin; descriptor.PeriodAt cuts it down
// to minutes.
func (c Config) periodOffset() time.Duration { return offsetIntervals * c.VotingInterval }

// run is the length of a shared-random protocol run.
func (c Config) run() time.Duration { return runIntervals * c.VotingInterval }
