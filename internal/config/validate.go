package config

import (
	"cmp"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"onionbalancer/descriptor"
	"onionbalancer/internal/advice"
	"onionbalancer/keystore/pkcs11uri"
	"onionbalancer/selection"
)

// shortName is how many characters of an address stand for an instance without a
// name, unless two begin alike.
const shortName = 6

// validate checks the relations between values, and fills in missing names.
func (r *reader) validate(c *Config) {
	r.validateCluster(c)
	if len(c.Services) == 0 && len(c.Shards) == 0 && !c.Cluster.Watches() && len(r.list) == 0 {
		r.add("service", "no [[service]] is given, so there is nothing to do; it needs a key = \"…\", and a [[service.instance]] with an address = \"….onion\"; "+
			"for many addresses on the same instances, \"balancer shard new\" prints a [[shard]]")
	}
	r.validateTor(c.Tor)
	keys := unique[string]{&r.complaints, "the same key is in line %[2]d; one service has one [[service]]", nil}
	for i := range c.Services {
		path := fmt.Sprintf("service[%d]", i)
		keys.add(sameKey(c.Services[i].Key), path+".key")
		r.validateBalancing(&c.Services[i].Balancing, path)
	}
	names := unique[string]{&r.complaints, "%q is the name of the shard in line %d as well", nil}
	dirs := unique[string]{&r.complaints, "the shard in line %[2]d has the same directory; each shard has customers of its own", nil}
	for i := range c.Shards {
		path := fmt.Sprintf("shard[%d]", i)
		names.add(c.Shards[i].Name, path+".name")
		dirs.add(c.Shards[i].Customers, path+".customers")
		r.validateBalancing(&c.Shards[i].Balancing, path)
		for j, instance := range c.Shards[i].Instances {
			if !shardName.MatchString(instance.Name) {
				r.add(fmt.Sprintf("%s.instance[%d].name", path, j), "%q has more than a-z, A-Z, 0-9, \".\", \"_\" and \"-\", and a shard's instance has a directory of this name", instance.Name)
			}
		}
	}
	r.checks(c)
}

// unique reports a duplicate value.
type unique[T comparable] struct {
	bad    *complaints
	format string // of the complaint, for the value and the line of the first
	paths  map[T]string
}

func (u *unique[T]) add(value T, path string) {
	var none T
	first, again := u.paths[value]
	switch {
	case value == none:
	case again:
		u.bad.add(path, u.format, value, u.bad.lines.of(first))
	default:
		if u.paths == nil {
			u.paths = make(map[T]string)
		}
		u.paths[value] = path
	}
}

func (r *reader) validateTor(t Tor) {
	if !r.given["tor.control"] {
		const without = "; without it, balancer starts a tor of its own"
		if t.CookieFile != "" {
			r.add("tor.cookie_file", "needs control, the control port it is for"+without)
		}
		if t.PasswordFile != "" {
			r.add("tor.password_file", "needs control, the control port it is for"+without)
		}
		if t.ControlRemote {
			r.add("tor.control_remote", "needs control, the control port that it allows")
		}
		return
	}
	seen := unique[string]{&r.complaints, "the same control port is in line %[2]d; each tor is listed once", nil}
	for i, control := range t.Controls {
		path := fmt.Sprintf("tor.control[%d]", i)
		seen.add(control, path)
		if control != "" && !t.ControlRemote && !onThisMachine(control) {
			r.add(path, "%q is on another machine: any program that answers there, and any router on the way, learns the password and every backend; "+
				"use a unix socket or 127.0.0.1, at the end of a tunnel for instance, or set control_remote = true", control)
		}
	}
	for _, key := range []string{"tor.binary", "tor.torrc", "tor.count"} {
		if r.given[key] {
			r.add(key, "is for a tor of balancer's own; remove it, or remove control")
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

func (r *reader) validateBalancing(s *Balancing, path string) {
	said := func(e *Error) bool { return strings.HasPrefix(e.path, path+".instance") }
	if len(s.Instances) == 0 && !slices.ContainsFunc(r.list, said) {
		table := withoutIndexes(path)
		r.add(path+".instance", "the %s has none; add a [[%[1]s.instance]] with its address", table)
	}
	if s.Profile == ProfileOrdinary {
		r.validateOrdinary(s, path)
	}
	r.validatePoints(s.Points, path+".points")
	addresses := unique[descriptor.Address]{&r.complaints, "the same address is in line %[2]d; an instance is listed once", nil}
	names := unique[string]{&r.complaints, "%q is the name of the instance in line %d as well", nil}
	for i, instance := range s.Instances {
		at := fmt.Sprintf("%s.instance[%d]", path, i)
		addresses.add(instance.Address, at+".address")
		names.add(instance.Name, at+".name")
		if _, told := advice.Program(s.Strategy); r.given[at+".weight"] && !told && !selection.Weighs(s.Strategy) {
			r.add(at+".weight", "the strategy %q takes no notice of it; remove it, or set strategy = %q", s.Strategy, weightedStrategy)
		}
	}
	s.nameInstances()
}

// ordinaryMost is how many points a descriptor may have to be of the size of most.
const ordinaryMost = 8

// validateOrdinary fills in how many points an ordinary service has, and refuses what would
// tell it from one.
func (r *reader) validateOrdinary(s *Balancing, path string) {
	const number, each = ".max_introduction_points", ".points_per_instance"
	switch points := s.MaxIntroductionPoints; {
	case !r.given[path+number]:
		s.MaxIntroductionPoints = selection.OrdinaryPoints
	case points > 0 && (points < selection.OrdinaryPoints || points > ordinaryMost): // 0 is refused already
		r.add(path+number, "%d does not look ordinary, want %d to %d with profile = %q: tor makes %d unless its torrc says otherwise, "+
			"and with more than %d a descriptor is larger than others", points, selection.OrdinaryPoints, ordinaryMost, ProfileOrdinary, selection.OrdinaryPoints, ordinaryMost)
	}
	if r.given[path+each] {
		r.add(path+each, "has no meaning with profile = %q, by which a descriptor has one point of each of max_introduction_points instances "+
			"while there are as many; remove it", ProfileOrdinary)
	}
}

// validatePoints refuses an entry that is given twice, and so one that is both avoided
// and preferred.
func (r *reader) validatePoints(p Points, path string) {
	seen := unique[string]{&r.complaints, "%s is in line %d as well", nil}
	for _, l := range []struct {
		key     string
		entries []string
	}{{"avoid", p.Avoid}, {"prefer", p.Prefer}} {
		for i, entry := range l.entries {
			seen.add(entry, fmt.Sprintf("%s.%s[%d]", path, l.key, i))
		}
	}
}

var weightedStrategy = selection.Weighted{}.Name()

// nameInstances names the instances that have no name by the beginning of their
// address, as much of it as identifies it among all others of the service.
func (s *Balancing) nameInstances() {
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

// sameKey returns what two references to one identity key have in common: the
// sealed file, if there is one, since one key on a token may open many.
func sameKey(ref string) string {
	if u, err := pkcs11uri.Parse(ref); err == nil && u.Sealed != "" {
		return filepath.Clean(u.Sealed)
	}
	return ref
}

// CheckAddresses checks what needs the opened keys: services[i] is the
// onion address that the key of Services[i] stands for, and customers has the shard of each
// customer's address. No two services may have one address, and no instance may be a
// service or a customer, whose introduction points would not answer for another.
func (c *Config) CheckAddresses(services []descriptor.Address, customers map[descriptor.Address]string) error {
	bad := &complaints{file: c.File, lines: c.lines}
	of := make(map[descriptor.Address]int)
	for i, a := range services {
		path := fmt.Sprintf("service[%d].key", i)
		if shard, isCustomer := customers[a]; isCustomer {
			bad.add(path, "it is the key of %s, a customer of the shard %q; an address is served by one or the other", a.Short(), shard)
		}
		if first, again := of[a]; again {
			bad.add(path, "it is the key of %s, as is the one in line %d; one service has one [[service]]",
				a.Short(), c.lines.of(fmt.Sprintf("service[%d].key", first)))
			continue
		}
		of[a] = i
	}
	for b := range c.balancings() {
		for j, instance := range b.Instances {
			path := fmt.Sprintf("%s.instance[%d].address", b.path, j)
			service, isService := of[instance.Address]
			shard, isCustomer := customers[instance.Address]
			switch own := isService && b.path == fmt.Sprintf("service[%d]", service); {
			case own:
				bad.add(path, "%s is the service's own address; an instance has an address of its own", instance.Address.Short())
			case isService:
				bad.add(path, "%s is itself a service of this file (line %d); list its instances instead",
					instance.Address.Short(), c.lines.of(fmt.Sprintf("service[%d]", service)))
			case isCustomer:
				bad.add(path, "%s is a customer of the shard %q; an instance has an address of its own, that of its tor's hostname file",
					instance.Address.Short(), shard)
			}
		}
	}
	return bad.err()
}

// balancing is the Balancing of a service or a shard, and what stands for it.
type balancing struct {
	*Balancing
	path string // in the file
	name string // for people
}

// balancings are those of all services and then of all shards.
func (c *Config) balancings() iter.Seq[balancing] {
	return func(yield func(balancing) bool) {
		for i := range c.Services {
			if !yield(balancing{&c.Services[i].Balancing, fmt.Sprintf("service[%d]", i), fmt.Sprintf("service %d", i+1)}) {
				return
			}
		}
		for i := range c.Shards {
			if !yield(balancing{&c.Shards[i].Balancing, fmt.Sprintf("shard[%d]", i), "shard " + c.Shards[i].Name}) {
				return
			}
		}
	}
}

// Linked returns a warning for each instance that several services or shards share. Their
// descriptors then list the same introduction points, so that anyone who knows
// both addresses sees that they belong together. Within a shard that is known.
func (c *Config) Linked() (warnings []string) {
	names := make(map[descriptor.Address][]string)
	shards := make(map[descriptor.Address]bool)
	var order []descriptor.Address
	for b := range c.balancings() {
		for _, i := range b.Instances {
			if names[i.Address] == nil {
				order = append(order, i.Address)
			}
			names[i.Address] = append(names[i.Address], fmt.Sprintf("%s of %s", i.Name, b.name))
			shards[i.Address] = shards[i.Address] || strings.HasPrefix(b.path, "shard")
		}
	}
	for _, a := range order {
		list := names[a]
		if len(list) < 2 {
			continue
		}
		warning := fmt.Sprintf("%s are one backend, %s: anyone who knows the public addresses sees that they belong together; "+
			"give each service backends of its own if that must not be known", strings.Join(list, " and "), a.Short())
		if shards[a] {
			warning += "; and its ob_config needs the addresses of all, while \"balancer shard\" writes it for one shard alone"
		}
		warnings = append(warnings, warning)
	}
	return warnings
}
