package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"onionbalancer/internal/hosting"
	"onionbalancer/internal/hosting/api"
	"onionbalancer/internal/hosting/api/apitest"
	"onionbalancer/internal/status"
)

// slowHost confirms nothing until it was asked a few times.
type slowHost struct {
	*apitest.Host
	patience int
}

func (h *slowHost) Add(ctx context.Context, name, shard, request string) (api.Detail, bool, error) {
	d, added, err := h.Host.Add(ctx, name, shard, request)
	d.Confirmed, d.Stored = time.Time{}, 3
	return d, added, err
}

func (h *slowHost) Customer(customer string) (api.Detail, error) {
	d, err := h.Host.Customer(customer)
	if h.patience--; h.patience >= 0 {
		d.Confirmed, d.Stored = time.Time{}, 3
	}
	return d, err
}

// customerSocket serves host, if there is one, as a daemon would.
func customerSocket(t *testing.T, host api.Host) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "customer") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	var handler http.Handler
	if host != nil {
		handler = api.Handler(host)
	}
	serveAll(t, path, status.Snapshot{}, nil, handler)
	return path
}

// runCustomer runs "balancer customer" with args.
func runCustomer(t *testing.T, socket string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, say bytes.Buffer
	root := newRootCommand()
	root.SetArgs(append(append([]string{"customer"}, args...), "--socket", socket))
	root.SetOut(&out)
	root.SetErr(&say)
	err = root.ExecuteContext(t.Context())
	return out.String(), say.String(), err
}

func TestCustomerCommands(t *testing.T) {
	host := &slowHost{Host: apitest.New(3, "s1", "s2")}
	socket := customerSocket(t, host)
	address := apitest.Address(1).String()
	for _, step := range []struct {
		args        string
		out, err    string // parts, an empty err for none
		stderr      string
		wholeOutput bool
	}{
		{args: "add shop --shard s2", out: address + "\n", wholeOutput: true, stderr: "shop is added, on the shard s2\n"},
		{args: "add shop", out: address + "\n", wholeOutput: true, stderr: "shop is there already, on the shard s2\n"},
		{args: "add shop --shard s1", err: "the name is taken"},
		{args: "add shop --shard s9", err: "the name is taken"},
		{args: "add blog --shard s9", err: "there is no such shard; there are s1, s2"},
		{args: "add blog --request-id r1 --json", out: `"request": "r1"`},
		{args: "add wiki --request-id r1", err: "used for something else"},
		{args: "add wiki --timeout 1m", err: "--timeout goes with --wait"},
		{args: "suspend shop", out: "shop is suspended, on the shard s2\n  " + address + "\n  withdrawn, confirmed at "},
		{args: "show shop", out: "state      suspended since "},
		{args: "resume " + address, out: "shop is active"},
		{args: "move shop s1", out: "shop is active, on the shard s1\n"},
		{args: "list", out: "name  shard  state   since"},
		{args: "list --name sh", out: "shop  s1     active  "},
		{args: "list --state suspended", out: "", wholeOutput: true},
		{args: "list --state gone", err: `there is no state "gone"`},
		{args: "remove shop", err: "--yes removes the customer without asking"},
		{args: "remove shop --yes", out: "note: no client has its introduction points any more from "},
		{args: "remove shop --yes", out: "shop is removed"},
		{args: "resume shop", err: "the customer was removed"},
		{args: "list --all", out: "shop  s1     removed  "},
		{args: "list --all --state active", err: "--all goes without --state"},
		{args: "show shop", out: "note       the replicas answer for it until they are restarted"},
		{args: "show nobody", err: "there is no such customer"},
		{args: "events", out: " added s2 shop: the customer was added\n"},
		{args: "events --json", out: `"kind":"removed","shard":"s1","customer":"shop"`},
	} {
		out, stderr, err := runCustomer(t, socket, strings.Fields(step.args)...)
		if step.err != "" {
			if err == nil || !strings.Contains(err.Error(), step.err) || out != "" {
				t.Errorf("%s: %v, %q", step.args, err, out)
			}
			continue
		}
		if err != nil || !strings.Contains(out, step.out) || step.wholeOutput && out != step.out || !strings.Contains(stderr, step.stderr) {
			t.Errorf("%s: %v, %q, %q; want %q, %q", step.args, err, out, stderr, step.out, step.stderr)
		}
	}
}

// The list is whole, however many pages it takes.
func TestCustomerListPages(t *testing.T) {
	host := apitest.New(1100, "s1")
	for n := range 1100 {
		if _, _, err := host.Add(t.Context(), fmt.Sprintf("c%04d", n), "", ""); err != nil {
			t.Fatal(err)
		}
	}
	out, _, err := runCustomer(t, customerSocket(t, host), "list", "--json")
	var list struct{ Customers []hosting.Customer }
	if err != nil || json.Unmarshal([]byte(out), &list) != nil || len(list.Customers) != 1100 {
		t.Errorf("%d customers, %v", len(list.Customers), err)
	}
}

func TestCustomerWait(t *testing.T) {
	host := &slowHost{Host: apitest.New(3, "s1"), patience: 1}
	socket := customerSocket(t, host)
	out, stderr, err := runCustomer(t, socket, "add", "shop", "--wait")
	if err != nil || out != apitest.Address(1).String()+"\n" || !strings.Contains(stderr, "shop: 6 introduction points, 3 of 16 HSDirs have it so far\n") || !strings.HasSuffix(stderr, "shop: confirmed\n") {
		t.Errorf("%v, %q, %q", err, out, stderr)
	}
	host.patience = 1 << 30
	if _, _, err := runCustomer(t, socket, "add", "shop", "--wait", "--timeout", "1ms"); err == nil || !strings.Contains(err.Error(), "shop is active, but HSDirs have not confirmed it yet") {
		t.Errorf("no patience: %v", err)
	}
}

// unpreparedHost has shards whose replicas know none of the others' addresses.
type unpreparedHost struct{ *apitest.Host }

func (h unpreparedHost) Change(_ context.Context, customer string, change api.Change) (api.Detail, error) {
	d, err := h.Customer(customer)
	d.MovingTo, d.Notes = change.Shard, []string{"refill it first"}
	return d, err
}

// Nothing is waited for where a move cannot be made yet, and it is no success.
func TestCustomerMoveNotYet(t *testing.T) {
	host := unpreparedHost{apitest.New(3, "s1", "s2")}
	socket := customerSocket(t, host)
	if _, _, err := runCustomer(t, socket, "add", "shop", "--shard", "s1"); err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{"--json=false", "--json"} {
		out, stderr, err := runCustomer(t, socket, "move", "shop", "s2", "--wait", form)
		if err == nil || !strings.Contains(err.Error(), "shop is not on the shard s2 yet") || !strings.Contains(out, "refill it first") || strings.Contains(stderr, "confirmed") {
			t.Errorf("%s: %v, %q, %q", form, err, out, stderr)
		}
	}
	if _, _, err := runCustomer(t, socket, "move", "shop", "s2"); err != nil {
		t.Errorf("without waiting: %v", err)
	}
}

// Who answers nothing, or knows nothing of customers, is told from one who refuses.
func TestCustomerErrors(t *testing.T) {
	if _, _, err := runCustomer(t, filepath.Join(t.TempDir(), "none"), "list"); err == nil || !strings.Contains(err.Error(), "is it running?") {
		t.Errorf("nobody runs: %v", err)
	}
	if _, _, err := runCustomer(t, filepath.Join(t.TempDir(), "none"), "events", "--follow"); err == nil || !strings.Contains(err.Error(), "is it running?") {
		t.Errorf("nobody runs, followed: %v", err)
	}
	if _, _, err := runCustomer(t, customerSocket(t, nil), "add", "shop"); !errors.Is(err, api.ErrNone) {
		t.Errorf("an older balancer: %v", err)
	}
	if _, _, err := runCustomer(t, customerSocket(t, apitest.New(0)), "add", "shop"); err == nil || !strings.Contains(err.Error(), "no [[shard]]") {
		t.Errorf("no shards: %v", err)
	}
	host := apitest.New(1, "s1")
	host.Err = errors.New("no space left on device")
	if _, _, err := runCustomer(t, customerSocket(t, host), "add", "shop"); err == nil || err.Error() != "no space left on device" {
		t.Errorf("a full disk: %v", err)
	}
}
