package config

import (
	"cmp"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/health"
)

// Checks are the keys of every table of health checks: [check], [service.check] and
// [service.instance.check]. A key that a table does not give has the value of the
// table around it.
type Checks struct {
	// Kind is "tcp", "http", "agent" or "none". Default: "tcp".
	Kind string `toml:"kind" is:"check"`

	// Port is the port of the onion service that is checked. Default: 80, and then
	// a tor that answers is enough, if it has no such port.
	Port int `toml:"port" range:"1 65535"`

	// Path is what a check by HTTP asks for. Default: "/".
	Path string `toml:"path" is:"http path"`

	// Host is the Host header of a check by HTTP. Default: the onion address.
	Host string `toml:"host" is:"http host"`

	// ExpectStatus is what the status of the answer must be: "200", "2xx",
	// "200-299", or several of them with commas between. Default: "2xx,3xx".
	ExpectStatus string `toml:"expect_status" is:"http status"`

	// ExpectText is what the body of the answer must have. Default: anything.
	ExpectText string `toml:"expect_text" is:"text"`

	// Interval is the time between checks of one instance. Default: 30 s.
	Interval time.Duration `toml:"interval" is:"check interval"`

	// FastInterval is the time between checks of an instance that is going up or
	// down. Default: a sixth of Interval, at least half a second.
	FastInterval time.Duration `toml:"fast_interval" is:"check interval"`

	// Timeout is that of one check. Default: 15 s.
	Timeout time.Duration `toml:"timeout" is:"check interval"`

	// Rise is how many checks in a row must pass for a down instance to be up
	// again. Default: 2.
	Rise int `toml:"rise" range:"1 100"`

	// Fall is how many checks in a row must fail for an instance to be down.
	// Default: 3.
	Fall int `toml:"fall" range:"1 100"`

	// Jitter is the share by which intervals vary, 0 to 1. Default: 0.2.
	Jitter float64 `toml:"jitter"`

	// Probe makes a probe address for each instance, to be added to its ob_config,
	// and checks it. Default: false.
	Probe bool `toml:"probe"`
}

// PublicChecks are the keys about visits of the public address, in [check] and
// [service.check].
type PublicChecks struct {
	// PublicInterval is the time between visits of the public address. Default:
	// "5m", longer with many services. Not while Kind is "none".
	PublicInterval time.Duration `toml:"public_interval" is:"check interval"`
}

// Check is the [check] table.
type Check struct {
	Checks
	PublicChecks

	// Canary is an onion service, "ADDRESS.onion:PORT", that is visited when
	// instances fail: if it fails, too, the cause is taken to be our own tor.
	// Default: the other instances.
	Canary string `toml:"canary" is:"canary"`

	// Rate is how many checks a second, at most, get circuits of their own.
	// Default: 2.
	Rate float64 `toml:"rate" default:"2"`
}

// ServiceCheck is a [service.check].
type ServiceCheck struct {
	Checks
	PublicChecks
}

// InstanceCheck is a [service.instance.check].
type InstanceCheck struct {
	Checks

	// Address is where the check connects. Default: the instance's address. An
	// agent's port must not be open to visitors, as all ports of the instance are:
	// give it an onion service of its own.
	Address descriptor.Address `toml:"address" is:"check address"`

	// ClientKey is as that of the instance, for Address.
	ClientKey string `toml:"client_key" is:"client key"`
}

const defaultPort = 80

// minRate is the lowest Rate: with fewer circuits, nothing is found in time.
const minRate = 0.01

// builtin are the values of keys that no table gives.
var builtin = Checks{
	Kind: string(health.TCP), Path: "/", ExpectStatus: "2xx,3xx",
	Interval: 30 * time.Second, Timeout: 15 * time.Second, Rise: 2, Fall: 3, Jitter: 0.2,
}

// PublicInterval is the default time between visits of a public address.
const PublicInterval = 5 * time.Minute

// checks fills in how the instances of all services are checked.
func (r *reader) checks(c *Config) {
	if r.given["check.rate"] && c.Check.Rate < minRate {
		r.add("check.rate", "%v is too low, want at least %v", c.Check.Rate, minRate)
	}
	all := r.inherit(builtin, c.Check.Checks, "check")
	public := r.publicInterval(PublicInterval, c.Check.PublicChecks, "check")
	for n := range c.Services {
		r.checksOf(&c.Services[n].Balancing, fmt.Sprintf("service[%d]", n), all, public)
	}
	for n := range c.Shards {
		r.checksOf(&c.Shards[n].Balancing, fmt.Sprintf("shard[%d]", n), all, public)
	}
}

// checksOf fills in how the instances of the service or shard at path are checked. all and
// public are the values of keys that it does not give.
func (r *reader) checksOf(s *Balancing, path string, all Checks, public time.Duration) {
	own := r.inherit(all, s.Check.Checks, path+".check")
	if s.Public = r.publicInterval(public, s.Check.PublicChecks, path+".check"); own.Kind == string(health.None) {
		s.Public = 0
	}
	for m := range s.Instances {
		i, path := &s.Instances[m], fmt.Sprintf("%s.instance[%d].check", path, m)
		final := r.inherit(own, i.Check.Checks, path)
		i.Spec, i.Probe = final.spec(i.Check.Address), final.Probe
		if i.Check.ClientKey != "" && i.Check.Address == (descriptor.Address{}) {
			r.add(path+".client_key", "needs address, the onion service that it is for; the instance's own client_key is used for its own")
		}
	}
}

func (r *reader) publicInterval(outer time.Duration, p PublicChecks, path string) time.Duration {
	if r.given[path+".public_interval"] {
		return p.PublicInterval
	}
	return outer
}

// inherit returns inner, the table at path, with the keys that it does not give
// from the table around it.
func (r *reader) inherit(outer, inner Checks, path string) Checks {
	inner.Kind = cmp.Or(inner.Kind, outer.Kind)
	inner.Port = cmp.Or(inner.Port, outer.Port)
	inner.Path = cmp.Or(inner.Path, outer.Path)
	inner.Host = cmp.Or(inner.Host, outer.Host)
	inner.ExpectStatus = cmp.Or(inner.ExpectStatus, outer.ExpectStatus)
	inner.ExpectText = cmp.Or(inner.ExpectText, outer.ExpectText)
	inner.Timeout = cmp.Or(inner.Timeout, outer.Timeout)
	inner.Rise = cmp.Or(inner.Rise, outer.Rise)
	inner.Fall = cmp.Or(inner.Fall, outer.Fall)
	if inner.FastInterval == 0 && inner.Interval == 0 {
		inner.FastInterval = outer.FastInterval
	}
	inner.Interval = cmp.Or(inner.Interval, outer.Interval)
	if !r.given[path+".jitter"] {
		inner.Jitter = outer.Jitter
	}
	if !r.given[path+".probe"] {
		inner.Probe = outer.Probe
	}
	if inner.Jitter > 1 {
		r.add(path+".jitter", "%v is out of range, want 0 to 1", inner.Jitter)
	}
	if inner.FastInterval > inner.Interval {
		r.add(path+".fast_interval", "%s is longer than the interval, %s", inner.FastInterval, inner.Interval)
	}
	for key, kind := range map[string]health.Kind{"path": health.HTTP, "host": health.HTTP, "expect_status": health.HTTP, "expect_text": health.HTTP} {
		if r.given[path+"."+key] && inner.Kind != string(kind) {
			r.add(path+"."+key, "is for kind = %q, and this is a check of kind %q", kind, inner.Kind)
		}
	}
	if inner.Kind == string(health.Agent) && inner.Port == 0 && r.given[path+".kind"] {
		r.add(path+".port", "is missing: the port on which the agent answers")
	}
	return inner
}

// spec returns the form that checks are made by.
func (c Checks) spec(address descriptor.Address) health.Spec {
	s := health.Spec{Kind: health.Kind(c.Kind)}
	if s.Kind == health.None {
		return s
	}
	s.Address, s.Port, s.AnyPort = address, uint16(cmp.Or(c.Port, defaultPort)), c.Port == 0
	s.Interval, s.FastInterval, s.Timeout = c.Interval, cmp.Or(c.FastInterval, min(max(c.Interval/6, 500*time.Millisecond), c.Interval)), c.Timeout
	s.Rise, s.Fall, s.Jitter = c.Rise, c.Fall, c.Jitter
	if s.Kind == health.HTTP {
		s.Path, s.Host, s.Status, s.Text = c.Path, c.Host, c.ExpectStatus, c.ExpectText
	}
	return s
}

// The intervals and the timeout of checks.
const (
	checkShortest = 100 * time.Millisecond
	checkLongest  = time.Hour
)

func readCheckInterval(in reading, value any) (any, error) {
	s, ok := value.(string)
	if !ok {
		return readInterval(in, value) // the same complaints
	}
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%q is no duration, want %s", s, aDuration)
	case d == 0 && in.tag.Get("toml") == "public_interval":
		return d, nil
	case d < checkShortest || d > checkLongest:
		return nil, fmt.Errorf("%q is out of range, want \"100ms\" to \"1h\"", s)
	}
	return d, nil
}

var (
	httpPath   = regexp.MustCompile(`^/[!-~]*$`)
	httpHost   = regexp.MustCompile(`^[0-9A-Za-z.:\[\]_-]+$`)
	httpStatus = regexp.MustCompile(`^[1-5](xx|\d\d(-[1-5]\d\d)?)(,[1-5](xx|\d\d(-[1-5]\d\d)?))*$`)
)

func matching(pattern *regexp.Regexp, wanted string) func(dir, s string) (any, error) {
	return func(_, s string) (any, error) {
		if len(s) > 1000 || !pattern.MatchString(s) {
			return nil, fmt.Errorf("%q is not %s", s, wanted)
		}
		return s, nil
	}
}

func readCanary(_, s string) (any, error) {
	if _, _, err := CanaryTarget(s); err != nil {
		return nil, err
	}
	return s, nil
}

// CanaryTarget splits a canary, "ADDRESS.onion:PORT"; the port is 80 by default.
func CanaryTarget(s string) (a descriptor.Address, port uint16, err error) {
	host, text, err := net.SplitHostPort(s)
	if err != nil {
		host, text = s, strconv.Itoa(defaultPort)
	}
	number, err := strconv.ParseUint(text, 10, 16)
	if err != nil || number == 0 || !strings.HasSuffix(host, ".onion") {
		return a, 0, fmt.Errorf("%q is no onion service, want \"ADDRESS.onion:PORT\"", s)
	}
	a, err = descriptor.ParseAddress(host)
	return a, uint16(number), err
}
