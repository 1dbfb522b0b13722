package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/event"
	"onionbalancer/internal/status"
	"onionbalancer/testnet/sim"
)

// onShard runs do with a daemon of a shard s1 with the customers c1 to c5, and three spares.
func onShard(t *testing.T, do func(net *sim.Network, d *Daemon, customers []descriptor.Address, instances [2]*sim.Instance)) {
	dir := t.TempDir()
	customers, _ := makeShard(t, filepath.Join(dir, "s1"), 1, 5, 3)
	simulated(t, func(t *testing.T, net *sim.Network) {
		one, two := net.AddInstance(sim.InstanceConfig{}), net.AddInstance(sim.InstanceConfig{})
		time.Sleep(2 * time.Minute)
		onSim(t, net, parse(t, dir, torTable+shardOf("s1", one, two)), func(d *Daemon) {
			do(net, d, customers, [2]*sim.Instance{one, two})
		})
	})
}

// A shard's customers are numbers, and those that need attention have names.
func TestShardStatus(t *testing.T) {
	onShard(t, func(net *sim.Network, d *Daemon, customers []descriptor.Address, instances [2]*sim.Instance) {
		settle(5 * time.Minute)
		s := d.Snapshot()
		if len(s.Services) != 0 || len(s.Shards) != 1 {
			t.Fatalf("%d services and %d shards", len(s.Services), len(s.Shards))
		}
		got := s.Shards[0]
		if c := got.Customers; got.State != status.StateOK || c.OK != 5 || c.Active != 5 || c.Suspended != 0 || got.Spares != 3 || got.Lines != 8 {
			t.Errorf("%+v", got)
		}
		if len(got.Instances) != 2 || got.Instances[0].State != status.StateOK || got.Instances[0].Published == 0 || got.Oldest.IsZero() || got.Unconfirmed != 0 || got.Custody.Forms["tor"] != 5 {
			t.Errorf("%+v", got)
		}
		one, err := d.CustomerStatus("c3")
		if err != nil || one.Address != customers[2].String() || one.Service == nil || len(one.Service.Descriptors) == 0 {
			t.Errorf("%+v, %v", one, err)
		}
		if _, err := d.CustomerStatus("nobody"); err == nil || !strings.Contains(err.Error(), "there is no such customer") {
			t.Errorf("nobody: %v", err)
		}

		instances[0].SetOnline(false)
		settle(4 * time.Hour)
		got = d.Snapshot().Shards[0]
		if got.State != status.StateDegraded || got.Customers.OK != 5 || got.Needy != 0 {
			t.Errorf("with a dead instance: %+v", got)
		}
		instances[1].SetOnline(false)
		settle(4 * time.Hour)
		got = d.Snapshot().Shards[0]
		if got.State != status.StateFailed || got.Customers.Failed != 5 || got.Needy != 5 || len(got.Attention) != mostAttention || got.Attention[0].Customer[:1] != "c" {
			t.Errorf("with none: %+v", got)
		}
		if told := strings.Join(shardStates(t, d), " "); told != "ok degraded failed" {
			t.Errorf("told %s", told)
		}
		if raw, _ := json.Marshal(got); len(raw) > 4000 {
			t.Errorf("%d bytes: %s", len(raw), raw)
		}
	})
}

// A customer whose key cannot be used any more is one that failed, and is named.
func TestShardLeavesOut(t *testing.T) {
	dir := t.TempDir()
	makeShard(t, filepath.Join(dir, "s1"), 1, 2, 6)
	simulated(t, func(t *testing.T, net *sim.Network) {
		one := net.AddInstance(sim.InstanceConfig{})
		time.Sleep(2 * time.Minute)
		cfg := parse(t, dir, torTable+shardOf("s1", one))
		onSim(t, net, cfg, func(d *Daemon) { settle(time.Minute) })
		if err := os.WriteFile(filepath.Join(dir, "s1", "c2", "hs_ed25519_secret_key"), []byte("no key"), 0o600); err != nil {
			t.Fatal(err)
		}
		onSim(t, net, cfg, func(d *Daemon) {
			settle(5 * time.Minute)
			got := d.Snapshot().Shards[0]
			if got.State != status.StateDegraded || got.Customers.OK != 1 || got.Customers.Failed != 1 || got.Needy != 1 || len(got.Warnings) != 0 {
				t.Errorf("%+v", got)
			}
			if len(got.Attention) != 1 || got.Attention[0].Customer != "c2" || !strings.Contains(got.Attention[0].Text, "no form of key") {
				t.Errorf("%+v", got.Attention)
			}
			if c, err := d.CustomerStatus("c2"); err != nil || c.Service != nil || !strings.Contains(c.Error, "no form of key") {
				t.Errorf("%+v, %v", c, err)
			}
		})
	})
}

// What an operator says about an instance is about the shard, not about each customer.
func TestShardOrders(t *testing.T) {
	onShard(t, func(net *sim.Network, d *Daemon, customers []descriptor.Address, instances [2]*sim.Instance) {
		settle(5 * time.Minute)
		answer, err := d.Operate(t.Context(), status.Order{Word: "drain", Instance: "web1"})
		if err != nil || len(answer.Uses) != 1 || answer.Uses[0].Name() != "shard s1" || answer.Uses[0].Service != "" || len(answer.Notes) != 0 {
			t.Fatalf("%+v, %v", answer, err)
		}
		if drain := answer.Uses[0].Instance.Drain; drain == nil || drain.Customers != 5 || drain.Safe {
			t.Errorf("at once: %+v", drain)
		}
		_, err = d.Operate(t.Context(), status.Order{Word: "drain", Instance: "web2", Service: "s1"})
		if refused := (*status.RefusedError)(nil); !errors.As(err, &refused) || refused.Status != http.StatusConflict || !strings.Contains(refused.Reason, "last instance of shard s1") {
			t.Errorf("the last one: %v", err)
		}
		settle(5 * time.Minute)
		answer, err = d.InstanceStatus("web1", "s1")
		if err != nil {
			t.Fatal(err)
		}
		drain := answer.Uses[0].Instance.Drain
		if drain == nil || drain.Pending != 0 || drain.Customers != 0 || drain.Left.IsZero() || drain.SafeAt.Before(time.Now()) || drain.Safe {
			t.Errorf("five minutes later: %+v", drain)
		}
		for _, address := range customers {
			if one := d.services[address].Draining(instances[0].Address()); one.SafeAt.After(drain.SafeAt) {
				t.Errorf("safe at %s, and a customer's at %s", drain.SafeAt, one.SafeAt)
			}
		}
		d.events.flush(t.Context(), d.store)
		var told []string
		for _, e := range history(t, d.store) {
			if e.Kind == event.Operator {
				told = append(told, fmt.Sprint(e.Text, e.Service, e.Attrs["shard"], e.Attrs["instance"], e.Attrs["customers"]))
			}
		}
		if want := []string{"the operator's words1web1<nil>", "no HSDir that clients ask has introduction points of the instance any mores1web15"}; !slices.Equal(told, want) {
			t.Errorf("told %q, want %q", told, want)
		}
		settle(time.Until(drain.SafeAt) + time.Minute)
		if drain := d.Snapshot().Shards[0].Instances[0].Drain; drain == nil || !drain.Safe {
			t.Errorf("at last: %+v", drain)
		}
	})
}

// shardStates lists the states of the shard that the history tells.
func shardStates(t *testing.T, d *Daemon) (list []string) {
	d.events.flush(t.Context(), d.store)
	for _, e := range history(t, d.store) {
		if state, told := e.Attrs["state"]; told && e.Kind == event.Shard {
			list = append(list, fmt.Sprint(state))
		}
	}
	return list
}
