package main

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"onionbalancer/internal/status"
)

// drainOperator answers with its drains one after the other, the last again and again.
type drainOperator struct {
	orders []status.Order
	drains []*status.Drain
	other  bool // another service has it in service
	load   *status.Load
	err    error
}

func (o *drainOperator) Operate(_ context.Context, order status.Order) (status.Answer, error) {
	o.orders = append(o.orders, order)
	return o.InstanceStatus("", "")
}

func (o *drainOperator) InstanceStatus(string, string) (status.Answer, error) {
	d := o.drains[0]
	if len(o.drains) > 1 {
		o.drains = o.drains[1:]
	}
	admin := "drain"
	if d == nil {
		admin = "ready"
	}
	a := status.Answer{
		Address: "zkorpcle.onion", Admin: admin, Weight: "50%", Notes: []string{"a note"},
		Uses: []status.Use{{Service: "a.onion", Instance: status.Instance{Name: "web1", Drain: d, Load: o.load}}},
	}
	if o.other {
		a.Uses = append(a.Uses, status.Use{Service: "b.onion", Instance: status.Instance{Name: "web1"}})
	}
	return a, o.err
}

func (o *drainOperator) CustomerStatus(string) (status.Customer, error) {
	return status.Customer{}, o.err
}

func (o *drainOperator) EachCustomer(func(status.Published)) {}

func (o *drainOperator) Cluster() status.ClusterOperator { return nil }

func runOperate(t *testing.T, o *drainOperator, args ...string) (out string, err error) {
	t.Helper()
	dir, err := os.MkdirTemp("", "operate") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	serveOperator(t, path, status.Snapshot{}, o)
	var stdout, stderr bytes.Buffer
	root := newRootCommand()
	root.SetArgs(append(args, "--socket", path))
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	err = root.Execute()
	return stdout.String(), err
}

func TestDrainCommand(t *testing.T) {
	now := time.Now()
	pending := &status.Drain{Pending: 3}
	left := &status.Drain{Left: now, SafeAt: now.Add(3 * time.Hour)}
	safe := &status.Drain{Left: now, SafeAt: now, Safe: true}

	o := &drainOperator{drains: []*status.Drain{pending}}
	out, err := runOperate(t, o, "drain", "web1", "--force", "--service", "a.onion")
	want := "zkorpcle.onion is drain, weight 50%\n  web1 of a.onion: 3 HSDirs may still have its introduction points\n  note: a note\n"
	if err != nil || out != want || len(o.orders) != 1 || o.orders[0] != (status.Order{Word: "drain", Instance: "web1", Service: "a.onion", Force: true}) {
		t.Errorf("%v, %q, orders %+v", err, out, o.orders)
	}
	out, err = runOperate(t, &drainOperator{drains: []*status.Drain{left, left, safe}}, "maint", "web1", "--wait")
	if err != nil || !strings.HasSuffix(out, "\nweb1 can be stopped\n") || !strings.Contains(out, ", when no client has an older descriptor") {
		t.Errorf("waited: %v, %q", err, out)
	}
	out, err = runOperate(t, &drainOperator{drains: []*status.Drain{left}}, "drain", "web1", "--wait", "--timeout", "1ms")
	if err == nil || !strings.Contains(err.Error(), "zkorpcle.onion cannot be stopped without loss yet, and stays drain") {
		t.Errorf("no patience: %v, %q", err, out)
	}
	if _, err = runOperate(t, &drainOperator{drains: []*status.Drain{left, nil}}, "drain", "web1", "--wait"); err == nil || !strings.Contains(err.Error(), `set to "ready" meanwhile`) {
		t.Errorf("ready meanwhile: %v", err)
	}
	_, err = runOperate(t, &drainOperator{drains: []*status.Drain{safe}, other: true}, "drain", "web1", "--wait", "--timeout", "1ms")
	if err == nil || !strings.Contains(err.Error(), "b.onion: it is in service") {
		t.Errorf("in service elsewhere: %v", err)
	}
	out, err = runOperate(t, &drainOperator{drains: []*status.Drain{safe}}, "drain", "web1", "--wait", "--json")
	if err != nil || !strings.Contains(out, `"safe_to_stop": true`) || !strings.HasPrefix(out, "{") {
		t.Errorf("JSON: %v, %q", err, out)
	}
	_, err = runOperate(t, &drainOperator{drains: []*status.Drain{pending}, err: &status.RefusedError{Status: http.StatusConflict, Reason: "web1 is the last"}}, "drain", "web1", "--wait")
	if err == nil || err.Error() != "web1 is the last" {
		t.Errorf("refused: %v", err)
	}
	if _, err = runOperate(t, &drainOperator{}, "drain", "web1", "--timeout", "1h"); !errors.As(err, new(usageError)) {
		t.Errorf("a timeout without --wait: %v", err)
	}
	if _, err = runOperate(t, &drainOperator{}, "weight", "web1", "lots"); !errors.As(err, new(usageError)) {
		t.Errorf("no weight: %v", err)
	}
	o = &drainOperator{drains: []*status.Drain{nil}, load: &status.Load{Value: 0.75, Until: time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)}}
	out, err = runOperate(t, o, "load", "web1", "0.75", "--for", "1h")
	if err != nil || !strings.Contains(out, "web1 of a.onion: load 0.75 until 2026-11-20 09:00:00 UTC\n") || o.orders[0] != (status.Order{Word: "load", Instance: "web1", Load: "0.75", Seconds: 3600}) {
		t.Errorf("%v, %q, orders %+v", err, out, o.orders)
	}
	if out, err = runOperate(t, o, "load", "web1", "-"); err != nil || o.orders[1] != (status.Order{Word: "load", Instance: "web1", Load: "-", Seconds: 600}) {
		t.Errorf("%v, %q, orders %+v", err, out, o.orders)
	}
	for _, args := range [][]string{{"load", "web1", "lots"}, {"load", "web1", "1", "--for", "0s"}, {"load", "web1", "1", "--for=-1m"}} {
		if _, err = runOperate(t, &drainOperator{}, args...); !errors.As(err, new(usageError)) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func TestStatusShowsTheOperatorsWord(t *testing.T) {
	s := wellSnapshot()
	i := &s.Services[0].Instances[1]
	i.Admin, i.Said, i.Load = "maint", &status.Said{Weight: "50%"}, &status.Load{Value: 12}
	i.Drain = &status.Drain{Left: statusNow, SafeAt: statusNow.Add(4*time.Hour + 30*time.Minute)}
	out, _, err := statusOf(t, s)
	for _, line := range []string{
		"web1 ok 0 0 0 %",
		"web2 ok, maint, weight 50%, load 12 0 0 0 %",
		"maint no HSDir has its introduction points any more; it can be stopped at 2026-11-20 14:00 UTC, in 4 hours, when no client has an older descriptor",
	} {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), line) {
			t.Errorf("no line %q in\n%s (%v)", line, out, err)
		}
	}
}
