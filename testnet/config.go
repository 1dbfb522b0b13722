package testnet

import (
	"fmt"
	"time"
)

// Config says what network to make. Its zero value is one.
type Config struct {
	// Dir holds a directory for each tor. By default a new temporary one is
	// made, and Stop removes it; a directory that is given stays.
	Dir string

	Authorities int // 3 to 9; with fewer there is no measured bandwidth; default 3
	Relays      int // besides the authorities; default DefaultRelays

	// VotingInterval is the time from one consensus to the next, default
	// DefaultVotingInterval. A time period and a shared random run are 24
	// intervals each. Tor accepts no less than 10 s; and only multiples of
	// 5 s that divide half an hour give periods of whole minutes, in which
	// tor counts.
	VotingInterval time.Duration

	ConsensusParams []string // "name=value", which the authorities vote for

	// Clients are the names of the tors that Client and ControlTarget find.
	// They are started together with the network, which is faster than
	// afterwards.
	Clients []string

	// LogLevel is what the tors write to their output.log, as in torrc's Log;
	// default "notice". "[rend]info notice" tells of onion services in detail.
	LogLevel string

	TorBinary string         // default "tor", looked up in PATH; tor-gencert likewise, beside it
	Progress  func(Progress) // called from one goroutine, about twice a second while the network starts
}

// Defaults of Config.
const (
	DefaultAuthorities    = 3
	DefaultRelays         = 14
	DefaultVotingInterval = 10 * time.Second
)

// Votes are given, and consensuses signed, within these bounds; tor accepts no
// shorter ones, and a quick machine needs no longer ones.
const (
	minDelay = 2 * time.Second
	maxDelay = 5 * time.Second
)

// Validate fills in what was left out, and says what cannot be.
func (c *Config) Validate() error {
	if c.Authorities == 0 {
		c.Authorities = DefaultAuthorities
	}
	if c.Relays == 0 {
		c.Relays = DefaultRelays
	}
	if c.VotingInterval == 0 {
		c.VotingInterval = DefaultVotingInterval
	}
	if c.TorBinary == "" {
		c.TorBinary = "tor"
	}
	if c.LogLevel == "" {
		c.LogLevel = "notice"
	}
	v := c.VotingInterval
	switch {
	case c.Authorities < 3 || c.Authorities > 9:
		return fmt.Errorf("a network has 3 to 9 authorities, not %d", c.Authorities)
	case c.Relays < 3 || c.Relays > 100:
		return fmt.Errorf("a network has 3 to 100 relays, not %d", c.Relays)
	case v < 10*time.Second || v > 30*time.Minute || v%(5*time.Second) != 0 || 30*time.Minute%v != 0:
		return fmt.Errorf("a voting interval of %v is none that tor takes: it must be 10s or more, a multiple of 5s, and divide 30m", v)
	}
	return nil
}
