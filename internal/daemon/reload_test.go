package daemon

import (
	"encoding/base32"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/config"
	"onionbalancer/testnet/sim"
)

// leafKeys calls do for every key of the configuration that is no table, with
// what sets it in a Config: the first of its tables, if there are several.
func leafKeys(of reflect.Type, path string, find func(*config.Config) reflect.Value, do func(key string, find func(*config.Config) reflect.Value)) {
	for i := range of.NumField() {
		field := of.Field(i)
		name, isKey := field.Tag.Lookup("toml")
		in := func(c *config.Config) reflect.Value { return find(c).Field(i) }
		switch {
		case !isKey, strings.HasSuffix(path+name, ".check"): // TestReloadChecks has these
		case field.Type.Kind() == reflect.Struct:
			leafKeys(field.Type, path+name+".", in, do)
		case field.Type.Kind() == reflect.Slice && field.Type.Elem().Kind() == reflect.Struct:
			first := func(c *config.Config) reflect.Value { return in(c).Index(0) }
			leafKeys(field.Type.Elem(), path+name+".", first, do)
		default:
			do(path+name, in)
		}
	}
}

// configured records what a log was told.
type configured struct{ config.Log }

func (c *configured) Configure(log config.Log) { c.Log = log }
func (c *configured) Trouble() error           { return nil }

// inForce writes what d does as configured.
func inForce(d *Daemon) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	logged, _ := json.Marshal(d.Logs.(*configured).Log)
	text := fmt.Sprintf("%s %v %v\n", logged, d.fullNames.Load(), d.rooms.checks)
	for _, address := range slices.SortedFunc(maps.Keys(d.services), func(a, b descriptor.Address) int { return slices.Compare(a[:], b[:]) }) {
		r := d.services[address]
		c := r.cfg
		if r.of != nil {
			text += fmt.Sprintln(r.shard, r.of.cfg.Token, r.of.visits)
		}
		text += fmt.Sprintln(address, c.Strategy.Name(), c.Ordinary, c.Room, c.FetchEvery, c.Keys.Reference, c.Keys.Form, c.Keys.Where, c.Clients, c.CAA, c.CAACritical, c.Visits, c.Avoid, c.Prefer)
		for _, i := range c.Instances {
			text += fmt.Sprintln(i.Name, i.Address, i.Weight, client(i.Client), i.Probe, i.Check, client(i.CheckClient))
		}
	}
	return text
}

// TestReloadEveryKey: each key of the configuration is in force after a reload,
// or the warnings name it as one that needs a restart.
func TestReloadEveryKey(t *testing.T) {
	dir := t.TempDir()
	writeKey(t, filepath.Join(dir, "a"), 1)
	writeKey(t, filepath.Join(dir, "b"), 2)
	clientKey, module := filepath.Join(dir, "c.auth_private"), filepath.Join(dir, "m.so")
	for path, content := range map[string]string{clientKey: strings.Repeat("a", 52), module: ""} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	clients := filepath.Join(dir, "clients")
	if err := os.Mkdir(clients, 0o700); err != nil {
		t.Fatal(err)
	}
	public, err := descriptor.ParseClientKey([]byte(strings.Repeat("a", 52)))
	if err != nil {
		t.Fatal(err)
	}
	auth := "descriptor:x25519:" + base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(publicKey(public))
	if err := os.WriteFile(filepath.Join(clients, "alice.auth"), []byte(auth), 0o600); err != nil {
		t.Fatal(err)
	}
	writeKey(t, filepath.Join(dir, "s1", "shop"), 3)
	writeKey(t, filepath.Join(dir, "s2", "shop"), 3)
	values := map[string]any{ // others than those that otherValue makes
		"service.key":                 filepath.Join(dir, "b"),
		"service.signing":             "pkcs11:token=t?module-path=" + module,
		"service.strategy":            "weighted",
		"service.profile":             config.ProfileOrdinary,
		"service.fetch_interval":      10 * time.Minute,
		"service.instance.client_key": clientKey,
		"service.clients":             clients,
		"service.caa":                 []string{`0 issue "ca.example"`},
		"service.points.avoid":        []string{"flag:Exit"},
		"service.points.prefer":       []string{"family:" + strings.Repeat("ab", 20), "flag:Stable"},
		"shard.name":                  "other",
		"shard.customers":             filepath.Join(dir, "s2"),
		"cluster.lease":               10 * time.Second,
		"cluster.reserve":             time.Hour,
		"cluster.endpoints":           []string{"unix:/run/e"},
		"cluster.standby.addresses":   []descriptor.Address{{1}},
		"shard.token":                 "pkcs11:token=t?module-path=" + module,
	}
	for key, value := range values {
		if ofShard := strings.Replace(key, "service.", "shard.", 1); ofShard != key {
			values[ofShard] = value
		}
	}
	simulated(t, func(t *testing.T, net *sim.Network) {
		base := parse(t, dir, torTable+service("a", net.AddInstance(sim.InstanceConfig{}))+shardOf("s1", net.AddInstance(sim.InstanceConfig{})))
		values["service.instance.address"] = net.AddInstance(sim.InstanceConfig{}).Address()
		values["shard.instance.address"] = net.AddInstance(sim.InstanceConfig{}).Address()
		values["check.canary"] = net.AddInstance(sim.InstanceConfig{}).Address().String()
		onSim(t, net, base, func(d *Daemon) {
			d.Logs = &configured{base.Log}
			seen := 0
			root := func(c *config.Config) reflect.Value { return reflect.ValueOf(c).Elem() }
			leafKeys(reflect.TypeFor[config.Config](), "", root, func(key string, find func(*config.Config) reflect.Value) {
				seen++
				before, changed := inForce(d), *base
				changed.Services = slices.Clone(base.Services)
				changed.Services[0].Instances = slices.Clone(base.Services[0].Instances)
				changed.Shards = slices.Clone(base.Shards)
				changed.Shards[0].Instances = slices.Clone(base.Shards[0].Instances)
				if value, ok := values[key]; ok {
					find(&changed).Set(reflect.ValueOf(value))
				} else {
					otherValue(t, key, find(&changed))
				}
				if err := d.Reload(&changed); err != nil {
					t.Fatalf("%s: %v", key, err)
				}
				named := slices.Contains(d.Snapshot().Warnings, key+" takes effect after a restart")
				if took := inForce(d) != before; named == took {
					t.Errorf("%s: in force is %t, named as one that needs a restart is %t", key, took, named)
				}
				if err := d.Reload(base); err != nil {
					t.Fatalf("after %s: %v", key, err)
				}
				if inForce(d) != before || len(d.Snapshot().Warnings) > 0 {
					t.Errorf("%s: with the first configuration again, in force is\n%s, want\n%s; warnings %q", key, inForce(d), before, d.Snapshot().Warnings)
				}
			})
			if seen < 20 {
				t.Errorf("only %d keys", seen)
			}
		})
	})
}

// TestReloadChecks: the tables of checks are in force after a reload, each where it
// stands.
func TestReloadChecks(t *testing.T) {
	dir := t.TempDir()
	writeKey(t, filepath.Join(dir, "a"), 1)
	clientKey := filepath.Join(dir, "c.auth_private")
	if err := os.WriteFile(clientKey, []byte(strings.Repeat("a", 52)), 0o600); err != nil {
		t.Fatal(err)
	}
	simulated(t, func(t *testing.T, net *sim.Network) {
		one, other := net.AddInstance(sim.InstanceConfig{}), net.AddInstance(sim.InstanceConfig{})
		plain := torTable + service("a", one)
		onSim(t, net, parse(t, dir, plain), func(d *Daemon) {
			d.Logs = new(configured)
			before := inForce(d)
			for _, check := range []string{
				"[check]\nkind = \"none\"\n" + plain,
				"[check]\nprobe = true\n" + plain,
				"[check]\npublic_interval = \"0s\"\n" + plain,
				plain + "[service.instance.check]\nfall = 7\n",
				plain + fmt.Sprintf("[service.instance.check]\naddress = %q\n", other.Address()),
				plain + fmt.Sprintf("[service.instance.check]\naddress = %q\nclient_key = %q\n", other.Address(), clientKey),
			} {
				last := inForce(d)
				if err := d.Reload(parse(t, dir, check)); err != nil {
					t.Fatal(err)
				}
				if inForce(d) == last {
					t.Errorf("not in force:\n%s", check)
				}
			}
			if err := d.Reload(parse(t, dir, plain)); err != nil || inForce(d) != before {
				t.Errorf("with the first configuration again: %v, in force is\n%s, want\n%s", err, inForce(d), before)
			}
		})
	})
}

func publicKey(k *descriptor.ClientKey) []byte {
	c := k.Client()
	return c.PublicKey[:]
}

// otherValue gives v another value than it has.
func otherValue(t *testing.T, key string, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.String:
		v.SetString(v.String() + "x")
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Int:
		v.SetInt(v.Int() + 1)
	case reflect.Float64:
		v.SetFloat(v.Float() + 1)
	case reflect.Slice:
		v.Set(reflect.Append(v, reflect.ValueOf("unix:/x")))
	default:
		t.Fatalf("%s is a %s: give it a value in this test", key, v.Kind())
	}
}
