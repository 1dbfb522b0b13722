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
	"onionbalancer/internal/status"
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

// restricted has the public address found by authorized clients alone, and an
// instance behind it by the daemon alone.
func (w *town) restricted(ctx context.Context, t *testing.T, d *Daemon, a descriptor.Address, text string) {
	dir := filepath.Join(w.Dir, "clients")
	alice := newClient(t, dir, "alice")
	newClient(t, dir, "bob")
	hidden := w.Instances[2]
	own := newClient(t, filepath.Join(hidden.Dir(), "authorized_clients"), "balancer")
	if err := os.WriteFile(filepath.Join(w.Dir, "web3.auth_private"), own.Text(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := hidden.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if err := hidden.Published(ctx); err != nil {
		t.Fatal(err)
	}
	const caa = `128 issue "ca.example;validationmethods=onion-csr-01"`
	text = strings.Replace(text, "\n[[service]]\n", "\n[[service]]\nclients = \"clients\"\ncaa = '"+caa+"'\n", 1)
	text = strings.Replace(text, hidden.Address()+"\"\n", hidden.Address()+"\"\n  client_key = \"web3.auth_private\"\n", 1)
	cfg := parse(t, w.Dir, text)
	published := func(what string, since time.Time, instances int) {
		t.Helper()
		for ; ; time.Sleep(50 * time.Millisecond) {
			s := d.Snapshot().Services[0]
			fresh := len(s.Descriptors) == 2 && !slices.ContainsFunc(s.Descriptors, func(e status.Descriptor) bool { return e.Built.Before(since) || e.Confirmed < len(e.Slots) })
			used := 0
			for _, i := range s.Instances {
				used += min(i.Published, 1)
			}
			if fresh && used == instances {
				return
			}
			if ctx.Err() != nil {
				t.Fatalf("%s: %+v", what, s)
			}
		}
	}
	changed := time.Now()
	if err := d.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	published("restricted", changed, 3)

	// The client's tor has the key in a file, as it would be handed to it: NEWNYM, after
	// which descriptors are fetched again, drops those that are not.
	authDir := filepath.Join(w.Dir, "alice")
	if err := os.Mkdir(authDir, 0o700); err != nil {
		t.Fatal(err)
	}
	line := a.Label() + ":descriptor:x25519:" + string(alice.Text()) + "\n"
	if err := os.WriteFile(filepath.Join(authDir, "a.auth_private"), []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	w.tell(t, lab.Client, "SETCONF ClientOnionAuthDir="+authDir, "SIGNAL NEWNYM")
	labtest.Reach(ctx, t, w.Lab, a.String(), 3)
	// tor may delay NEWNYM by ten seconds.
	shut := func(when, client string) {
		t.Helper()
		w.tell(t, client, "SIGNAL NEWNYM")
		for failed, n := 0, 0; failed < 2; n++ {
			visit, cancel := context.WithTimeout(ctx, 20*time.Second)
			_, err := w.Net.Client(client).Get(visit, fmt.Sprint(when, n), "http://"+a.String()+"/")
			cancel()
			if failed++; err == nil {
				failed = 0
			}
			if ctx.Err() != nil {
				t.Fatalf("%s: it is let in", when)
			}
		}
	}
	shut("a client without a key", lab.Manager)
	read := func(key *descriptor.ClientKey) (hsdir.FetchResult, error) {
		tor, c, stop, err := connect(ctx, cfg) // periods are short here
		if err != nil {
			return hsdir.FetchResult{}, err
		}
		defer stop()
		return fetch(ctx, newFetcher(tor), c, a, key)
	}
	if got, err := read(alice); err != nil || !got.Descriptor.CAACritical || len(got.Descriptor.CAA) != 1 || got.Descriptor.CAA[0].String() != caa {
		t.Errorf("with the key: %v", err)
	}
	if _, err := read(nil); !errors.Is(err, descriptor.ErrClientKey) {
		t.Errorf("without a key: %v", err)
	}

	changed = time.Now()
	if err := clients.Remove(dir, "alice"); err != nil {
		t.Fatal(err)
	}
	published("alice removed", changed, 3)
	t.Logf("all HSDirs have it %v after a client was removed", time.Since(changed).Round(time.Millisecond))
	if _, err := read(alice); !errors.Is(err, descriptor.ErrClientKey) {
		t.Errorf("with the key that was removed: %v", err)
	}
	shut("a client that was removed", lab.Client)

	changed = time.Now()
	if err := clients.Add(dir, clients.Client{Name: "alice", Key: alice.Client()}); err != nil {
		t.Fatal(err)
	}
	published("alice is back", changed, 3)
	w.tell(t, lab.Client, "SIGNAL NEWNYM")
	labtest.Reach(ctx, t, w.Lab, a.String(), 3)
}
