package daemon

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/clients"
	"onionbalancer/internal/status"
	"onionbalancer/testnet/sim"
)

// TestClientsAtRunTime: the files of authorized clients are in force seconds after they
// changed, without a reload; and when they cannot be, the last good ones stay.
func TestClientsAtRunTime(t *testing.T) {
	dir := t.TempDir()
	a := writeKey(t, filepath.Join(dir, "a"), 1)
	place := filepath.Join(dir, "clients")
	keys := map[string]*descriptor.ClientKey{}
	add := func(name string) {
		t.Helper()
		key, err := descriptor.NewClientKey(rand.Reader)
		if err == nil {
			err = clients.Add(place, clients.Client{Name: name, Key: key.Client()})
		}
		if err != nil {
			t.Fatal(err)
		}
		keys[name] = key
	}
	remove := func(name string) {
		t.Helper()
		if err := clients.Remove(place, name); err != nil {
			t.Fatal(err)
		}
	}
	add("alice")
	simulated(t, func(t *testing.T, net *sim.Network) {
		one := net.AddInstance(sim.InstanceConfig{})
		time.Sleep(2 * time.Minute)
		text := torTable + strings.Replace(service("a", one), "\n", "\nclients = \"clients\"\n", 1)
		onSim(t, net, parse(t, dir, text), func(d *Daemon) {
			// in is who reads what the HSDirs have ten seconds later, and nobody else does.
			in := func(when string, wanted ...string) {
				t.Helper()
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if r := net.NewClient(a, sim.ClientConfig{}).Request(); r.Err == nil {
					t.Errorf("%s: everybody is let in", when)
				}
				for name, key := range keys {
					if r := net.NewClient(a, sim.ClientConfig{Key: key}).Request(); (r.Err == nil) != slices.Contains(wanted, name) {
						t.Errorf("%s: %s: %v", when, name, r.Err)
					}
				}
				if got := d.Snapshot().Services[0].Clients; got != len(wanted) {
					t.Errorf("%s: the status has %d clients", when, got)
				}
			}
			warned := func(when, want string) {
				t.Helper()
				s := d.Snapshot().Services[0]
				if got := strings.Join(s.Warnings, "\n"); want == "" && got != "" || !strings.Contains(got, want) || want != "" && s.State != status.StateDegraded {
					t.Errorf("%s: %s, %q, want %q", when, s.State, got, want)
				}
			}
			time.Sleep(time.Minute)
			in("at first", "alice")
			posts := net.Tor().Counts().Posts
			in("nothing changed", "alice")
			if n := net.Tor().Counts().Posts - posts; n != 0 {
				t.Errorf("%d uploads without a change", n)
			}
			add("bob")
			in("bob added", "alice", "bob")
			remove("alice")
			in("alice removed", "bob")
			warned("alice removed", "")
			if got := d.Snapshot().Services[0].Descriptors[0].Reason; got != "authorized clients changed" {
				t.Errorf("because %q", got)
			}

			bad := clients.Path(place, "mallory")
			if err := os.WriteFile(bad, []byte("descriptor:x25519:short"), 0o600); err != nil {
				t.Fatal(err)
			}
			add("carol")
			in("a broken file", "bob")
			warned("a broken file", "mallory.auth")
			warnings := d.events.Counts()["warning"]
			in("a broken file, later", "bob")
			if n := d.events.Counts()["warning"] - warnings; n != 0 {
				t.Errorf("%d more warnings", n)
			}
			if err := os.Remove(bad); err != nil {
				t.Fatal(err)
			}
			in("repaired", "bob", "carol")
			warned("repaired", "")

			remove("bob")
			remove("carol")
			in("emptied", "bob", "carol")
			warned("emptied", "no .auth file in "+place)
			if err := os.Remove(place); err != nil {
				t.Fatal(err)
			}
			in("no directory", "bob", "carol")
			warned("no directory", "no such file or directory")
			if err := d.Reload(parse(t, dir, text)); err == nil {
				t.Error("a reload without clients")
			}
			in("after a refused reload", "bob", "carol")
			add("dave")
			in("dave alone", "dave")

			crowd := new(descriptor.Contents).MaxClients(0)
			for n := range crowd {
				key := descriptor.AuthorizedClient{PublicKey: [32]byte{byte(n), byte(n>>8) + 2}}
				if err := os.WriteFile(clients.Path(place, fmt.Sprint("a", n)), []byte(key.String()), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			in("one too many", "dave")
			warned("one too many", fmt.Sprintf("there is no room for a%d", 99)) // the last by name
			for n := range crowd {
				if err := os.Remove(clients.Path(place, fmt.Sprint("a", n))); err != nil {
					t.Fatal(err)
				}
			}
			in("room again", "dave")
			warned("room again", "")

			// After a reload the directory is another one, and then there is none.
			other := filepath.Join(dir, "other")
			if err := errors.Join(os.Rename(place, other), d.Reload(parse(t, dir, strings.Replace(text, `"clients"`, `"other"`, 1)))); err != nil {
				t.Fatal(err)
			}
			place = other
			in("moved", "dave")
			add("erin")
			in("added where it moved to", "dave", "erin")
			if err := d.Reload(parse(t, dir, torTable+service("a", one))); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
			if r := net.NewClient(a, sim.ClientConfig{}).Request(); r.Err != nil || len(d.clients) != 0 {
				t.Errorf("for everybody: %v, %d directories followed", r.Err, len(d.clients))
			}
		})
	})
}
