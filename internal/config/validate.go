package config

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"onionbalancer/descriptor"
	"onionbalancer/selection"
)

const (
	maxPoints = descriptor.MaxIntroductionPoints
	torPoints = 3 // HiddenServiceNumIntroductionPoints, unless set
	// shortName is how many characters of an address stand for an instance
	// without a name, unless two begin alike.
	shortName = 6
)

// validate checks what one table alone cannot tell, and names what has no name.
func (c *Config) validate(bad *complaints) {
	if len(c.Services) == 0 && len(bad.list) == 0 {
		bad.add("service", "%w", errNoServices)
	}
	c.validateTor(bad)
	keys := make(map[string]int)
	for i := range c.Services {
		s, path := &c.Services[i], fmt.Sprintf("service[%d]", i)
		if first, again := keys[sameKey(s.Key)]; again && s.Key != "" {
			bad.add(path+".key", "the same key is in line %d; one service has one [[service]]",
				bad.lines.of(fmt.Sprintf("service[%d].key", first)))
		} else {
			keys[sameKey(s.Key)] = i
		}
		s.validate(path, bad)
	}
}

func (c *Config) validateTor(bad *complaints) {
	if c.Tor.Own() {
		for _, f := range []struct{ key, value string }{
			{"cookie_file", c.Tor.CookieFile}, {"password_file", c.Tor.PasswordFile},
		} {
			if f.value != "" {
				bad.add("tor."+f.key, "needs control, the control port it is for; without it, balancer starts a tor of its own")
			}
		}
		if c.Tor.ControlRemote {
			bad.add("tor.control_remote", "needs control, the control port that it allows")
		}
		return
	}
	if !c.Tor.ControlRemote && !onThisMachine(c.Tor.Control) {
		bad.add("tor.control", "%q is on another machine: whoever answers there, or is on the way, is told the password and every backend; "+
			"use a unix socket or 127.0.0.1, at the end of a tunnel for instance, or set control_remote = true", c.Tor.Control)
	}
	for _, f := range []struct{ key, value string }{{"binary", c.Tor.Binary}, {"torrc", c.Tor.Torrc}} {
		if f.value != "" {
			bad.add("tor."+f.key, "is for a tor of balancer's own; remove it, or remove control")
		}
	}
}

// onThisMachine reports whether a control port is a unix socket or on loopback.
func onThisMachine(control string) bool {
	if strings.HasPrefix(control, "unix:") {
		return true
	}
	host, _, _ := net.SplitHostPort(control)
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

func (s *Service) validate(path string, bad *complaints) {
	addresses := make(map[descriptor.Address]int)
	for i := range s.Instances {
		at := fmt.Sprintf("%s.instance[%d]", path, i)
		if first, again := addresses[s.Instances[i].Address]; again && s.Instances[i].Address != (descriptor.Address{}) {
			bad.add(at+".address", "the same address is in line %d; an instance is listed once",
				bad.lines.of(fmt.Sprintf("%s.instance[%d].address", path, first)))
		} else {
			addresses[s.Instances[i].Address] = i
		}
		if _, weighted := bad.lines[at+".weight"]; weighted && s.Strategy != weightedStrategy {
			bad.add(at+".weight", "the strategy %q takes no notice of it; remove it, or set strategy = %q", s.Strategy, weightedStrategy)
		}
	}
	names := make(map[string]int)
	for i, instance := range s.Instances {
		first, again := names[instance.Name]
		switch {
		case instance.Name == "":
		case again:
			bad.add(fmt.Sprintf("%s.instance[%d].name", path, i), "%q is the name of the instance in line %d as well",
				instance.Name, bad.lines.of(fmt.Sprintf("%s.instance[%d].name", path, first)))
		default:
			names[instance.Name] = i
		}
	}
	s.nameInstances()
}

var weightedStrategy = selection.Weighted{}.Name()

// nameInstances names the instances that have no name by the beginning of their
// address, as much of it as tells them from all others of the service.
func (s *Service) nameInstances() {
	length := shortName
	for ; length < len(descriptor.Address{}.Label()); length++ {
		names := make(map[string]bool)
		for _, i := range s.Instances {
			names[cmp.Or(i.Name, i.Address.Label()[:length])] = true
		}
		if len(names) == len(s.Instances) {
			break
		}
	}
	for i := range s.Instances {
		s.Instances[i].Name = cmp.Or(s.Instances[i].Name, s.Instances[i].Address.Label()[:length])
	}
}

// CheckAddresses checks what only the opened keys can tell: addresses[i] is the
// onion address that the key of Services[i] stands for. No two services may
// have one address, and no instance may be one of the services, whose
// introduction points would not answer for another.
func (c *Config) CheckAddresses(addresses []descriptor.Address) error {
	bad := &complaints{file: c.File, lines: c.lines}
	services := make(map[descriptor.Address]int)
	for i, a := range addresses {
		path := fmt.Sprintf("service[%d].key", i)
		if first, again := services[a]; again {
			bad.add(path, "it is the key of %s, as is the one in line %d; one service has one [[service]]",
				a.Short(), c.lines.of(fmt.Sprintf("service[%d].key", first)))
			continue
		}
		services[a] = i
	}
	for i, s := range c.Services {
		for j, instance := range s.Instances {
			path := fmt.Sprintf("service[%d].instance[%d].address", i, j)
			switch of, isService := services[instance.Address]; {
			case isService && of == i:
				bad.add(path, "%s is the service's own address; an instance has an address of its own", instance.Address.Short())
			case isService:
				bad.add(path, "%s is itself a service of this file (line %d); list its instances instead",
					instance.Address.Short(), c.lines.of(fmt.Sprintf("service[%d]", of)))
			}
		}
	}
	return bad.err()
}
