// Package sim is a Tor network in memory: authorities that vote, relays that
// come and go, HSDirs, onion services that are instances of a balanced
// service, clients of that service, and a tor that speaks the control
// protocol to anyone who dials it and visits onion services. It exists to run days of a balancer's work in
// seconds, with any of the faults a real network shows switched on and off
// while it runs.
//
// It reads the time from package time and waits in timers and pipes alone, so
// that inside a testing/synctest bubble all of it runs in virtual time. It
// opens no socket and no file, and serves those that it is given. What happens, and
// when, follows from Config.Seed and from the moments at which callers call.
//
//	synctest.Test(t, func(t *testing.T) {
//		n := sim.New(sim.Config{Seed: 1, Churn: 0.05})
//		defer n.Close()
//		web := n.AddInstance(sim.InstanceConfig{Name: "web"})
//		tor := control.New(control.Config{Dial: n.Dial}) // run a balancer on it
//		client := n.NewClient(public, sim.ClientConfig{})
//		time.Sleep(24 * time.Hour)
//		web.SetOnline(false)
//		result := client.Request()
//		conn, trace, err := n.Dialer().Dial(ctx, health.Visit{Address: web.Address(), Port: 80, Circuit: "1"})
//	})
//
// What it says on the control port, and when it says nothing, follows tor
// 0.4.9's source. The hash ring, the outer wrapper of descriptors and the
// consensus are implemented here again rather than borrowed from the packages
// under test, so that a mistake in those shows. Instances alone use package
// descriptor, to encode; its vectors are the check on that.
package sim

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"time"

	"onionbalancer/descriptor"
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
	// Linger is for how long a relay that Churn replaces stays without the HSDir
	// flag, as one that was restarted, before it leaves. 0 means not at all.
	Linger time.Duration

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

	// Requery is for how long a client that fetches a descriptor does not ask the
	// same HSDir again. 0 means 15 minutes, or 5 s on a testing network.
	Requery time.Duration

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
	defaultRequery  = 15 * time.Minute
	testingRequery  = 5 * time.Second
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
	if c.Requery == 0 {
		c.Requery = defaultRequery
		if c.Testing {
			c.Requery = testingRequery
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

// derive hashes the seed with parts to 32 bytes, so that what they name is
// random, but the same in every run, whatever was asked for before.
func (c Config) derive(label string, parts ...[]byte) [32]byte {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint64(nil, c.Seed))
	h.Write([]byte(label))
	for _, p := range parts {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(p))))
		h.Write(p)
	}
	return [32]byte(h.Sum(nil))
}

// source returns the random source of the thing that label and number name.
func (c Config) source(label string, number uint64) *rand.Rand {
	return rand.New(rand.NewChaCha8(c.derive(label, binary.BigEndian.AppendUint64(nil, number))))
}

// between returns a random duration of at least low and under high.
func between(random *rand.Rand, low, high time.Duration) time.Duration {
	if high <= low {
		return low
	}
	return low + time.Duration(random.Int64N(int64(high-low)))
}

// timeBytes is a moment as an input of derive.
func timeBytes(t time.Time) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(t.UnixNano()))
}

// keyring remembers what is costly to compute of addresses, which the control
// port and the clients ask for again and again. Network.mu protects it.
type keyring struct {
	addresses map[string]descriptor.Address
	keys      map[addressPeriod]descriptor.PeriodKeys
}

type addressPeriod struct {
	address descriptor.Address
	period  descriptor.Period
}

// remembered bounds both maps.
const remembered = 20000

// parse reads an address as the control protocol names it: 56 characters.
func (k *keyring) parse(label string) (descriptor.Address, bool) {
	if a, known := k.addresses[label]; known {
		return a, true
	}
	a, err := descriptor.ParseAddress(label)
	if err != nil || len(label) != labelLength {
		return descriptor.Address{}, false
	}
	if k.addresses == nil || len(k.addresses) >= remembered {
		k.addresses = make(map[string]descriptor.Address)
	}
	k.addresses[label] = a
	return a, true
}

const labelLength = 56

// of returns the keys of an address for a period.
func (k *keyring) of(a descriptor.Address, p descriptor.Period) (descriptor.PeriodKeys, error) {
	if keys, known := k.keys[addressPeriod{a, p}]; known {
		return keys, nil
	}
	keys, err := a.Keys(p)
	if err != nil {
		return keys, err
	}
	if k.keys == nil || len(k.keys) >= remembered {
		k.keys = make(map[addressPeriod]descriptor.PeriodKeys)
	}
	k.keys[addressPeriod{a, p}] = keys
	return keys, nil
}
