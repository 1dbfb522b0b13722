package daemon

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/clients"
	"onionbalancer/internal/config"
	"onionbalancer/internal/status"
	"onionbalancer/testnet"
	"onionbalancer/testnet/lab"
	"onionbalancer/testnet/lab/labtest"
)

// tell has the tor of a client do what commands say.
func (w *town) tell(t *testing.T, client string, commands ...string) {
	t.Helper()
	conn, err := textproto.Dial("tcp", w.Net.Client(client).ControlAddress())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cookie, err := os.ReadFile(filepath.Join(w.Net.Dir(), client, "control_auth_cookie"))
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range append([]string{"AUTHENTICATE " + hex.EncodeToString(cookie)}, commands...) {
		if err := conn.PrintfLine("%s", command); err != nil {
			t.Fatal(err)
		}
		if _, _, err := conn.ReadResponse(250); err != nil {
			t.Fatalf("%.20s: %v", command, err)
		}
	}
}

// newClient makes a client's key, and authorizes it in a directory.
func newClient(t *testing.T, dir, name string) *descriptor.ClientKey {
	t.Helper()
	key, err := descriptor.NewClientKey(rand.Reader)
	if err == nil {
		err = clients.Add(dir, clients.Client{Name: name, Key: key.Client()})
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// stranger is a client without keys: the manager's tor is handed one for its own visits.
const stranger = "stranger"

// restriction is a service of the town that is being restricted.
type restriction struct {
	*town
	t       *testing.T
	d       *Daemon
	address descriptor.Address
	cfg     *config.Config
}

// published waits until all HSDirs have descriptors for as many clients that were made
// after since, with points of all instances.
func (r restriction) published(ctx context.Context, what string, clients int, since time.Time) {
	r.t.Helper()
	for ; ; time.Sleep(50 * time.Millisecond) {
		s := r.d.Snapshot().Services[0]
		stale := slices.ContainsFunc(s.Descriptors, func(e status.Descriptor) bool { return e.Built.Before(since) || e.Confirmed < len(e.Slots) })
		idle := slices.ContainsFunc(s.Instances, func(i status.Instance) bool { return i.Published == 0 })
		if s.Clients == clients && len(s.Descriptors) == 2 && !stale && !idle {
			r.t.Logf("%s: all HSDirs have it after %v", what, time.Since(since).Round(time.Millisecond))
			return
		}
		if ctx.Err() != nil {
			r.t.Fatalf("%s: %+v", what, s)
		}
	}
}

// shut waits until a client is not answered twice in a row, after NEWNYM, which tor may
// delay by ten seconds.
func (r restriction) shut(ctx context.Context, when, client string) {
	r.t.Helper()
	r.tell(r.t, client, "SIGNAL NEWNYM")
	for failed, n := 0, 0; failed < 2; n++ {
		visit, cancel := context.WithTimeout(ctx, 20*time.Second)
		_, err := r.Net.Client(client).Get(visit, fmt.Sprint(when, n), "http://"+r.address.String()+"/")
		cancel()
		if failed++; err == nil {
			failed = 0
		}
		if ctx.Err() != nil {
			r.t.Fatalf("%s: it is let in", when)
		}
	}
}

// read fetches the public descriptor. While the period changes, tor asks for one and we
// expect another for a moment.
func (r restriction) read(ctx context.Context, key *descriptor.ClientKey) (got hsdir.FetchResult, err error) {
	for ; ; time.Sleep(time.Second) {
		got, err = r.readOnce(ctx, key)
		if !errors.Is(err, hsdir.ErrInvalid) && !errors.Is(err, hsdir.ErrNotFound) || ctx.Err() != nil {
			return got, err
		}
		r.t.Logf("reading again: %v", err)
	}
}

func (r restriction) readOnce(ctx context.Context, key *descriptor.ClientKey) (hsdir.FetchResult, error) {
	tor, c, stop, err := connect(ctx, r.cfg)
	if err != nil {
		return hsdir.FetchResult{}, err
	}
	defer stop()
	return fetch(ctx, newFetcher(tor), c, r.address, key)
}

// restrictInstance has an instance authorize the daemon alone, by the key in a file.
func (w *town) restrictInstance(ctx context.Context, t *testing.T, instance *testnet.Service, file string) {
	t.Helper()
	key := newClient(t, filepath.Join(instance.Dir(), "authorized_clients"), "balancer")
	err := os.WriteFile(filepath.Join(w.Dir, file), key.Text(), 0o600)
	if err == nil {
		err = instance.Restart(ctx)
	}
	if err == nil {
		err = instance.Published(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// restricted has the public address found by authorized clients alone, and an
// instance behind it by the daemon alone.
func (w *town) restricted(ctx context.Context, t *testing.T, d *Daemon, a descriptor.Address, text string) {
	dir, hidden := filepath.Join(w.Dir, "clients"), w.Instances[2]
	alice := newClient(t, dir, "alice")
	newClient(t, dir, "bob")
	w.restrictInstance(ctx, t, hidden, "web3.auth_private")
	const caa = `128 issue "ca.example;validationmethods=onion-csr-01"`
	text = strings.Replace(text, "\n[[service]]\n", "\n[[service]]\nclients = \"clients\"\ncaa = '"+caa+"'\n", 1)
	text = strings.Replace(text, hidden.Address()+"\"\n", hidden.Address()+"\"\n  client_key = \"web3.auth_private\"\n", 1)
	r := restriction{w, t, d, a, parse(t, w.Dir, text)}
	changed := time.Now()
	if err := d.Reload(r.cfg); err != nil {
		t.Fatal(err)
	}
	r.published(ctx, "restricted", 2, changed)

	// The client's tor has the key in a file, as it would be handed to it: NEWNYM, after
	// which descriptors are fetched again, drops those that are not.
	authDir := filepath.Join(w.Dir, "alice")
	line := a.Label() + ":descriptor:x25519:" + string(alice.Text()) + "\n"
	if err := errors.Join(os.Mkdir(authDir, 0o700), os.WriteFile(filepath.Join(authDir, "a.auth_private"), []byte(line), 0o600)); err != nil {
		t.Fatal(err)
	}
	w.tell(t, lab.Client, "SETCONF ClientOnionAuthDir="+authDir, "SIGNAL NEWNYM")
	labtest.Reach(ctx, t, w.Lab, a.String(), 3)
	t.Logf("alice reaches all instances %v after the change", time.Since(changed).Round(time.Second))
	r.shut(ctx, "a client without a key", stranger)
	t.Logf("a client without a key is not let in, %v after the change", time.Since(changed).Round(time.Second))
	if got, err := r.read(ctx, alice); err != nil || !got.Descriptor.CAACritical || len(got.Descriptor.CAA) != 1 || got.Descriptor.CAA[0].String() != caa {
		t.Errorf("with the key: %v", err)
	}
	if _, err := r.read(ctx, nil); !errors.Is(err, descriptor.ErrClientKey) {
		t.Errorf("without a key: %v", err)
	}

	changed = time.Now()
	if err := clients.Remove(dir, "alice"); err != nil {
		t.Fatal(err)
	}
	r.published(ctx, "alice removed", 1, changed)
	if _, err := r.read(ctx, alice); !errors.Is(err, descriptor.ErrClientKey) {
		t.Errorf("with the key that was removed: %v", err)
	}
	r.shut(ctx, "a client that was removed", lab.Client)

	changed = time.Now()
	if err := clients.Add(dir, clients.Client{Name: "alice", Key: alice.Client()}); err != nil {
		t.Fatal(err)
	}
	r.published(ctx, "alice is back", 2, changed)
	w.tell(t, lab.Client, "SIGNAL NEWNYM")
	labtest.Reach(ctx, t, w.Lab, a.String(), 3)
}
