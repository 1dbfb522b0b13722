package config

import (
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/BurntSushi/toml"

	"onionbalancer/descriptor"
)

const someService = "\n[[service]]\nkey = \"k\"\ninstance = [{ address = \"" + addressA + "\" }]\n"

// TestCluster: what is given, and what is not.
func TestCluster(t *testing.T) {
	none := Cluster{Name: "main", Lease: 9 * time.Second, Reserve: 6 * time.Hour, WhenUnavailable: UnavailablePublish, ShareKeys: true}
	with := func(change func(*Cluster)) Cluster {
		c := none
		change(&c)
		return c
	}
	for text, want := range map[string]Cluster{
		"":          none,
		"[cluster]": none,
		"[cluster]\nstore = \"etcd\"\nendpoints = \"unix:e\"\nkey = \"cluster.key\"": with(func(c *Cluster) {
			c.Store, c.Endpoints, c.Key = StoreEtcd, []string{"unix:/etc/balancer/e"}, "/etc/balancer/cluster.key"
		}),
		`cluster = { store = "etcd", endpoints = ["https://10.0.0.1:2379", "https://[fd00::2]:2379"], key = "credential:cluster", name = "eu-1", manager = "m.1",
		ca = "ca.pem", cert = "/m1.pem", cert_key = "credential:m1", user = "m1", password_file = "etcd.password",
		lease = "1m", reserve = "12h", when_unavailable = "hold", share_keys = false }`: {
			Store: StoreEtcd, Name: "eu-1", Manager: "m.1", Endpoints: []string{"https://10.0.0.1:2379", "https://[fd00::2]:2379"},
			CA: "/etc/balancer/ca.pem", Cert: "/m1.pem", CertKey: "credential:m1", User: "m1", PasswordFile: "/etc/balancer/etcd.password", Key: "credential:cluster",
			Lease: time.Minute, Reserve: 12 * time.Hour, WhenUnavailable: UnavailableHold,
		},
		"[cluster]\nstore = \"etcd\"\nkey = \"/k\"\nendpoints_plain = true\nendpoints = \"http://etcd1:2379\"": with(func(c *Cluster) {
			c.Store, c.Key, c.EndpointsPlain, c.Endpoints = StoreEtcd, "/k", true, []string{"http://etcd1:2379"}
		}),
		"[cluster]\nstore = \"etcd\"\nkey = \"/k\"\nendpoints = [\"http://[::1]:2379\", \"http://" + addressB + ".onion:2379\"]": with(func(c *Cluster) {
			c.Store, c.Key, c.Lease, c.Endpoints = StoreEtcd, "/k", 30*time.Second, []string{"http://[::1]:2379", "http://" + addressB + ".onion:2379"}
		}),
		"[cluster]\nstore = \"etcd\"\nkey = \"/k\"\nlease = \"10s\"\nendpoints = \"https://" + addressB + ".onion:2379\"": with(func(c *Cluster) {
			c.Store, c.Key, c.Lease, c.Endpoints = StoreEtcd, "/k", 10*time.Second, []string{"https://" + addressB + ".onion:2379"}
		}),
		"[cluster]\nstore = \"standby\"\n[cluster.standby]\nrole = \"active\"": with(func(c *Cluster) {
			c.Store, c.Standby.Role = StoreStandby, RoleActive
		}),
		"[cluster]\nstore = \"standby\"\nname = \"two\"\nstandby = { role = \"standby\", heartbeat = \"" + addressB + ".onion:9100\" }": with(func(c *Cluster) {
			c.Store, c.Name, c.Standby = StoreStandby, "two", Standby{Role: RoleStandby, Heartbeat: addressB + ".onion:9100"}
		}),
		"[cluster]\nstore = \"standby\"\nstandby = { role = \"active\", listen = \"unix:beat\" }": with(func(c *Cluster) {
			c.Store, c.Standby = StoreStandby, Standby{Role: RoleActive, Listen: "unix:/etc/balancer/beat"}
		}),
		"[cluster]\nstore = \"standby\"\nstandby = { role = \"active\", listen = \"[::1]:9100\" }": with(func(c *Cluster) {
			c.Store, c.Standby = StoreStandby, Standby{Role: RoleActive, Listen: "[::1]:9100"}
		}),
	} {
		if got := parse(t, text+someService).Cluster; !reflect.DeepEqual(got, want) {
			t.Errorf("%s\nis\n%+v, want\n%+v", text, got, want)
		}
	}
	c := parse(t, "[cluster]\nstore = \"standby\"\n[cluster.standby]\nrole = \"watch\"\naddresses = [\""+addressA+"\", \""+addressB+".onion\"]\n")
	if want := []descriptor.Address{address(t, addressA), address(t, addressB)}; !c.Cluster.Watches() || !reflect.DeepEqual(c.Cluster.Standby.Addresses, want) {
		t.Errorf("it watches %v", c.Cluster.Standby.Addresses)
	}
}

func TestListener(t *testing.T) {
	for listen, want := range map[string][2]string{"127.0.0.1:9100": {"tcp", "127.0.0.1:9100"}, "[::1]:1": {"tcp", "[::1]:1"}, "unix:/run/b": {"unix", "/run/b"}} {
		if _, err := readListener("/etc", listen); err != nil {
			t.Errorf("%s: %v", listen, err)
		}
		if network, address := Listener(listen); [2]string{network, address} != want {
			t.Errorf("%s: %s %s, want %s", listen, network, address, want)
		}
	}
	for _, listen := range []string{"", "9100", ":9100", "0.0.0.0:9100", "10.0.0.1:9100", "[::]:9100", "localhost:9100", "127.0.0.1:0", "127.0.0.1", "unix:", "/run/b"} {
		if _, err := readListener("/etc", listen); err == nil {
			t.Errorf("%q is taken", listen)
		}
	}
}

func TestEndpoint(t *testing.T) {
	type split struct {
		network, address string
		tls, onion       bool
	}
	for endpoint, want := range map[string]split{
		"unix:/run/e":                             {"unix", "/run/e", false, false},
		"https://10.0.0.1:2379":                   {"tcp", "10.0.0.1:2379", true, false},
		"http://[::1]:2379":                       {"tcp", "[::1]:2379", false, false},
		"https://" + addressA + ".onion:2379":     {"tcp", addressA + ".onion:2379", true, true},
		"http://" + addressA + ".onion.test:2379": {"tcp", addressA + ".onion.test:2379", false, false},
	} {
		network, address, tls, onion := Endpoint(endpoint)
		if got := (split{network, address, tls, onion}); got != want {
			t.Errorf("%s: %+v, want %+v", endpoint, got, want)
		}
	}
}

// TestEndpointSpellings: what people write for an endpoint is answered with the line that
// they mean, and that line is taken.
func TestEndpointSpellings(t *testing.T) {
	for s, want := range map[string]string{
		"10.0.0.1:2379": "https://10.0.0.1:2379", "10.0.0.1": "https://10.0.0.1:2379", "etcd1.example": "https://etcd1.example:2379",
		"localhost:2379": "http://localhost:2379", "127.0.0.1": "http://127.0.0.1:2379", "::1": "http://[::1]:2379", "[::1]:9": "http://[::1]:9",
		"HTTPS://etcd1:2379": "https://etcd1:2379", "https://etcd1:2379/": "https://etcd1:2379", "https://etcd1:2379/v3": "https://etcd1:2379",
		"https://etcd1": "https://etcd1:2379", "tcp://etcd1:2379": "https://etcd1:2379", "https://etcd1:": "https://etcd1:2379",
		"/run/etcd.sock": "unix:/run/etcd.sock", "unix:///run/etcd.sock": "unix:/run/etcd.sock", "unix://run/etcd.sock": "unix:/run/etcd.sock", "file:///run/e": "unix:/run/e",
		addressA + ".onion": "http://" + addressA + ".onion:2379", "http://" + strings.ToUpper(addressA) + ".ONION:1": "http://" + addressA + ".onion:1",
	} {
		_, err := readEndpoint("/etc", s)
		if want := "write " + write("endpoints", want); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%q: %v, want %s", s, err, want)
		}
		if got, err := readEndpoint("/etc", want); err != nil || got != want {
			t.Errorf("%q for %q: %v, %v", want, s, got, err)
		}
	}
	for s, want := range map[string]string{
		"": "no endpoint", "https://": "no endpoint", "https://a b:1": "no endpoint", "https://etcd1:0": "no endpoint", "https://etcd1:99999": "no endpoint",
		"https://etcd1:2379?x": "no endpoint", "https://b" + addressA[1:] + ".onion:2379": "checksum", "https://abc.onion:1": "characters before",
		"unix:": "is empty", "https://u:secret@etcd1:2379": "user and password_file", "u:secret@etcd1": "user and password_file",
	} {
		if _, err := readEndpoint("/etc", s); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v, want %q", s, err, want)
		}
	}
}

// FuzzEndpoints: an endpoint that is taken can be dialed, and a line that people are told to
// write is TOML, and is taken as it is.
func FuzzEndpoints(f *testing.F) {
	for _, s := range []string{"https://10.0.0.1:2379", "unix:e", "10.0.0.1", "::1", "/run/e", "unix:///x", addressA + ".onion", "http://A.onion:1/x", "a://b@c", "https://[::1%25x]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) {
			return // refused before
		}
		taken, err := readEndpoint("/etc", s)
		if err == nil {
			network, address, _, _ := Endpoint(taken.(string))
			if network == "tcp" && !hostPort(address) || address == "" {
				t.Fatalf("%q is dialed as %q", s, address)
			}
			return
		}
		_, line, found := strings.Cut(err.Error(), "; write endpoints = ")
		if !found {
			return
		}
		var got map[string]string
		if _, err := toml.Decode("endpoints = "+line, &got); err != nil {
			t.Fatalf("%q: %s: %v", s, line, err)
		}
		if _, err := readEndpoint("/etc", got["endpoints"]); err != nil {
			t.Fatalf("%q: %s: %v", s, line, err)
		}
	})
}
