package config

import (
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/health"
	"onionbalancer/selection"
)

const (
	addressA = "zkorpcleemqj5fkprbp7k7no4sio4qrrmy72zwixbn7dhhwruajlcqid"
	addressB = "cf5mytdfe5ldzihkeiksupcesqgk5cdvdfwymtapb2ktmlftxbfjcaid"
	addressC = "crxvtejncqzbwmmg7zzplb2yhecrkgv6brijt7ndpohq4idwy2yqh5qd"
	addressD = "ej7oknbnabay73ug6lnle4us2q47vfjnwwlocusue5ratyx6qzge72qd"
	addressE = "mnzivix6alclnmg2f72h4outxxjzwcgd64osvc4xrfagvdfcs2kmphyd"
	addressF = "ifngclrc6drvj6mijdfqkfnpdzbandck4cxsh4tu3eecdlr26nmnhxid"
)

func address(t testing.TB, s string) descriptor.Address {
	t.Helper()
	a, err := descriptor.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func parse(t testing.TB, text string) *Config {
	t.Helper()
	c, err := Parse([]byte(text), "/etc/balancer/balancer.toml")
	if err != nil {
		t.Fatal(err)
	}
	c.lines = nil
	return c
}

// withChecks fills in the checks of a file that configures none, gentle ones, and what a
// manager that is alone has of a cluster.
func withChecks(c *Config) {
	c.Cluster = Cluster{Name: "main", Lease: 9 * time.Second, Reserve: 6 * time.Hour, WhenUnavailable: UnavailablePublish, ShareKeys: true}
	c.Check.Rate = 2
	for n := range c.Services {
		c.Services[n].Public = 5 * time.Minute
		for m := range c.Services[n].Instances {
			c.Services[n].Instances[m].Spec = health.Spec{
				Kind: health.TCP, Port: 80, AnyPort: true,
				Interval: 30 * time.Second, FastInterval: 5 * time.Second, Timeout: 15 * time.Second, Rise: 2, Fall: 3, Jitter: 0.2,
			}
		}
	}
}

// TestExample: the commented example is what it says, and the lines that it has
// commented out are what they say.
func TestExample(t *testing.T) {
	raw, err := os.ReadFile("../../doc/balancer.example.toml")
	if err != nil {
		t.Fatal(err)
	}
	got := parse(t, string(raw))
	want := &Config{
		File: "/etc/balancer/balancer.toml", StateDir: "/var/lib/balancer",
		Tor: Tor{Controls: []string{"unix:/run/tor/control"}, PublishRate: 10},
		Log: Log{Level: slog.LevelInfo, Format: FormatText},
		Services: []Service{
			{Key: "/etc/balancer/front/hs_ed25519_secret_key", CAACritical: true, Balancing: Balancing{Strategy: "spread", Profile: "balanced", MaxIntroductionPoints: 20, PointsPerInstance: 3, Instances: []Instance{
				{Name: "web1", Address: address(t, addressA), Weight: 1},
				{Name: "web2", Address: address(t, addressB), Weight: 1},
			}}},
			{Key: "/etc/balancer/second.pem", CAACritical: true, Balancing: Balancing{Strategy: "weighted", Profile: "balanced", MaxIntroductionPoints: 20, PointsPerInstance: 3, Instances: []Instance{
				{Name: "large", Address: address(t, addressC), Weight: 3},
				{Name: "small", Address: address(t, addressD), Weight: 1},
			}}},
		},
	}
	withChecks(want)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the example is\n%+v, want\n%+v", got, want)
	}
	defaults := strings.NewReplacer("# max_introduction_points = 20", "max_introduction_points = 20", "# points_per_instance = 3", "points_per_instance = 3", "# profile = \"balanced\"", "profile = \"balanced\"").Replace(string(raw))
	if !reflect.DeepEqual(parse(t, defaults), want) {
		t.Error("a default that the example names is not the default")
	}
	const options = "# fetch_interval = \"10m\"\x00# points.avoid = \x00# points.prefer = \x00# client_key = \"web2.auth_private\"\x00# cookie_file = \x00# password_file = \x00# clients = \x00# caa = \x00# signing = "
	text := string(raw)
	for _, option := range strings.Split(options, "\x00") {
		if !strings.Contains(text, option) {
			t.Errorf("the example does not show %q", option)
		}
		text = strings.Replace(text, option, strings.TrimPrefix(option, "# "), 1)
	}
	all := parse(t, text)
	for _, line := range []string{"#   key = \"pkcs11:", "#   key = \"front.offline\""} {
		_, rest, found := strings.Cut(text, line)
		rest, _, _ = strings.Cut(rest, "\n")
		if !found {
			t.Errorf("the example does not show %s", line)
		}
		parse(t, strings.Replace(text, "\nkey = \"front/hs_ed25519_secret_key\"\n", "\n"+line[4:]+rest+"\n", 1))
	}
	const token = "pkcs11:token=balancer?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/balancer/pin"
	if s := all.Services[0]; s.Signing != token || s.FetchInterval != 10*time.Minute || s.Instances[1].ClientKey != "/etc/balancer/web2.auth_private" ||
		all.Tor.CookieFile != "/run/tor/control.authcookie" || all.Tor.PasswordFile != "/etc/balancer/control-password" {
		t.Errorf("the example's options are read as %+v", all)
	}
	for n, alternative := range strings.Split(string(raw), "\n# [cluster]\n")[1:] {
		table, _, _ := strings.Cut("\n# [cluster]\n"+alternative, "\n#\n")
		table, _, _ = strings.Cut(table, "\n\n")
		c := parse(t, strings.Replace(string(raw), table, strings.ReplaceAll(table, "\n# ", "\n"), 1)).Cluster
		if n == 0 && (len(c.Endpoints) != 3 || c.User != "m1" || c.Lease != 9*time.Second || !c.ShareKeys || c.WhenUnavailable != UnavailablePublish) ||
			n == 1 && (c.Store != StoreStandby || c.Standby.Role != RoleStandby) || n > 1 {
			t.Errorf("the example's cluster is read as %+v", c)
		}
	}
	before, shard, _ := strings.Cut(string(raw), "# [[shard]]\n")
	shard = strings.ReplaceAll(strings.ReplaceAll("\n# [[shard]]\n"+shard, "\n#", "\n"), "\n # ", "\n")
	all = parse(t, before+shard)
	if s := all.Shards[0]; s.Name != "s1" || s.Customers != "/etc/balancer/customers/s1" || !strings.Contains(s.Token, "pin-source=file:/etc/balancer/pin") ||
		len(s.Instances) != 2 || s.Instances[1].Name != "s1b" || len(all.Linked()) > 0 {
		t.Errorf("the example's shard is read as %+v", all.Shards)
	}
}

// TestShard: what a shard is when nothing but the least is given.
func TestShard(t *testing.T) {
	c := parse(t, "[[shard]]\nname = \"s1\"\ncustomers = \"c\"\ncheck = { kind = \"none\" }\n[[shard.instance]]\naddress = \""+addressA+"\"\n"+
		"[[shard]]\nname = \"s2\"\ncustomers = \"d\"\n[[shard.instance]]\naddress = \""+addressB+"\"\ncheck = { port = 81 }\n")
	if len(c.Services) != 0 || len(c.Shards) != 2 {
		t.Fatalf("%+v", c)
	}
	s1, s2 := c.Shards[0], c.Shards[1]
	if s1.Strategy != selection.Default || s1.Profile != ProfileBalanced || s1.MaxIntroductionPoints != descriptor.MaxIntroductionPoints || s1.PointsPerInstance != 3 ||
		s1.Instances[0].Name != addressA[:6] || s1.Instances[0].Spec.Kind != health.None || s1.Public != 0 {
		t.Errorf("%+v", s1)
	}
	if s2.Instances[0].Spec.Port != 81 || s2.Public != PublicInterval {
		t.Errorf("%+v", s2)
	}
}

// TestLeast: the least that is needed, and what the rest is then.
func TestLeast(t *testing.T) {
	got := parse(t, "[[service]]\nkey = \"front\"\ninstance = [{ address = \""+addressA+"\" }]\n")
	want := &Config{
		File: "/etc/balancer/balancer.toml", StateDir: "/etc/balancer/state", Tor: Tor{PublishRate: 10}, Log: Log{Format: FormatText},
		Services: []Service{{
			Key: "/etc/balancer/front", CAACritical: true, Balancing: Balancing{Strategy: selection.Default, Profile: ProfileBalanced, MaxIntroductionPoints: descriptor.MaxIntroductionPoints, PointsPerInstance: 3, Instances: []Instance{{Name: addressA[:6], Address: address(t, addressA), Weight: 1}}}}},
	}
	withChecks(want)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want\n%+v", got, want)
	}
	if !got.Tor.Own() {
		t.Error("no tor of its own")
	}
}

func TestPaths(t *testing.T) {
	const rest = "\ninstance = [{ address = \"" + addressA + "\" }]\n"
	for text, want := range map[string]string{
		"[[service]]\nkey = \"../keys/front\"" + rest: "/etc/keys/front",
		"[[service]]\nkey = \"/a//b\"" + rest:         "/a/b",
		"[[service]]\nkey = \"pkcs11:token=a;object=b?module-path=m.so&pin-source=file:pin&x-sealed=f.sealed\"" + rest: "pkcs11:token=a;object=b?module-path=m.so&pin-source=file:/etc/balancer/pin&x-sealed=/etc/balancer/f.sealed",
		"[[service]]\nkey = \"PKCS11:id=%01?module-path=./m.so&pin-source=pin&x-sealed=/f\"" + rest:                    "pkcs11:id=%01?module-path=/etc/balancer/m.so&pin-source=file:/etc/balancer/pin&x-sealed=/f",
		"[[service]]\nkey = \"k\"\nsigning = \"pkcs11:serial=9?module-path=m.so&pin-source=credential:pin\"" + rest:    "pkcs11:serial=9?module-path=m.so&pin-source=credential:pin",
		"state_dir = \"s/\"\n[[service]]\nkey = \"k\"" + rest:                                                          "/etc/balancer/s",
		"[tor]\ncontrol = \"unix:c\"\n[[service]]\nkey = \"k\"" + rest:                                                 "unix:/etc/balancer/c",
		"tor = { control = \"unix:i\", cookie_file = \"k\" }\n[[service]]\nkey = \"k\"" + rest:                         "unix:/etc/balancer/i",
		"[tor]\ncontrol = \"localhost:1\"\n[[service]]\nkey = \"k\"" + rest:                                            "localhost:1",
		"[tor]\ncontrol = \"[::1]:1\"\n[[service]]\nkey = \"k\"" + rest:                                                "[::1]:1",
		"[tor]\ncontrol = \"127.9.9.9:1\"\n[[service]]\nkey = \"k\"" + rest:                                            "127.9.9.9:1",
		"[tor]\ncontrol = \"tor:1\"\ncontrol_remote = true\n[[service]]\nkey = \"k\"" + rest:                           "tor:1",
		"[tor]\nbinary = \"./tor\"\n[[service]]\nkey = \"k\"" + rest:                                                   "/etc/balancer/tor",
		"[tor]\nbinary = \"tor\"\n[[service]]\nkey = \"k\"" + rest:                                                     "tor",
		"[tor]\ntorrc = \"t\"\n[[service]]\nkey = \"k\"" + rest:                                                        "/etc/balancer/t",
	} {
		c := parse(t, text)
		got := []string{c.Services[0].Key, c.Services[0].Signing, c.StateDir, strings.Join(c.Tor.Controls, " "), c.Tor.Binary, c.Tor.Torrc}
		if !strings.Contains("\x00"+strings.Join(got, "\x00")+"\x00", "\x00"+want+"\x00") {
			t.Errorf("%q gives %q, want %q among them", text, got, want)
		}
	}
}

// TestLists: one string stands for a list of one.
func TestLists(t *testing.T) {
	const rest = "[[service]]\nkey = \"k\"\nclients = \"c\"\ncaa = %s\ninstance = [{ address = \"" + addressA + "\" }]\n"
	for _, test := range []struct {
		tor, caa          string
		controls, records []string
		count             int
	}{
		{"control = \"unix:c\"", `'128 issue "ca.example;validationmethods=onion-csr-01"'`,
			[]string{"unix:/etc/balancer/c"}, []string{`128 issue "ca.example;validationmethods=onion-csr-01"`}, 0},
		{"control = [\"unix:/c\",\n\"127.0.0.1:9\"]", `['0 issuewild ca.example', '255 a ";"']`,
			[]string{"unix:/c", "127.0.0.1:9"}, []string{"0 issuewild ca.example", `255 a ";"`}, 0},
		{"count = 16", `"0 a b"`, nil, []string{"0 a b"}, 16},
	} {
		c := parse(t, "[tor]\n"+test.tor+"\n"+fmt.Sprintf(rest, test.caa))
		if !slices.Equal(c.Tor.Controls, test.controls) || c.Tor.Own() != (test.controls == nil) || c.Tor.Count != test.count {
			t.Errorf("%s gives %+v", test.tor, c.Tor)
		}
		if s := c.Services[0]; !slices.Equal(s.CAA, test.records) || s.Clients != "/etc/balancer/c" {
			t.Errorf("%s gives %q, clients %q", test.caa, s.CAA, s.Clients)
		}
	}
}

// TestLongestInterval: an interval of MaxFetchInterval is taken.
func TestLongestInterval(t *testing.T) {
	c := parse(t, "[[service]]\nkey = \"k\"\nfetch_interval = \"60m\"\ninstance = [{ address = \""+addressA+"\" }]\n")
	if c.Services[0].FetchInterval != MaxFetchInterval {
		t.Errorf("it is %s", c.Services[0].FetchInterval)
	}
}

// TestOneTokenKeyForMany: a key on a token may open several sealed files, and
// each file is one service's.
func TestOneTokenKeyForMany(t *testing.T) {
	const text = "[[service]]\nkey = \"pkcs11:token=t;object=o?module-path=m.so&x-sealed=one\"\nsigning = \"pkcs11:token=t?module-path=m.so\"\n" +
		"instance = [{ address = \"" + addressA + "\" }]\n" +
		"[[service]]\nkey = \"pkcs11:token=t;object=o?module-path=m.so&x-sealed=two\"\nsigning = \"pkcs11:token=t?module-path=m.so\"\n" +
		"instance = [{ address = \"" + addressA + "\" }]\n"
	parse(t, text)
	other := strings.Replace(text, "object=o?module-path=m.so&x-sealed=two", "id=%07?module-path=m.so&x-sealed=./one", 1)
	if _, err := Parse([]byte(other), "/b.toml"); err == nil || !strings.Contains(err.Error(), "the same key is in line 2") {
		t.Errorf("one sealed file for two services: %v", err)
	}
}

// TestNames: an instance without a name has as much of its address as tells it
// from the others, named or not.
func TestNames(t *testing.T) {
	text := "[[service]]\nkey = \"front\"\n"
	for _, a := range []string{addressA, addressB, addressC} {
		text += "[[service.instance]]\naddress = \"" + a + "\"\n"
	}
	names := func(c *Config) (list []string) {
		for _, i := range c.Services[0].Instances {
			list = append(list, i.Name)
		}
		return list
	}
	if got, want := names(parse(t, text)), []string{addressA[:6], addressB[:6], addressC[:6]}; !reflect.DeepEqual(got, want) {
		t.Errorf("names %q, want %q", got, want)
	}
	text += "name = \"" + addressA[:6] + "\"\n"
	if got, want := names(parse(t, text)), []string{addressA[:7], addressB[:7], addressA[:6]}; !reflect.DeepEqual(got, want) {
		t.Errorf("names %q, want %q", got, want)
	}
}

func TestCheckAddresses(t *testing.T) {
	c, err := Parse([]byte("[[service]]\nkey = \"one\"\ninstance = [{ address = \""+addressA+"\" }]\n"+
		"[[service]]\nkey = \"two\"\n[[service.instance]]\naddress = \""+addressB+"\"\n"+
		"[[shard]]\nname = \"s1\"\ncustomers = \"c\"\n[[shard.instance]]\naddress = \""+addressE+"\"\n"), "b.toml")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ one, two, customer, want string }{
		{addressC, addressD, addressF, ""},
		{addressC, addressC, addressF, "b.toml:5: service.key: "},
		{addressA, addressD, addressF, "b.toml:3: service.instance.address: zkorpc… is the service's own address"},
		{addressB, addressD, addressF, "b.toml:7: service.instance.address: cf5myt… is itself a service of this file (line 1)"},
		{addressE, addressD, addressF, "b.toml:12: shard.instance.address: mnzivi… is itself a service of this file (line 1)"},
		{addressC, addressD, addressE, "b.toml:12: shard.instance.address: mnzivi… is a customer of the shard \"s1\""},
		{addressC, addressD, addressA, "b.toml:3: service.instance.address: zkorpc… is a customer of the shard \"s1\""},
		{addressC, addressD, addressD, "b.toml:5: service.key: it is the key of ej7okn…, a customer of the shard \"s1\""},
	} {
		err := c.CheckAddresses([]descriptor.Address{address(t, test.one), address(t, test.two)},
			map[descriptor.Address]string{address(t, test.customer): "s1"})
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%v: %v, want %q", test, err, test.want)
		}
	}
}
