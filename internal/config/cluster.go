package config

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"onionbalancer/descriptor"
)

// Cluster is the [cluster] table: how several managers share the services of this file.
type Cluster struct {
	// Store is what they share: StoreEtcd, an etcd that the operator runs, or StoreStandby,
	// nothing but what the network knows. Default (""): this manager is alone.
	Store string `toml:"store" is:"store"`

	// Name stands for the cluster in commands and logs, and tells it from others in the same
	// store, where it cannot be read. Default: "main".
	Name string `toml:"name" is:"cluster name" default:"main"`

	// Manager is the name of this manager, which no other of the cluster has. Default (""): a
	// random one, kept in StateDir, so that managers can have the same file.
	Manager string `toml:"manager" is:"cluster name"`

	// Endpoints are the etcd servers of the store, one string or a list: "https://host:port",
	// "unix:/path", or "http://host:port" for a host on this machine or an onion address,
	// which is reached through tor. Required for StoreEtcd.
	Endpoints []string `toml:"endpoints" is:"endpoint"`

	// EndpointsPlain allows "http://" Endpoints on other machines: anyone on the way learns
	// the password, and can have managers taken for dead or alive. Default: false.
	EndpointsPlain bool `toml:"endpoints_plain"`

	// CA is a file of the certificates, in PEM, that those of Endpoints are signed by.
	// Default: the authorities that this machine trusts.
	CA string `toml:"ca" is:"file"`

	// Cert and CertKey are the files of this manager's certificate and its key, in PEM,
	// without which etcd should let nobody in; CertKey may be "credential:NAME". What replaces
	// them is used from the next connection on. Default: none.
	Cert    string `toml:"cert" is:"file"`
	CertKey string `toml:"cert_key" is:"secret"`

	// User and PasswordFile are this manager's user of etcd, and the file of its password, a
	// path or "credential:NAME". Default: none.
	User         string `toml:"user" is:"user"`
	PasswordFile string `toml:"password_file" is:"secret"`

	// Key is the file of the cluster's key, which all managers have and etcd has not: what is
	// stored is sealed with it. A path or "credential:NAME". Required for StoreEtcd.
	Key string `toml:"key" is:"cluster key"`

	// Lease is for how long a manager that shows no sign of life is not taken for dead, "5s"
	// to "1m". Default: "9s", and "30s" if an endpoint is an onion address.
	Lease time.Duration `toml:"lease" is:"bounded" range:"5s 1m" default:"9s"`

	// Reserve is for how long the owner of a service goes on while the store does not answer,
	// "10m" to "12h": half of it at least, and at most all of it and some minutes, since a few
	// more counters are reserved where the clock is behind them. Default: "6h".
	Reserve time.Duration `toml:"reserve" is:"bounded" range:"10m 12h" default:"6h"`

	// WhenUnavailable is what a manager does while the store does not answer: UnavailablePublish
	// goes on for Reserve, UnavailableHold leaves what is published as it is. Default: "publish".
	WhenUnavailable string `toml:"when_unavailable" is:"unavailable" default:"publish"`

	// ShareKeys puts the keys of the shards' customers and spares into the store, sealed, so that
	// each manager can take any of them over: who has the store and Key has these keys. With false
	// the operator copies the customers' directories. Keys of services are never shared.
	// Default: true.
	ShareKeys bool `toml:"share_keys" default:"true"`

	// Standby is for StoreStandby.
	Standby Standby `toml:"standby"`
}

// The stores.
const (
	StoreEtcd    = "etcd"
	StoreStandby = "standby"
)

// What a manager does while the store does not answer.
const (
	UnavailablePublish = "publish"
	UnavailableHold    = "hold"
)

// Standby is the [cluster.standby] table: two machines, of which one publishes.
type Standby struct {
	// Role is what this machine does: RoleActive publishes, RoleStandby watches and takes over,
	// RoleWatch watches and raises alarms. Required for StoreStandby.
	Role string `toml:"role" is:"role"`

	// Heartbeat is an onion service, "ADDRESS.onion:PORT", that leads to Listen of the active
	// machine: while it says that it can publish, RoleStandby is more patient. Default: only
	// the published descriptors are looked at.
	Heartbeat string `toml:"heartbeat" is:"canary"`

	// Listen is where RoleActive answers Heartbeat: "127.0.0.1:PORT", or "unix:/path" for a
	// socket that tor's user may connect to. Who connects is told whether this machine can
	// publish, and nothing else. Default (""): nowhere.
	Listen string `toml:"listen" is:"listener"`

	// Addresses are the public onion addresses that RoleWatch watches, which needs no key of
	// theirs. Only for RoleWatch, and required for it.
	Addresses []descriptor.Address `toml:"addresses" is:"watched address"`
}

// The roles.
const (
	RoleActive  = "active"
	RoleStandby = "standby"
	RoleWatch   = "watch"
)

// onionLease is the default of Cluster.Lease where a renewal has to go through tor.
const onionLease = 30 * time.Second

// ofEtcd are the keys of [cluster] that go with StoreEtcd alone.
var ofEtcd = []string{
	"endpoints", "endpoints_plain", "ca", "cert", "cert_key", "user", "password_file", "key", "lease", "reserve", "when_unavailable", "share_keys",
}

// validateCluster refuses keys of [cluster] that contradict each other.
func (r *reader) validateCluster(c *Config) {
	switch c.Cluster.Store {
	case StoreEtcd:
		r.onlyFor(StoreStandby, "cluster.standby.role", "cluster.standby.heartbeat", "cluster.standby.listen", "cluster.standby.addresses")
		r.validateEtcd(&c.Cluster)
	case StoreStandby:
		for _, key := range ofEtcd {
			r.onlyFor(StoreEtcd, "cluster."+key)
		}
		r.validateStandby(c)
	default:
		if r.complainedAbout("cluster.store") {
			return
		}
		for path, given := range r.given {
			if given && strings.HasPrefix(path, "cluster.") && path != "cluster.store" {
				r.add("cluster.store", "is missing; store = %q for managers that share an etcd, %q for two machines without one; without [cluster] this manager is alone", StoreEtcd, StoreStandby)
				return
			}
		}
	}
}

// complainedAbout reports whether a complaint is about the key at path already.
func (r *reader) complainedAbout(path string) bool {
	return slices.ContainsFunc(r.list, func(e *Error) bool { return strings.HasPrefix(e.path, path) })
}

// onlyFor refuses keys that go with another store.
func (r *reader) onlyFor(store string, paths ...string) {
	for _, path := range paths {
		if r.given[path] {
			r.add(path, "is for store = %q; remove it", store)
		}
	}
}

// together refuses one of two keys without the other.
func (r *reader) together(a, b, what string) {
	for _, pair := range [][2]string{{a, b}, {b, a}} {
		if r.given[pair[0]] && !r.given[pair[1]] {
			_, missing, _ := strings.Cut(pair[1], ".")
			r.add(pair[0], "needs %s, %s", missing, what)
		}
	}
}

func (r *reader) validateEtcd(c *Cluster) {
	if len(c.Endpoints) == 0 && !r.complainedAbout("cluster.endpoints") {
		r.add("cluster.endpoints", "is missing; it names the etcd servers, endpoints = [\"https://10.0.0.1:%s\"] for instance", etcdPort)
	}
	if !r.given["cluster.key"] {
		r.add("cluster.key", "is missing; it names the file of the cluster's key (\"balancer cluster key FILE\" makes one, for all managers)")
	}
	seen := unique[string]{&r.complaints, "the same endpoint is in line %[2]d; each server is listed once", nil}
	encrypted, onion := false, false
	for i, endpoint := range c.Endpoints {
		path := "cluster.endpoints[" + strconv.Itoa(i) + "]"
		seen.add(endpoint, path)
		encrypted = encrypted || strings.HasPrefix(endpoint, "https:")
		onion = onion || onionEndpoint(endpoint)
		if !c.EndpointsPlain && strings.HasPrefix(endpoint, "http:") && !onionEndpoint(endpoint) && !loopback(endpoint) {
			r.add(path, "%q is on another machine and not encrypted: anyone on the way learns the password, and can keep a dead manager alive; "+
				"use https://, an onion address, or 127.0.0.1 at the end of a tunnel, or set endpoints_plain = true", endpoint)
		}
	}
	r.together("cluster.cert", "cluster.cert_key", "as a certificate and its key go together")
	r.together("cluster.user", "cluster.password_file", "as a user and the file of its password go together")
	if !encrypted && len(c.Endpoints) > 0 {
		for _, key := range []string{"cluster.ca", "cluster.cert", "cluster.cert_key"} {
			if r.given[key] {
				r.add(key, "is for https:// endpoints, and there is none")
			}
		}
	}
	if onion && !r.given["cluster.lease"] {
		c.Lease = onionLease
	}
}

func (r *reader) validateStandby(c *Config) {
	s := c.Cluster.Standby
	if !r.given["cluster.standby.role"] {
		r.add("cluster.standby.role", "is missing; it says what this machine does: %q, %q or %q", RoleActive, RoleStandby, RoleWatch)
	}
	if s.Role == RoleActive && r.given["cluster.standby.heartbeat"] {
		r.add("cluster.standby.heartbeat", "is for the other machine, which asks this one; remove it, or set listen")
	}
	if (s.Role == RoleStandby || s.Role == RoleWatch) && r.given["cluster.standby.listen"] {
		r.add("cluster.standby.listen", "is for role = %q, which is asked; remove it, or set heartbeat", RoleActive)
	}
	if s.Role != RoleWatch {
		if r.given["cluster.standby.addresses"] && s.Role != "" {
			r.add("cluster.standby.addresses", "is for role = %q; with role = %q the services say what is watched", RoleWatch, s.Role)
		}
		return
	}
	if !r.given["cluster.standby.addresses"] {
		r.add("cluster.standby.addresses", "is missing; it names the public onion addresses to watch")
	}
	seen := unique[descriptor.Address]{&r.complaints, "the same address is in line %[2]d", nil}
	for i, a := range s.Addresses {
		seen.add(a, "cluster.standby.addresses["+strconv.Itoa(i)+"]")
	}
	for _, path := range []string{"service", "shard"} {
		if r.given[path] {
			r.add(path, "a machine that watches has no keys, and publishes nothing: name the public address in cluster.standby.addresses, or set role = %q", RoleStandby)
		}
	}
}

// Watches reports whether this machine watches, and publishes nothing.
func (c Cluster) Watches() bool { return c.Store == StoreStandby && c.Standby.Role == RoleWatch }

// Onion reports whether an endpoint is reached through tor.
func (c Cluster) Onion() bool { return slices.ContainsFunc(c.Endpoints, onionEndpoint) }

// etcdPort is where etcd listens for clients unless it is told otherwise.
const etcdPort = "2379"

// Endpoint splits one of Cluster.Endpoints, which Parse has checked: network and address are
// for a dialer. tls tells whether it is encrypted, onion whether the address is an onion
// address, which a tor reaches.
func Endpoint(endpoint string) (network, address string, tls, onion bool) {
	if path, is := strings.CutPrefix(endpoint, "unix:"); is {
		return "unix", path, false, false
	}
	scheme, address, _ := strings.Cut(endpoint, "://")
	return "tcp", address, scheme == "https", onionEndpoint(endpoint)
}

// Listener splits Standby.Listen, which Parse has checked: network and address are for
// net.Listen.
func Listener(listen string) (network, address string) {
	if path, is := strings.CutPrefix(listen, "unix:"); is {
		return "unix", path
	}
	return "tcp", listen
}

// readListener reads "127.0.0.1:PORT" or "unix:/path".
func readListener(dir, s string) (any, error) {
	if strings.HasPrefix(s, "unix:") {
		return controlTarget(dir, s)
	}
	if ap, err := netip.ParseAddrPort(s); err == nil && ap.Port() > 0 && ap.Addr().Unmap().IsLoopback() && ap.String() == s {
		return s, nil
	}
	return nil, fmt.Errorf("%q is nothing to listen on: want \"127.0.0.1:PORT\" or \"unix:/path/of/socket\", to which an onion service of this machine leads", s)
}

// endpointHost is the host of an endpoint, empty for a socket.
func endpointHost(endpoint string) string {
	_, address, _ := strings.Cut(endpoint, "://")
	host, _, _ := net.SplitHostPort(address)
	return host
}

func onionEndpoint(endpoint string) bool {
	return strings.HasSuffix(endpointHost(endpoint), ".onion")
}

func loopback(endpoint string) bool {
	host := endpointHost(endpoint)
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// readEndpoint reads "https://host:port", "http://host:port" or "unix:/path". What may have
// a password in it is not repeated.
func readEndpoint(dir, s string) (any, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok && !strings.HasPrefix(path, "//") {
		target, err := controlTarget(dir, s)
		return target, err
	}
	if strings.Contains(s, "@") {
		return nil, errors.New("has a user or a password; these go into user and password_file")
	}
	if wellFormedEndpoint(s) {
		return s, nil
	}
	meant := endpointMeant(s)
	if wellFormedEndpoint(meant) || strings.HasPrefix(meant, "unix:/") {
		return nil, fmt.Errorf("%q is not how an endpoint is written; write %s", s, write("endpoints", meant))
	}
	if host := endpointHost(s); strings.HasSuffix(strings.ToLower(host), ".onion") {
		if _, err := readAddress(host); err != nil {
			return nil, err
		}
	}
	return nil, errNoEndpoint(s)
}

func errNoEndpoint(s string) error {
	return fmt.Errorf("%q is no endpoint of etcd, want \"https://host:port\", \"http://host:port\" or \"unix:/path/of/socket\"", s)
}

// wellFormedEndpoint reports whether s is a scheme, a host and a port, and nothing else.
func wellFormedEndpoint(s string) bool {
	scheme, address, found := strings.Cut(s, "://")
	if !found || scheme != "https" && scheme != "http" || !hostPort(address) {
		return false
	}
	if u, err := url.Parse(s); err != nil || u.Host != address || u.Scheme != scheme {
		return false
	}
	host := endpointHost(s)
	if !strings.HasSuffix(strings.ToLower(host), ".onion") {
		return true
	}
	a, err := descriptor.ParseAddress(host)
	return err == nil && a.String() == host
}

// endpointMeant corrects common ways to write an endpoint.
func endpointMeant(s string) string {
	s = strings.Trim(s, " \t\"'")
	scheme, rest, is := strings.Cut(s, "://")
	scheme = strings.ToLower(scheme)
	switch {
	case !is && strings.HasPrefix(s, "/"):
		return "unix:" + filepath.Clean(s)
	case is && (scheme == "unix" || scheme == "file"):
		return "unix:/" + strings.TrimLeft(rest, "/")
	case !is:
		scheme, rest = "", s
	}
	rest, _, _ = strings.Cut(rest, "/")
	host, port := rest, etcdPort
	if h, p, err := net.SplitHostPort(rest); err == nil {
		host, port = h, cmp.Or(p, etcdPort)
	}
	host = strings.Trim(host, "[]")
	if strings.HasSuffix(strings.ToLower(host), ".onion") {
		host = strings.ToLower(host)
	}
	address := net.JoinHostPort(host, port)
	if scheme != "http" && scheme != "https" {
		scheme = "https"
		if plain := "http://" + address; loopback(plain) || onionEndpoint(plain) {
			scheme = "http"
		}
	}
	return scheme + "://" + address
}

// readClusterKey reads the path of the cluster's key.
func readClusterKey(dir, s string) (any, error) {
	if strings.Contains(s, "balancer-cluster-key") || bareKey.MatchString(s) {
		return nil, errors.New("must be the path of the cluster's key file, never the key itself")
	}
	return readSecret(dir, s)
}

// etcdUser is what a user of etcd may be called, as far as names are not strange.
var etcdUser = regexp.MustCompile(`^[!-~]{1,100}$`)

// readBounded reads a duration within the range of its tag.
func readBounded(in reading, value any) (any, error) {
	if n, ok := value.(int64); ok {
		return nil, fmt.Errorf("must be %s; write %s", aDuration, write(in.tag.Get("toml"), fmt.Sprint(n, "s")))
	}
	s, ok := value.(string)
	if !ok {
		return nil, errType
	}
	least, most, _ := strings.Cut(in.tag.Get("range"), " ")
	low, lowErr := time.ParseDuration(least)
	high, highErr := time.ParseDuration(most)
	if err := errors.Join(lowErr, highErr); err != nil {
		return nil, err
	}
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%q is no duration, want %s", s, aDuration)
	case d < low || d > high:
		return nil, fmt.Errorf("%q is out of range, want %q to %q", s, least, most)
	}
	return d, nil
}
